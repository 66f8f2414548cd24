"""The running mean of what trains, and checkpoints from which a run resumes as if it had not been broken off.

A checkpoint holds weights, running statistics, their means, optimiser, schedule and, where there is one, the scale of
half-precision gradients, and says of which arguments, rows and first weights it is. It is written under another name
and renamed, and only then the one before it is removed.
"""

import math
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from scalpel_hf.utils.files import remove_folder, remove_leftovers, whole_file, whole_folder, write_json
from scalpel_hf.utils.reading import check_is_file, read_json

NEW_RUN: dict[str, Any] = {"step": 0, "seconds": 0.0, "best": None, "last": {}}


class Ema:
    """
    Running mean of what trains, `mean = d · mean + (1 − d) · value`, with a d that starts low.

    Args:
        values: weights by name, and the running statistics that go with them where there are any.
        decay: the d that it rises to.
    """

    def __init__(self, values: dict[str, Tensor], decay: float):
        self.values, self.decay = values, decay
        self.shadow = {name: v.detach().clone() for name, v in values.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, v in self.values.items():
            self.shadow[name].lerp_(v.detach(), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the values with their means; a second call undoes it."""
        for name, v in self.values.items():
            v.data, self.shadow[name] = self.shadow[name], v.data


class Checkpoints:
    """The newest checkpoint of a run and, apart from it, the best weights so far."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        values: dict[str, Tensor],
        ema: Ema,
        optimizer: torch.optim.Optimizer,
        scheduler: LambdaLR,
        scaler: torch.amp.GradScaler | None = None,
    ):
        self.folder = folder
        self.model, self.values, self.ema = model, values, ema
        self.training: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler}
        if scaler is not None:
            self.training["scaler"] = scaler
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder / "any", r"checkpoint-\d+|best-\d+\.safetensors")

    def save(self, state: dict[str, Any]) -> None:
        final = self.folder / f"checkpoint-{state['step']}"
        with whole_folder(final, replace=True) as part:
            _save_tensors(self.values, part / "weights.safetensors")
            _save_tensors(self.ema.shadow, part / "ema.safetensors")
            buffer = BytesIO()  # of a full disk, torch's own writer says "unexpected pos 64 vs 0" or the like
            torch.save({name: of.state_dict() for name, of in self.training.items()}, buffer)
            (part / "training.pt").write_bytes(buffer.getbuffer())
            write_json(part / "state.json", state)
        for other in self._folders():
            if other != final:
                remove_folder(other)
        best = state["best"] and self._best(state["best"]["step"])
        for file in self.folder.glob("best-*.safetensors"):
            if file != best:
                file.unlink()

    def load(self, arguments: dict[str, Any], made_of: dict[str, str]) -> dict[str, Any]:
        """
        Restore the newest checkpoint and return its state; [`NEW_RUN`] where there is none.

        Raises `ValueError` that names the difference if it is of other arguments, rows or first weights, or the file
        that is damaged.
        """
        folders = self._folders()
        if not folders:
            return NEW_RUN
        newest = folders[-1]
        state = _read_state(newest)
        before, made_before = state["arguments"], state["made_of"]
        changed = [f"{k} ({before[k]!r}, now {arguments.get(k)!r})" for k in before if before[k] != arguments.get(k)]
        if changed:
            raise ValueError(
                f"{newest} is of a run with another {', '.join(changed)}: resume with the same, choose another "
                "`output_dir`, or start over with `--no_resume`"
            )
        others = [name for name in {**made_before, **made_of} if made_before.get(name) != made_of.get(name)]
        if others:
            raise ValueError(
                f"{newest} is of a run with another content of: {', '.join(others)}. Resume with what it was made of, "
                "choose another `output_dir`, or start over with `--no_resume`"
            )
        self._restore(newest / "weights.safetensors")
        means = _load_tensors(newest / "ema.safetensors", self.ema.shadow)
        for name, mean in self.ema.shadow.items():
            mean.copy_(means[name])  # in place: the memory format has a say in how results are rounded
        try:
            check_is_file(newest / "training.pt")
            training = torch.load(newest / "training.pt", weights_only=True, map_location="cpu")
            for name, part in self.training.items():
                part.load_state_dict(training[name])
            self._check_shapes()
        except Exception as error:  # whatever a file that is none makes of torch's readers
            if "weights_only" in str(error):  # whose advice is to run what is in it
                error = ValueError("it holds something else than tensors and numbers")
            raise _damaged(newest / "training.pt", newest, error) from error
        if state["best"] is not None:  # an error now rather than after the last step
            best = self._best(state["best"]["step"])
            _load_tensors(best, self.values, checkpoint=newest)
        return state

    def _check_shapes(self) -> None:
        for parameter, means in self.training["optimizer"].state.items():
            for name, value in means.items():
                if value.ndim and value.shape != parameter.shape:
                    raise ValueError(f"{name} of a weight {tuple(parameter.shape)} is {tuple(value.shape)}")

    def save_best(self, step: int) -> None:
        with whole_file(self._best(step)) as part:
            _save_tensors(self.values, part)

    def load_best(self, step: int) -> None:
        self._restore(self._best(step))

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step}.safetensors"

    def _restore(self, path: Path) -> None:
        self.model.load_state_dict(_load_tensors(path, self.values), strict=False)

    def _folders(self) -> list[Path]:
        found = [f for f in self.folder.iterdir() if re.fullmatch(r"checkpoint-\d+", f.name) and f.is_dir()]
        return sorted(found, key=_step_of)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, path)


def _load_tensors(path: Path, like: dict[str, Tensor], checkpoint: Path | None = None) -> dict[str, Tensor]:
    """A file's tensors; `ValueError` unless it is whole and they are those of `like` by name and shape."""
    try:
        check_is_file(path)
        saved = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path, checkpoint or path.parent, error) from error
    wrong = sorted(set(saved) ^ set(like)) or [name for name in like if saved[name].shape != like[name].shape]
    if wrong:
        raise ValueError(
            f"{path} was written by another configuration, which differs in {', '.join(wrong[:3])}"
            f"{' …' if len(wrong) > 3 else ''}: choose another `output_dir`, or start over with `--no_resume`"
        )
    return saved


def _step_of(folder: Path) -> int:
    return int(folder.name.split("-")[1])


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / "state.json"
    try:
        state = read_json(path)
        best = state["best"]
        right = (
            (state["step"], type(state["step"])) == (_step_of(folder), int)
            and math.isfinite(state["seconds"])
            and (best is None or (isinstance(best["step"], int) and isinstance(best["metrics"], dict)))
            and all(isinstance(state[name], dict) for name in ("last", "arguments", "made_of"))
        )
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise _damaged(path, folder, error) from error
    if not right:
        raise _damaged(path, folder, ValueError("its values are not those of a run's state"))
    return state


def _damaged(path: Path, checkpoint: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(
        f"{path} is damaged ({type(error).__name__}: {reason}): remove {checkpoint}, and the same command starts anew"
    )
