"""The models of the students' benchmark."""

import torch
from plain_unet import PlainUNet
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from scalpel_hf import InfraredImageProcessor, SegmentationStudent
from scalpel_hf.export.onnx_student import StudentGraph
from scalpel_hf.predictors.student import new_student

MODELS = ["nano", "small", "base", "small, operators", "unet", "segformer-b0"]


def build(name: str) -> nn.Module:
    """A model from normalised frames (B, 1, H, W) to logits of that shape."""
    torch.manual_seed(0)
    model: nn.Module
    if name == "unet":
        model = PlainUNet()
    elif name == "segformer-b0":
        config = SegformerConfig(id2label={0: "background", 1: "target"}, label2id={"background": 0, "target": 1})
        processor = InfraredImageProcessor(num_channels=3, size_divisor=32)
        model = StudentGraph(SegmentationStudent(SegformerForSemanticSegmentation(config), processor), False, None)
    else:
        size, _, operators = name.partition(", ")
        student = new_student("segmentation", size=size, front_end="frozen" if operators else "none")
        assert isinstance(student, SegmentationStudent)
        model = StudentGraph(student, normalize=False, threshold=None)
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
