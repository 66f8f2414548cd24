"""The frozen features of a teacher's encoder, computed once per frame and view and kept on disk.

Only the encoder's last blocks (or none) are trained, so everything before them gives the same activations at every
step. `FrozenFeatures` says which modules those are; `FeatureCache` keeps their output, one memory-mapped file an entry.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from scalpel_hf.adapter.layer import link_frames
from scalpel_hf.utils.files import remove_leftovers, whole_file

HEADER_BYTES = 128  # of a .npy file
# What a saved and a fresh configuration of the same encoder may differ in.
INCIDENTAL = ("_name_or_path", "architectures", "dtype", "transformers_version")


class FrozenFeatures:
    """
    The longest run of an encoder's stages, from the first on, in which nothing is trained or adapted.

    The stages are the embedding of patches, each of `encoder.layers`, and the neck.

    Args:
        model: a `SamModel` or `MobileSamModel`, adapted or not, or a `PeftModel` around one.

    Attributes: `length`, the number of frozen stages, and `names`, their module names.
    """

    def __init__(self, model: nn.Module):
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        encoder: Any = base.vision_encoder
        stages: list[tuple[str, nn.Module]] = [("patch_embed", encoder.patch_embed)]
        stages += [(f"layers.{i}", layer) for i, layer in enumerate(encoder.layers)] + [("neck", encoder.neck)]
        self.encoder, self.input_size = encoder, base.config.vision_config.image_size
        self.config = {k: v for k, v in base.config.vision_config.to_dict().items() if k not in INCIDENTAL}
        self.length = next((i for i, (_, m) in enumerate(stages) if _trains(m)), len(stages))
        pos_embed = getattr(encoder, "pos_embed", None)
        if self.length == 0 or (pos_embed is not None and pos_embed.requires_grad):
            raise ValueError("the encoder is trained from its first layer on, so none of its features are frozen")
        self.names = [name for name, _ in stages[: self.length]]
        self.dtype = next(encoder.parameters()).dtype
        self._modules = [module for _, module in stages]

    def states(self, pixel_values: Tensor) -> Tensor:
        """What the last frozen stage gives for SAM's input `(B, 3, S, S)`, without gradients."""
        if any(m.training and isinstance(m, nn.BatchNorm2d) for p in self._modules[: self.length] for m in p.modules()):
            raise ValueError("the frozen stages have batch norms in training mode: call `model.eval()`")
        with torch.no_grad():
            return self._run(pixel_values.to(self.dtype), 0, self.length)

    def embeddings(self, states: Tensor, frames: Tensor, frame_boxes: Tensor) -> Tensor:
        """Image embeddings `(B, 256, S/16, S/16)` from the frozen features, linked to their frames."""
        embeddings = self._run(states.to(self.dtype), self.length, len(self._modules))
        # A wholly frozen encoder gives back its input, which the caller may hold on to: link a tensor of our own.
        embeddings = embeddings.view_as(embeddings)
        link_frames(embeddings, frames, frame_boxes, self.input_size)
        return embeddings

    def _run(self, x: Tensor, start: int, stop: int) -> Tensor:
        for i, module in enumerate(self._modules[start:stop], start):
            x = module(x)
            if i == 0 and getattr(self.encoder, "pos_embed", None) is not None:
                x = x + self.encoder.pos_embed
        return x

    def fingerprint(self) -> str:
        """Hash of the frozen stages' weights, buffers and number, and of the encoder's configuration and input size."""
        digest = hashlib.sha256(f"{json.dumps(self.config, sort_keys=True, default=str)} {self.names}".encode())
        tensors = [t for module in self._modules[: self.length] for t in module.state_dict().values()]
        if getattr(self.encoder, "pos_embed", None) is not None:
            tensors.append(self.encoder.pos_embed.detach())
        for tensor in tensors:
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.float().numpy(force=True).tobytes())  # exact for every dtype of weights
        return digest.hexdigest()


def _trains(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters()) or any(hasattr(m, "base_layer") for m in module.modules())


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
        """The activations `(C, h, w)` or `(h, w, C)` of an entry, `None` when it is absent or damaged."""
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
            device = next(self.frozen.encoder.parameters()).device
            states = self.frozen.states(pixel_values[None].to(device))[0].cpu()
            self.store(key, states)
            states = states.to(getattr(torch, self.dtype)).float()  # the same values whether read back or not
        return states
