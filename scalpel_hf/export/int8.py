"""An exported student in 8 bits, by onnxruntime's static quantisation."""

import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
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
PERCENTILE = 99.99
PROBES = 8  # calibration frames on which single convolutions are tried


def quantize_student(folder: str | Path, frames: Sequence[Any], float_convs: int = 0) -> OnnxStudent | OnnxDetector:
    """
    Write model_int8.onnx beside a student's model.onnx.

    Weights become 8-bit integers with a scale for each channel, activations with one for each tensor: between the
    0.01st and the 99.99th percentile of what it takes on the calibration frames, around their brightest pixel.

    Args:
        frames: to calibrate on, a few dozen of those the student was trained on; whatever `read_frame` takes.
        float_convs: so many convolutions of a student that segments stay in floating point; see
            [`rank_convolutions`].

    Returns the quantised student as the runtime loads it. Raises `ValueError` without frames, or where `float_convs` is
    more than there are.
    """
    folder, student = Path(folder), load_exported(folder)
    if not len(frames):
        raise ValueError("there is no frame to calibrate on")
    count = len(_convolutions(folder / MODEL_FILE))
    if not 0 <= float_convs <= count:
        raise ValueError(f"of {count} convolutions {float_convs} can't stay in floating point")
    kept = list(rank_convolutions(folder, frames))[:float_convs] if float_convs else []
    with whole_or_not_at_all(folder, CONFIG_FILE) as work:
        quantize(folder / MODEL_FILE, work / INT8_FILE, _feeds(student, frames), nodes_to_exclude=kept)
        replace(student.config, files={**student.config.files, **hashes(work)}).write(work)
    return load_exported(folder, INT8_FILE)


def rank_convolutions(folder: str | Path, frames: Sequence[Any]) -> dict[str, float]:
    """
    What each convolution of a student's model.onnx does to the prediction when it alone is quantised, the worst first:
    Σ|p' − p| / Σp over the probabilities of some of the calibration frames.
    """
    folder, probes = Path(folder), frames[:: max(1, len(frames) // PROBES)]
    student = OnnxStudent.from_pretrained(folder)
    expected = [student.probabilities(frame) for frame in probes]
    mass = sum(float(p.sum()) for p in expected)
    changes = {}
    with tempfile.TemporaryDirectory() as work:
        for name in _convolutions(folder / MODEL_FILE):
            path = Path(work) / f"{name}.onnx"
            feeds = _feeds(student, probes)
            quantize(folder / MODEL_FILE, path, feeds, op_types_to_quantize=["Conv"], nodes_to_quantize=[name])
            quantized = OnnxStudent(path, student.config)
            predictions = (quantized.probabilities(frame) for frame in probes)
            changes[name] = sum(float(np.abs(a - p).sum()) for a, p in zip(predictions, expected, strict=True)) / mass
    return dict(sorted(changes.items(), key=lambda item: -item[1]))


def quantize(model: Path, out: Path, feeds: Iterable[dict[str, np.ndarray]], **nodes: Any) -> None:
    """
    Write an ONNX file in 8 bits.

    Args:
        feeds: inputs to calibrate on, all of one shape.
        nodes: which to quantise, as `onnxruntime.quantization.quantize_static` takes it; all of [`QUANTIZED`] if empty.
            What comes before the first convolution, normalisation and white-box operators, never is, nor what comes
            after the last, such as the coordinates of boxes.
    """
    excluded = [*nodes.pop("nodes_to_exclude", []), *_outside_the_convolutions(model)]
    prepared = out.with_suffix(".prepared.onnx")
    with redirect_stdout(io.StringIO()):  # onnxruntime prints the progress of its histograms
        quant_pre_process(model, prepared, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            out,
            _Reader(feeds),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={"CalibPercentile": PERCENTILE},
            **{"op_types_to_quantize": QUANTIZED, "nodes_to_exclude": excluded, **nodes},
        )
    prepared.unlink()


def _convolutions(model: Path) -> list[str]:
    return [node.name for node in onnx.load(model).graph.node if node.op_type == "Conv"]


def _outside_the_convolutions(model: Path) -> list[str]:
    """Names of the nodes before the first and after the last; a graph lists each after those that it reads."""
    nodes = onnx.load(model).graph.node
    convolutions = [index for index, node in enumerate(nodes) if node.op_type == "Conv"]
    return [node.name for node in [*nodes[: convolutions[0]], *nodes[convolutions[-1] + 1 :]]]


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: Iterable[dict[str, np.ndarray]]):
        self.feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def _feeds(student: OnnxStudent | OnnxDetector, frames: Sequence[Any]) -> Iterator[dict[str, np.ndarray]]:
    """Squares of one size, which the histograms need, around the brightest pixel of each frame."""
    arrays = [read_frame(frame) for frame in frames]
    side = min(CROP, *(min(array.shape) for array in arrays))
    for array in arrays:
        peak = np.unravel_index(np.argmax(array), array.shape)
        row, column = (int(np.clip(p - side // 2, 0, n - side)) for p, n in zip(peak, array.shape, strict=True))
        yield {"frames": student.graph_input(array[row : row + side, column : column + side])}
