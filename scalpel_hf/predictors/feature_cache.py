"""A disk cache for the activations of the encoder's frozen layers.

Only the encoder's last blocks (or none) are trained, so the layers before them give the same activations at every step.
`FrozenFeatures` finds and runs these layers; `FeatureCache` stores their output, one .npy file for each input.
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
# Fields of an encoder's configuration that its activations don't depend on.
IRRELEVANT_FIELDS = ("_name_or_path", "architectures", "dtype", "transformers_version")


class FrozenFeatures:
    """
    The frozen stages of a Segment Anything model's encoder: those before the first stage that is trained or adapted.

    Stages are the patch embedding, the encoder's blocks (MobileSAM: layers; EdgeTAM: the whole encoder) and the neck.

    Args:
        model: a Segment Anything model, adapted or not, or a `PeftModel` around one.

    Attributes: `length`, the number of frozen stages, and `names`, their module names.

    Raises `ValueError` if the first stage is trained already.
    """

    def __init__(self, model: nn.Module):
        base = base_of(model)
        self.family, self.encoder, self.input_size = family_of(base), base.vision_encoder, input_size(base)
        self.config = _relevant_fields(base.config.vision_config.to_dict())
        self.stages = self.family.stages(base)
        frozen = takewhile(lambda stage: not any(map(_is_trained, stage.parts)), self.stages)
        self.names = [stage.name for stage in frozen]
        self.length = len(self.names)
        if self.length == 0:
            raise ValueError(
                "the encoder is trained from its first stage on, so none of its features are frozen. The stages of "
                f"{type(base).__name__} are {', '.join(stage.name for stage in self.stages)}: adapt fewer `blocks`, or "
                "leave `token` out of `levels`"
            )
        self.dtype = next(self.encoder.parameters()).dtype

    def states(self, pixel_values: Tensor) -> Tensor:
        """
        The frozen features of SAM's input `(B, 3, S, S)`: the output of the last frozen stage, without gradients.

        If the next stages need several feature maps, these are flattened and concatenated to `(B, N)`.
        """
        if any(m.training and isinstance(m, nn.BatchNorm2d) for part in self._modules() for m in part.modules()):
            raise ValueError("the frozen stages have batch norms in training mode: call `model.eval()`")
        with torch.no_grad():
            maps = self._run((pixel_values.to(self.dtype),), 0, self.length)
        return maps[0] if len(maps) == 1 else torch.cat([part.flatten(1) for part in maps], 1)

    def embeddings(self, states: Tensor, frames: Tensor, frame_boxes: Tensor) -> Any:
        """
        Run the remaining stages on frozen features.

        Args:
            states: from `states`.
            frames, frame_boxes: of the same images, see [`link_frames`], which links them to the embeddings.

        Returns image embeddings as the model's `get_image_embeddings` does: a tensor `(B, 256, S/16, S/16)`, or several
        maps.
        """
        states = states.to(self.dtype)
        if states.ndim == 2:
            parts = states.split([shape.numel() for shape in self._output_shapes], 1)
            maps = tuple(part.unflatten(1, shape) for part, shape in zip(parts, self._output_shapes, strict=True))
        else:
            maps = (states,)
        maps = self._run(maps, self.length, len(self.stages))
        # If all stages are frozen, `maps` are the caller's tensors: link views, not these.
        embeddings = self.family.embeddings(tuple(part.view_as(part) for part in maps))
        link_frames(embeddings, frames=frames, frame_boxes=frame_boxes, input_size=self.input_size)
        return embeddings

    @cached_property
    def _output_shapes(self) -> list[torch.Size]:
        """Shapes of the last frozen stage's feature maps for one image."""
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
        """Hash of the frozen stages' names, weights and buffers, and of the encoder's configuration and input size."""
        digest = hashlib.sha256(f"{json.dumps(self.config, sort_keys=True, default=str)} {self.names}".encode())
        tensors = [t for module in self._modules() for t in module.state_dict().values()]
        parts = [part for stage in self.stages[: self.length] for part in stage.parts]
        tensors += [part.detach() for part in parts if isinstance(part, nn.Parameter)]
        for tensor in tensors:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.float().numpy(force=True).tobytes())  # exact for every dtype of weights
        return digest.hexdigest()


def _relevant_fields(config: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in IRRELEVANT_FIELDS}
    return {key: _relevant_fields(value) if isinstance(value, dict) else value for key, value in kept.items()}


def _is_trained(part: nn.Module | nn.Parameter) -> bool:
    if isinstance(part, nn.Parameter):
        return part.requires_grad
    return any(p.requires_grad for p in part.parameters()) or any(hasattr(m, "base_layer") for m in part.modules())


class FeatureCache:
    """
    A disk cache of frozen features.

    An entry's key is a hash of the frozen stages (weights, input size) and of SAM's input. So another model, size,
    preprocessing or view has another key, and outdated entries are never read.

    Args:
        frozen: computes features that are not cached yet.
        folder: of the cache; created if missing.
        dtype: `float16` (half the size) or `float32` (exact).
        max_bytes: largest size of the folder. Features beyond it are computed each time; `None` is unlimited.

    Raises `ValueError` for another `dtype`.
    """

    def __init__(
        self, frozen: FrozenFeatures, folder: str | Path, dtype: str = "float16", max_bytes: int | None = None
    ):
        if dtype not in ("float16", "float32"):
            raise ValueError(f"the cache's dtype must be `float16` or `float32`, not {dtype!r}")
        self.frozen, self.folder, self.dtype, self.max_bytes = frozen, Path(folder), dtype, max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder / "entry", r"[0-9a-f]+\.npy")
        self._frozen_key = frozen.fingerprint()

    def key(self, pixel_values: Tensor) -> str:
        """Key of one of SAM's inputs, `(3, S, S)`."""
        digest = hashlib.sha256(f"{self._frozen_key} {self.dtype} {tuple(pixel_values.shape)}".encode())
        digest.update(np.ascontiguousarray(pixel_values.float().numpy(force=True)).tobytes())
        return digest.hexdigest()[:40]

    def path(self, key: str) -> Path:
        """File of an entry."""
        return self.folder / f"{key}.npy"

    def load(self, key: str) -> Tensor | None:
        """The features of an entry, float32, shaped as by [`FrozenFeatures.states`]; `None` if absent or damaged."""
        try:
            array = np.load(self.path(key), mmap_mode="r", allow_pickle=False)
        except (FileNotFoundError, ValueError, EOFError):  # truncated: numpy's header promises more than there is
            return None
        return torch.from_numpy(np.array(array, dtype=np.float32))

    def store(self, key: str, states: Tensor) -> None:
        """Write an entry, unless that would exceed `max_bytes`; `ValueError` if `dtype` can't hold its values."""
        with np.errstate(over="ignore"):
            array = states.float().numpy(force=True).astype(self.dtype)
        if not np.isfinite(array).all():
            raise ValueError(
                f"the frozen stages give activations up to {states.abs().max():g}, which {self.dtype} can't hold: "
                "set `feature_cache_dtype` to float32, or check the model's weights if it is"
            )
        if self.max_bytes is not None and self._used() + array.nbytes + HEADER_BYTES > self.max_bytes:
            return
        with whole_file(self.path(key), sweep=False) as part, open(part, "wb") as file:
            np.save(file, array, allow_pickle=False)

    def _used(self) -> int:
        """Bytes in the folder, including other processes' entries."""
        return sum(file.stat().st_size for file in self.folder.glob("*.npy"))

    def get(self, pixel_values: Tensor) -> Tensor:
        """Features of one of SAM's inputs, `(3, S, S)`: read from the cache, or computed and stored."""
        key = self.key(pixel_values)
        states = self.load(key)
        if states is None:
            states = self.frozen.states(pixel_values[None].to(self.frozen.device))[0].cpu()
            self.store(key, states)
            states = states.to(getattr(torch, self.dtype)).float()  # the values that reading the entry gives
        return states
