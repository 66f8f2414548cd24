"""INT8: static quantisation of exported students with onnxruntime."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.runtime.onnx_models import OnnxDetector, OnnxStudent, load_exported
from scalpel_hf.runtime.settings import CONFIG_FILE, INT8_FILE, MODEL_FILE, hashes

from .onnx_files import whole_or_not_at_all

QUANTIZED = ["Conv", "Relu", "Add", "MaxPool", "Resize", "MatMul", "Gemm"]  # not the sigmoid
CROP = 256


def quantize_student(folder: str | Path, frames: Sequence[Any]) -> OnnxStudent | OnnxDetector:
    """
    Quantise an exported student: write model_int8.onnx to its folder.

    Weights become 8-bit integers with a scale for each channel; activations with a scale for each tensor, from its
    minimum and maximum on the calibration frames (crops around their brightest pixel). The first and last convolutions
    stay in floating point: they take a tenth of the time but would cause most of the error (docs/log.md).

    Args:
        folder: with model.onnx and runtime.json.
        frames: for calibration, a few dozen training frames: paths, images or arrays.

    Returns the quantised student, loaded by the runtime. Raises `ValueError` without frames.
    """
    folder, student = Path(folder), load_exported(folder)
    if not len(frames):
        raise ValueError("there is no frame to calibrate on")
    with whole_or_not_at_all(folder, CONFIG_FILE) as work:
        quantize(folder / MODEL_FILE, work / INT8_FILE, _feeds(student, frames))
        replace(student.config, files={**student.config.files, **hashes(work)}).write(work)
    return load_exported(folder, INT8_FILE)


def quantize(model: Path, out: Path, feeds: Iterable[dict[str, np.ndarray]]) -> None:
    """
    Quantise an ONNX file.

    Only operators of [`QUANTIZED`] between the first and the last convolution are quantised; not the normalisation
    before, nor the computation of boxes after them.

    Args:
        model, out: files.
        feeds: inputs for calibration.
    """
    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(model, prepared, skip_optimization=True, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        out,
        _Reader(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        op_types_to_quantize=QUANTIZED,
        nodes_to_exclude=_not_between_the_convolutions(model),
    )
    prepared.unlink()


def _not_between_the_convolutions(model: Path) -> list[str]:
    """Names of the nodes up to the first convolution and from the last one on (nodes are in topological order)."""
    nodes = onnx.load(model).graph.node
    convolutions = [index for index, node in enumerate(nodes) if node.op_type == "Conv"]
    return [node.name for node in [*nodes[: convolutions[0] + 1], *nodes[convolutions[-1] :]]]


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: Iterable[dict[str, np.ndarray]]):
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def _feeds(student: OnnxStudent | OnnxDetector, frames: Sequence[Any]) -> Iterator[dict[str, np.ndarray]]:
    """A crop around the brightest pixel of each frame, as input of the graph."""
    for array in map(read_frame, frames):
        peak = np.unravel_index(np.argmax(array), array.shape)
        rows, columns = (
            slice(start := int(np.clip(p - CROP // 2, 0, max(0, n - CROP))), start + CROP)
            for p, n in zip(peak, array.shape, strict=True)
        )
        yield {"frames": student.graph_input(array[rows, columns])}
