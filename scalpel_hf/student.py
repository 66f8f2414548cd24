"""A trained student as an object that finds targets in frames."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from .modeling.image_processing_infrared import InfraredImageProcessor


class Student:
    """A segmentation model with `logits` of `(B, 1, H, W)` and its image processor."""

    def __init__(self, model: PreTrainedModel, processor: InfraredImageProcessor):
        self.model, self.processor = model, processor

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, **kwargs: Any) -> "Student":
        from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

        model = AutoModelForSemanticSegmentation.from_pretrained(str(name_or_path), **kwargs)
        return cls(model.eval(), AutoImageProcessor.from_pretrained(str(name_or_path), **kwargs))

    def save_pretrained(self, folder: str | Path) -> None:
        self.model.save_pretrained(str(folder))
        self.processor.save_pretrained(str(folder))

    @torch.no_grad()
    def probabilities(self, frame: Any) -> np.ndarray:
        """Target probability of each pixel, `(H, W)` float32, at the frame's own size."""
        inputs = self.processor(frame, return_tensors="pt")
        device = next(self.model.parameters()).device
        logits = self.model(pixel_values=inputs["pixel_values"].to(device)).logits
        return torch.sigmoid(logits.float())[0, 0].cpu().numpy()
