"""A student's ONNX files written by hand (what the runtime loads is a format, whoever exported it), and videos."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

CONFIG: dict[str, Any] = {
    "normalization": "zscore",
    "percentiles": [1.0, 99.0],
    "normalization_inside": False,
    "threshold": 0.5,
    "threshold_inside": False,
    "opset": 18,
    "id2label": {"0": "background", "1": "target"},
    "task": "segmentation",
}


def write_student(folder: Path, file: str = "model.onnx", **config: Any) -> Path:
    """
    A student whose logits are 2 · frame − 6, so that with a z-score a pixel is target from three deviations on.

    With `threshold_inside` the graph gives probabilities and mask.
    """
    config = {**CONFIG, **config}
    shape = ["batch", 1, "height", "width"]
    outputs = {"logits": TensorProto.FLOAT}
    nodes = [
        helper.make_node("Mul", ["frames", "two"], ["doubled"]),
        helper.make_node("Sub", ["doubled", "six"], ["logits"]),
    ]
    if config["threshold_inside"]:
        outputs = {"probabilities": TensorProto.FLOAT, "mask": TensorProto.UINT8}
        nodes += [
            helper.make_node("Sigmoid", ["logits"], ["probabilities"]),
            helper.make_node("Greater", ["logits", "zero"], ["above"]),
            helper.make_node("Cast", ["above"], ["mask"], to=TensorProto.UINT8),
        ]
    constants = {"two": np.float32(2), "six": np.float32(6), "zero": np.float32(0)}
    inputs = {"frames": (TensorProto.FLOAT, shape)}
    if config["normalization_inside"]:  # taken, and not used
        constants["normalization"] = np.zeros(2)
        inputs["normalization"] = (TensorProto.DOUBLE, [2])
    graph = helper.make_graph(
        nodes,
        "student",
        [helper.make_tensor_value_info(name, *value) for name, value in inputs.items()],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind in outputs.items()],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", config["opset"])], ir_version=10)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / file)
    write_config(folder, **config)
    return folder


def write_graph(
    folder: Path,
    nodes: list[Any],
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    constants: dict[str, np.ndarray] | None = None,
    **config: Any,
) -> Path:
    """An ONNX file with a runtime.json that fits it; inputs and outputs by name, each a type and a shape."""
    values = [
        [helper.make_tensor_value_info(name, *value) for name, value in side.items()] for side in (inputs, outputs)
    ]
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "other", *values, tensors)
    folder.mkdir(exist_ok=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), folder / "model.onnx"
    )
    write_config(folder, **config)
    return folder


def write_detector(folder: Path, score: float = 1.0) -> Path:
    """A detector with one box of 0 for each frame, scored by the sum of its pixels times `score`."""
    nodes = [
        helper.make_node("ReduceSum", ["frames", "axes"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "score"], ["scores"]),
        helper.make_node("Expand", ["zero", "sides"], ["boxes"]),
    ]
    constants = {
        "axes": np.array([2, 3]),
        "score": np.float32(score),
        "zero": np.float32(0),
        "sides": np.array([1, 1, 4]),
    }
    frames = {"frames": (TensorProto.FLOAT, ["b", 1, "h", "w"])}
    outputs = {"scores": (TensorProto.FLOAT, ["b", "q"]), "boxes": (TensorProto.FLOAT, ["b", "q", 4])}
    return write_graph(folder, nodes, frames, outputs, constants, task="detection")


def write_config(folder: Path, **config: Any) -> None:
    """A runtime.json for whatever ONNX files are in the folder, with some of its values replaced."""
    files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.onnx")}
    (folder / "runtime.json").write_text(json.dumps({**CONFIG, "files": files, **config}))


def frame_with_targets() -> np.ndarray:
    """A 16-bit frame (40, 50) with a target of one pixel at row 3, column 5, and one of 2 x 3 at row 20, column 30."""
    frame = np.random.default_rng(0).integers(30000, 30010, (40, 50)).astype(np.uint16)
    frame[3, 5] = 30300
    frame[20:22, 30:33] = 30300
    return frame


TARGETS = [[5, 3, 6, 4], [30, 20, 33, 22]]


def write_video(path: Path, frames: list[np.ndarray], codec: str, pixel_format: str) -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape, pixel_format
        for array in frames:
            name = "gray16le" if array.dtype == np.uint16 else "gray"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format=name)))
        container.mux(stream.encode())
    return path
