"""The moving average of the weights, and checkpoints from which a run resumes exactly.

A checkpoint holds weights, running statistics, their moving averages, optimiser, schedule and, for fp16, the gradient
scaler; and the arguments and hashes of rows and initial weights, so that only the same run can resume from it. It is
written under another name and renamed; then the previous one is removed.
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
    Exponential moving average, `mean = d · mean + (1 − d) · value` with `d = min(decay, (1 + step) / (10 + step))`.

    Args:
        values: trained weights and running statistics, by name.
        decay: upper limit of d.
    """

    def __init__(self, values: dict[str, Tensor], decay: float):
        self.values, self.decay = values, decay
        self.shadow = {name: v.detach().clone() for name, v in values.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Include the present values."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, v in self.values.items():
            self.shadow[name].lerp_(v.detach(), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's values with their averages; a second call undoes it."""
        for name, v in self.values.items():
            v.data, self.shadow[name] = self.shadow[name], v.data


class Checkpoints:
    """A run's newest checkpoint and, in a separate file, its best weights."""

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
        """Write a checkpoint of `state["step"]`, then remove older ones and the weights of earlier best steps."""
        final = self.folder / f"checkpoint-{state['step']}"
        with whole_folder(final, replace=True) as part:
            _save_tensors(self.values, part / "weights.safetensors")
            _save_tensors(self.ema.shadow, part / "ema.safetensors")
            buffer = BytesIO()  # to a full disk, torch.save fails with a message that doesn't say so
            torch.save({name: of.state_dict() for name, of in self.training.items()}, buffer)
            (part / "training.pt").write_bytes(buffer.getbuffer())
            write_json(part / "state.json", state)
        for other in self._folders():
            if other != final:
                remove_folder(other)
        best = state["best"] and self._best_file(state["best"]["step"])
        for file in self.folder.glob("best-*.safetensors"):
            if file != best:
                file.unlink()

    def load(self, arguments: dict[str, Any], made_of: dict[str, str]) -> dict[str, Any]:
        """
        Restore the newest checkpoint and return its state; [`NEW_RUN`] if there is none.

        Args:
            arguments: the settings that the result depends on.
            made_of: hashes of what else it depends on, by name.

        Raises `ValueError` if the checkpoint is of a run with other arguments or hashes (it names these), or damaged
        (it names the file).
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
                f"{newest} is of a run with another {', '.join(changed)}: resume with the same value, choose another "
                "`output_dir`, or start over with `--no_resume`"
            )
        others = [name for name in {**made_before, **made_of} if made_before.get(name) != made_of.get(name)]
        if others:
            raise ValueError(
                f"{newest} is of a run in which other content was used for: {', '.join(others)}. Resume with the same, "
                "choose another `output_dir`, or start over with `--no_resume`"
            )
        self._restore(newest / "weights.safetensors")
        means = _load_tensors(newest / "ema.safetensors", self.ema.shadow)
        for name, mean in self.ema.shadow.items():
            mean.copy_(means[name])  # in place, to keep the memory format, on which rounding depends
        try:
            check_is_file(newest / "training.pt")
            training = torch.load(newest / "training.pt", weights_only=True, map_location="cpu")
            for name, part in self.training.items():
                part.load_state_dict(training[name])
            self._check_optimizer_shapes()
        except Exception as error:  # torch's readers raise many kinds for a damaged file
            if "weights_only" in str(error):  # torch's message advises to execute the file's content
                error = ValueError("it holds other objects than tensors and numbers")
            raise _damaged_file(newest / "training.pt", newest, error) from error
        if state["best"] is not None:  # to find damage now rather than after the last step
            best = self._best_file(state["best"]["step"])
            _load_tensors(best, self.values, checkpoint=newest)
        return state

    def _check_optimizer_shapes(self) -> None:
        for parameter, means in self.training["optimizer"].state.items():
            for name, value in means.items():
                if value.ndim and value.shape != parameter.shape:
                    raise ValueError(f"{name} of a weight {tuple(parameter.shape)} is {tuple(value.shape)}")

    def save_best(self, step: int) -> None:
        with whole_file(self._best_file(step)) as part:
            _save_tensors(self.values, part)

    def load_best(self, step: int) -> None:
        self._restore(self._best_file(step))

    def _best_file(self, step: int) -> Path:
        return self.folder / f"best-{step}.safetensors"

    def _restore(self, path: Path) -> None:
        self.model.load_state_dict(_load_tensors(path, self.values), strict=False)

    def _folders(self) -> list[Path]:
        found = [f for f in self.folder.iterdir() if re.fullmatch(r"checkpoint-\d+", f.name) and f.is_dir()]
        return sorted(found, key=_step_of)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, path)


def _load_tensors(path: Path, like: dict[str, Tensor], checkpoint: Path | None = None) -> dict[str, Tensor]:
    """A file's tensors; `ValueError` if it is damaged, or names or shapes differ from those of `like`."""
    try:
        check_is_file(path)
        saved = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged_file(path, checkpoint or path.parent, error) from error
    wrong = sorted(set(saved) ^ set(like)) or [name for name in like if saved[name].shape != like[name].shape]
    if wrong:
        raise ValueError(
            f"{path} was written with another configuration; these weights differ: {', '.join(wrong[:3])}"
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
        raise _damaged_file(path, folder, error) from error
    if not right:
        raise _damaged_file(path, folder, ValueError("its values are not a run's state"))
    return state


def _damaged_file(path: Path, checkpoint: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ValueError(
        f"{path} is damaged ({type(error).__name__}: {reason}): remove {checkpoint}, and the same command starts over"
    )
