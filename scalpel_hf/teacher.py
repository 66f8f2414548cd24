"""A trained teacher as an object that labels frames."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from transformers import AutoConfig, SamModel

from .modeling.image_processing_infrared import InfraredImageProcessor
from .modeling.modeling_mobile_sam import MobileSamModel
from .prefix_cache import FrozenPrefix, PrefixCache

# What a saved and a fresh configuration of the same adapter may differ in.
INCIDENTAL = ("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type")


class Teacher:
    """
    An adapted Segment Anything model and its image processor.

    Args:
        model: a `PeftModel` around a `SamModel` or `MobileSamModel`.
        processor: with `sam_size` equal to the model's input size.
        cache_dir: where the frozen prefix's activations are kept; `None` computes them each time.
        flips: average the answers for the frame and its three mirror images.
        cache_dtype: precision of what is kept there, `float16` or `float32`.
    """

    def __init__(
        self,
        model: PeftModel,
        processor: InfraredImageProcessor,
        cache_dir: str | Path | None = None,
        flips: bool = False,
        cache_dtype: str = "float16",
    ):
        size = model.config.vision_config.image_size
        if processor.sam_size != size:
            raise ValueError(f"the processor makes inputs of {processor.sam_size} pixels, the model takes {size}")
        self.model, self.processor, self.flips = model.eval(), processor, flips
        self.prefix = FrozenPrefix(model)
        self.cache = PrefixCache(self.prefix, cache_dir, cache_dtype) if cache_dir else None

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, base: str | Path | None = None, revision: str | None = None, **kwargs: Any
    ) -> "Teacher":
        """
        Load an adapter, its base model and its processor from a folder or the Hub.

        Args:
            base: where the base model is, if not at the adapter's `base_model_name_or_path`.
            kwargs: `cache_dir`, `flips` and `cache_dtype`, see the class.
        """
        config = PeftConfig.from_pretrained(str(name_or_path), revision=revision)
        processor = InfraredImageProcessor.from_pretrained(str(name_or_path), revision=revision or "main")
        sam = load_sam(base or config.base_model_name_or_path, processor.sam_size)
        return cls(PeftModel.from_pretrained(sam, str(name_or_path), revision=revision), processor, **kwargs)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the adapter (safetensors) and the processor; not the base model."""
        self.model.save_pretrained(str(folder))
        self.processor.save_pretrained(str(folder))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def probabilities(self, frame: Any) -> np.ndarray:
        """Target probability of each pixel, `(H, W)` float32, at the frame's own size. `frame`: whatever the processor
        takes."""
        inputs = self.processor(frame, return_tensors="pt")
        answers = [self._probabilities(inputs)]
        if self.flips:
            native = inputs["frames"][0, 0]
            for axes in ([0], [1], [0, 1]):
                flipped = self.processor(native.flip(axes).numpy(), return_tensors="pt")
                answers.append(self._probabilities(flipped).flip(axes))
        return torch.stack(answers).mean(0).cpu().numpy()

    def _probabilities(self, inputs: Any) -> Tensor:
        pixel_values = inputs["pixel_values"]
        if self.cache is None:
            states = self.prefix.states(pixel_values.to(self.device))
        else:
            states = self.cache.get(pixel_values[0])[None].to(self.device)
        embeddings = self.prefix.embeddings(
            states, inputs["frames"].to(self.device), inputs["frame_boxes"].to(self.device)
        )
        logits = self.model(image_embeddings=embeddings, multimask_output=False).pred_masks
        return torch.sigmoid(logits.float())[0, 0, 0]

    def fingerprint(self) -> str:
        """Hash of everything an answer depends on: the base's and the adapter's weights and configurations, the
        processor, the flips, the precision of the cache."""
        adapters = {name: c.to_dict() for name, c in getattr(self.model, "peft_config", {}).items()}
        settings = {
            "processor": self.processor.to_dict(),
            "encoder": self.prefix.config,
            "adapters": {n: {k: _plain(v) for k, v in c.items() if k not in INCIDENTAL} for n, c in adapters.items()},
            "flips": self.flips,
            "cache": self.cache and self.cache.dtype,
        }
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.float().numpy(force=True).tobytes())
        return digest.hexdigest()[:32]


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else value


def load_sam(name_or_path: str | Path, image_size: int | None = None) -> SamModel:
    """
    A `MobileSamModel` or `SamModel` from a folder or the Hub, frozen, in evaluation mode.

    `image_size` other than the checkpoint's own works for MobileSAM, whose weights don't depend on it.
    """
    if not name_or_path:
        raise ValueError("no base model given: name a folder or a repository on the Hub")
    try:
        config = AutoConfig.from_pretrained(str(name_or_path))
    except OSError as error:
        raise ValueError(
            f"{str(name_or_path)!r} is neither a folder with a model nor a model that the Hub gives: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    if config.model_type == "mobile_sam":
        kwargs = {"image_size": image_size} if image_size else {}
        model = MobileSamModel.from_pretrained(str(name_or_path), **kwargs)
    elif config.model_type == "sam":
        own = config.vision_config.image_size
        if image_size not in (None, own):
            raise ValueError(f"{name_or_path} takes {own} pixels: set `image_size: {own}`, its weights depend on it")
        model = SamModel.from_pretrained(str(name_or_path))
    else:
        raise ValueError(f"{name_or_path} is a {config.model_type!r} model, not SAM (`sam` or `mobile_sam`)")
    return model.requires_grad_(False).eval()
