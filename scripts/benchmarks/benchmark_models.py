"""The models of the students' benchmark, and how each backend runs them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from plain_unet import PlainUNet
from torch import nn
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from scalpel_hf import InfraredImageProcessor, SegmentationStudent
from scalpel_hf.export.int8 import quantize
from scalpel_hf.export.onnx_student import StudentGraph, to_proto
from scalpel_hf.predictors.student import new_student

MODELS = ["nano", "small", "base", "large", "unet", "segformer-b0"]


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
        student = new_student("segmentation", size=name)
        assert isinstance(student, SegmentationStudent)
        model = StudentGraph(student, normalize=False, threshold=None)
    return model.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def torch_runner(model: Callable[[torch.Tensor], Any]) -> Callable[[np.ndarray], Any]:
    return lambda frames: model(torch.from_numpy(frames))


def onnx_runner(path: Path, threads: int) -> Callable[[np.ndarray], Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its threads would wait for work by spinning, at the cost of whoever's turn is next.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda frames: session.run(None, {"frames": frames})


def runner(backend: str, model: nn.Module, files: dict[str, Path], threads: int) -> Callable[[np.ndarray], Any]:
    if backend == "eager":
        return torch_runner(model)
    if backend == "compiled":
        return torch_runner(torch.compile(model, dynamic=False))
    return onnx_runner(files[backend], threads)


def write_files(model: nn.Module, folder: Path, name: str) -> dict[str, Path]:
    files = {"ONNX": folder / f"{name}.onnx", "INT8": folder / f"{name}-int8.onnx"}
    onnx.save(to_proto(model, ["logits"]), files["ONNX"])
    rng = np.random.default_rng(0)
    feeds = [{"frames": rng.standard_normal((1, 1, 128, 128)).astype(np.float32)} for _ in range(4)]
    quantize(files["ONNX"], files["INT8"], feeds)
    return files
