"""Runs an ONNX file in onnxruntime, after a check that it is what its configuration says."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from .settings import RuntimeConfig

MAX_THREADS = 256
ERRORS_ONLY = 3  # onnxruntime's log level
NORMALIZATION = "normalization"  # optional input of graphs that normalise: (offset, scale) instead of their own


class Session:
    """
    A student's graph in onnxruntime.

    Args:
        path: the ONNX file.
        config: content of runtime.json beside it.
        threads: number of threads with which onnxruntime computes one frame; `None` for its own choice.
        providers: onnxruntime's execution providers, in order of preference.

    Raises `ValueError`, which names the file, where onnxruntime can't load it, or where its inputs or outputs are
    not those of `config`; and for a number of threads or a provider that is not possible.
    """

    def __init__(self, path: Path, config: RuntimeConfig, threads: int | None, providers: Sequence[str]):
        self.path = path
        self.outputs = _outputs(config)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _threads(threads)
        options.log_severity_level = ERRORS_ONLY
        if unknown := [name for name in providers if name not in onnxruntime.get_available_providers()]:
            available = ", ".join(onnxruntime.get_available_providers())
            raise ValueError(f"onnxruntime has no {', '.join(unknown)} here, but {available}")
        try:
            self.session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise ValueError(f"{path} is no ONNX file that onnxruntime loads: {_line(error)}") from error
        self._check(config)

    def run(self, frames: np.ndarray, normalization: tuple[float, float] | None = None) -> list[np.ndarray]:
        """
        The graph's outputs for `frames` `(B, 1, H, W)` float32: `probabilities` or `logits`, or `scores` and `boxes`.

        Args:
            normalization: offset and scale, for a graph that normalises; by default it computes them from `frames`.

        Raises `ValueError` where the prediction has an unexpected shape or isn't finite.
        """
        feed = {"frames": frames}
        if normalization is not None:
            feed[NORMALIZATION] = np.array(normalization, np.float64)
        try:
            predictions = self.session.run(list(self.outputs), feed)
        except Exception as error:
            raise ValueError(f"{self.path} can't compute a frame {frames.shape[2:]}: {_line(error)}") from error
        self._check_predictions(predictions, frames.shape)
        return predictions

    def _check(self, config: RuntimeConfig) -> None:
        inputs, outputs = self.session.get_inputs(), {output.name: output for output in self.session.get_outputs()}
        names = [value.name for value in inputs]
        if names != ["frames"] or inputs[0].type != "tensor(float)" or len(inputs[0].shape) != 4:
            raise ValueError(
                f"{self.path} takes {_describe(inputs)}, where a student takes frames (B, 1, H, W) float32"
            )
        if inputs[0].shape[1] != 1 or any(isinstance(size, int) for size in inputs[0].shape[2:]):
            raise ValueError(f"{self.path} takes {_describe(inputs)}: not frames of one channel and of any size")
        for name, rank in self.outputs.items():
            value = outputs.get(name)
            if value is None or value.type != "tensor(float)" or len(value.shape) != rank:
                predictions = _describe(list(outputs.values()))
                raise ValueError(
                    f"{self.path} gives {predictions}, where runtime.json promises {', '.join(self.outputs)}"
                )
        given = [value.name for value in self.session.get_overridable_initializers()]
        if config.normalization_inside != (NORMALIZATION in given):
            does = "normalises" if NORMALIZATION in given else "does not normalise"
            raise ValueError(f"{self.path} {does} its frames, and runtime.json says otherwise")

    def _check_predictions(self, predictions: list[np.ndarray], shape: tuple[int, ...]) -> None:
        expected = [
            (*predictions[0].shape[:2], 4)[: prediction.ndim] if prediction.ndim < 4 else shape
            for prediction in predictions
        ]
        if any(prediction.shape != want for prediction, want in zip(predictions, expected, strict=True)):
            raise ValueError(f"{self.path} gives {[a.shape for a in predictions]} for frames {shape}")
        for name, prediction in zip(self.outputs, predictions, strict=True):
            if not np.isfinite(prediction).all():
                raise ValueError(
                    f"{self.path}: the {name} are not all numbers (NaN or infinite): this frame has no prediction"
                )


def _outputs(config: RuntimeConfig) -> dict[str, int]:
    """The number of dimensions of each output that is read, by its name."""
    if config.task == "detection":
        return {"scores": 2, "boxes": 3}
    return {"probabilities": 4} if config.threshold_inside else {"logits": 4}


def _threads(threads: int | None) -> int:
    if threads is None:
        return 0
    if type(threads) is not int or not 1 <= threads <= MAX_THREADS:
        raise ValueError(f"the number of threads is from 1 to {MAX_THREADS}, got {threads}")
    return threads


def _describe(values: list) -> str:
    return ", ".join(f"{value.name} {value.shape} {value.type}" for value in values) or "nothing"


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
