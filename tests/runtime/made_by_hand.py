"""A student's ONNX files written by hand (what the runtime loads is a format, whoever exported it), and videos."""

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
    "size_multiple": 1,
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
    constants = {"two": 2.0, "six": 6.0, "zero": 0.0}
    graph = helper.make_graph(
        nodes,
        "student",
        [helper.make_tensor_value_info("frames", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind in outputs.items()],
        [onnx.numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", config["opset"])], ir_version=10)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / file)
    (folder / "runtime.json").write_text(json.dumps(config))
    return folder


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
