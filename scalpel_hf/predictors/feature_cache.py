"""The frozen features of a teacher's encoder, computed once per frame and view and kept on disk.

Only the encoder's last blocks (or none) are trained, so everything before them gives the same activations at every
step. `FrozenFeatures` says which modules those are; `FeatureCache` keeps their output, one memory-mapped file an entry.
"""

import hashlib
import json
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scalpel_hf.adapter.call import link_frames
from scalpel_hf.adapter.families import State, base_of, family_of, input_size
from scalpel_hf.utils.files import remove_leftovers, whole_file

HEADER_BYTES = 128  # of a .npy file
# What a saved and a fresh configuration of the same encoder may differ in.
INCIDENTAL = ("_name_or_path", "architectures", "dtype", "transformers_version")


class FrozenFeatures:
    """
    The longest run of an encoder's stages, from the first on, in which nothing is trained or adapted.

    The stages are the embedding of patches, the encoder's blocks (MobileSAM's layers; EdgeTAM's encoder is one stage)
    and the neck.

    Args:
        model: a Segment Anything model, adapted or not, or a `PeftModel` around one.

    Attributes: `length`, the number of frozen stages, and `names`, their module names.
    """

    def __init__(self, model: nn.Module):
        base = base_of(model)
        self.family, self.encoder, self.input_size = family_of(base), base.vision_encoder, input_size(base)
        self.config = _without_incidental(base.config.vision_config.to_dict())
        self.stages = self.family.stages(base)
        frozen = takewhile(lambda stage: not any(map(_trains, stage.parts)), self.stages)
        self.names = [stage.name for stage in frozen]
        self.length = len(self.names)
        if self.length == 0:
            raise ValueError(
                "the encoder is trained from its first layer on, so none of its features are frozen: "
                f"{type(base).__name__} can be taken apart at {', '.join(stage.name for stage in self.stages)}; adapt "
                "later `blocks`, or leave `token` out of `levels`"
            )
        self.dtype = next(self.encoder.parameters()).dtype

    def states(self, pixel_values: Tensor) -> Tensor:
        """
        What the last frozen stage gives for SAM's input `(B, 3, S, S)`, without gradients.

        Where the rest of the encoder needs several maps, they are one row `(B, N)` an image.
        """
        if any(m.training and isinstance(m, nn.BatchNorm2d) for part in self._modules() for m in part.modules()):
            raise ValueError("the frozen stages have batch norms in training mode: call `model.eval()`")
        with torch.no_grad():
            maps = self._run((pixel_values.to(self.dtype),), 0, self.length)
        return maps[0] if len(maps) == 1 else torch.cat([part.flatten(1) for part in maps], 1)

    def embeddings(self, states: Tensor, frames: Tensor, frame_boxes: Tensor) -> Any:
        """Image embeddings from the frozen features, as the model's `get_image_embeddings` gives them: a tensor
        `(B, 256, S/16, S/16)`, or one with others. They are linked to their frames."""
        states = states.to(self.dtype)
        if states.ndim == 2:
            parts = states.split([shape.numel() for shape in self._shapes], 1)
            maps = tuple(part.unflatten(1, shape) for part, shape in zip(parts, self._shapes, strict=True))
        else:
            maps = (states,)
        maps = self._run(maps, self.length, len(self.stages))
        # A wholly frozen encoder gives back its input, which the caller may hold on to: link tensors of our own.
        embeddings = self.family.embeddings(tuple(part.view_as(part) for part in maps))
        link_frames(embeddings, frames, frame_boxes, self.input_size)
        return embeddings

    @cached_property
    def _shapes(self) -> list[torch.Size]:
        """Of the maps that the last frozen stage gives, of one image."""
        blank = torch.zeros(1, 3, self.input_size, self.input_size, dtype=self.dtype, device=self.device)
        with torch.no_grad():
            return [part.shape[1:] for part in self._run((blank,), 0, self.length)]

    @property
    def device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    def _run(self, state: State, start: int, stop: int) -> State:
        for stage in self.stages[start:stop]:
            state = stage.run(state)
        return state

    def _modules(self) -> list[nn.Module]:
        return [part for stage in self.stages[: self.length] for part in stage.parts if isinstance(part, nn.Module)]

    def fingerprint(self) -> str:
        """Hash of the frozen stages' weights, buffers and number, and of the encoder's configuration and input size."""
        digest = hashlib.sha256(f"{json.dumps(self.config, sort_keys=True, default=str)} {self.names}".encode())
        tensors = [t for module in self._modules() for t in module.state_dict().values()]
        parts = [part for stage in self.stages[: self.length] for part in stage.parts]
        tensors += [part.detach() for part in parts if isinstance(part, nn.Parameter)]
        for tensor in tensors:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.float().numpy(force=True).tobytes())  # exact for every dtype of weights
        return digest.hexdigest()


def _without_incidental(config: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in INCIDENTAL}
    return {key: _without_incidental(value) if isinstance(value, dict) else value for key, value in kept.items()}


def _trains(part: nn.Module | nn.Parameter) -> bool:
    if isinstance(part, nn.Parameter):
        return part.requires_grad
    return any(p.requires_grad for p in part.parameters()) or any(hasattr(m, "base_layer") for m in part.modules())


class FeatureCache:
    """
    Frozen features on disk.

    An entry's name is a hash of the frozen stages (weights and input size) and of SAM's input itself, so that another
    model, size, preprocessing or view is another entry and a stale one can't be read.

    Args:
        frozen: what gives them.
        folder: where; created when missing.
        dtype: `float16` (half the size) or `float32` (exact).
        max_bytes: entries that would make the folder larger are not written (they are computed each time); `None` for
            no bound.
    """

    def __init__(
        self, frozen: FrozenFeatures, folder: str | Path, dtype: str = "float16", max_bytes: int | None = None
    ):
        if dtype not in ("float16", "float32"):
            raise ValueError(f"the cache keeps `float16` or `float32`, not {dtype!r}")
        self.frozen, self.folder, self.dtype, self.max_bytes = frozen, Path(folder), dtype, max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder / "entry", r"[0-9a-f]+\.npy")
        self._frozen_key = frozen.fingerprint()

    def key(self, pixel_values: Tensor) -> str:
        """Name of the entry of one input `(3, S, S)`."""
        digest = hashlib.sha256(f"{self._frozen_key} {self.dtype} {tuple(pixel_values.shape)}".encode())
        digest.update(np.ascontiguousarray(pixel_values.float().numpy(force=True)).tobytes())
        return digest.hexdigest()[:40]

    def path(self, key: str) -> Path:
        return self.folder / f"{key}.npy"

    def load(self, key: str) -> Tensor | None:
        """The activations of an entry, `(C, h, w)`, `(h, w, C)` or `(N,)`, `None` when it is absent or damaged."""
        try:
            array = np.load(self.path(key), mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):  # truncated: numpy's header promises more than there is
            return None
        return torch.from_numpy(np.array(array, dtype=np.float32))

    def store(self, key: str, states: Tensor) -> None:
        """Write an entry, whole or not at all."""
        with np.errstate(over="ignore"):
            array = states.float().numpy(force=True).astype(self.dtype)
        if not np.isfinite(array).all():
            raise ValueError(
                f"the frozen stages give activations up to {states.abs().max():g}, which {self.dtype} can't hold: "
                "keep them as float32 (`feature_cache_dtype`), and check the weights if it is that already"
            )
        if self.max_bytes is not None and self._used() + array.nbytes + HEADER_BYTES > self.max_bytes:
            return
        with whole_file(self.path(key), sweep=False) as part, open(part, "wb") as file:
            np.save(file, array, allow_pickle=False)

    def _used(self) -> int:
        """Bytes in the folder, those of other processes too."""
        return sum(file.stat().st_size for file in self.folder.glob("*.npy"))

    def get(self, pixel_values: Tensor) -> Tensor:
        """Activations of one input `(3, S, S)`: from disk, or computed and kept."""
        key = self.key(pixel_values)
        states = self.load(key)
        if states is None:
            states = self.frozen.states(pixel_values[None].to(self.frozen.device))[0].cpu()
            self.store(key, states)
            states = states.to(getattr(torch, self.dtype)).float()  # the same values whether read back or not
        return states
