"""How well an exported student does, by the runtime that is used in the field."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from scalpel_hf.evaluation.evaluator import evaluate_detections, evaluate_probabilities
from scalpel_hf.runtime.onnx_models import OnnxDetector, OnnxStudent


def evaluate_exported(
    student: OnnxStudent | OnnxDetector, rows: Iterable[dict[str, Any]], threshold: float = 0.5
) -> dict[str, Any]:
    """Figures of an exported student over a data set's rows, see `evaluate_probabilities` and `evaluate_detections`."""
    if isinstance(student, OnnxStudent):
        return evaluate_probabilities(student.probabilities, rows, threshold)

    def detect(frame: Any) -> tuple[np.ndarray, np.ndarray]:
        found = student.detect(frame, threshold=0.0)
        return found.scores, found.boxes

    return evaluate_detections(detect, rows, threshold)
