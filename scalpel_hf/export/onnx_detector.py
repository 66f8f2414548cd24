"""Export of detection students: one ONNX graph for any frame size and batch size."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from scalpel_hf.modeling.modeling_scalpel_student_detection import ScalpelStudentForObjectDetection
from scalpel_hf.predictors.student import DetectionStudent
from scalpel_hf.runtime.onnx_models import OnnxDetector
from scalpel_hf.runtime.settings import CONFIG_FILE, MODEL_FILE, hashes
from scalpel_hf.utils.extras import check_detector_export

from .onnx_files import checked, whole_or_not_at_all
from .onnx_student import in_float32, model_input, runtime_config, to_proto


class DetectorGraph(nn.Module):
    """
    The exported module of a detector: `frames` `(B, 1, H, W)` float32 → `scores` `(B, Q)`, highest first, and `boxes`
    `(B, Q, 4)`, (x0, y0, x1, y1) in pixels. Boxes with score 0 are padding.

    Args:
        detector: the model and its processor. The graph includes the padding and the repetition of channels.
        normalize: whether the graph normalises `frames`; otherwise its inputs must be normalised.
    """

    def __init__(self, detector: DetectionStudent, normalize: bool = True):
        super().__init__()
        self.model, self.processor, self.normalize = detector.model, detector.processor, normalize
        self.eval()

    def forward(self, frames: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = model_input(self.processor, frames, self.normalize, given)
        outputs = self.model(pixel_values=x)
        centre, sides = (part * _width_and_height(x) for part in outputs.pred_boxes.split(2, dim=-1))
        scores = outputs.logits[..., 0].sigmoid()
        if self.processor.size_divisor:
            scores = scores * (centre <= _width_and_height(frames)).all(-1)  # not those in the padding
        return scores, torch.cat([centre - sides / 2, centre + sides / 2], -1)


def _width_and_height(frames: Tensor) -> Tensor:
    return torch.stack([torch.scalar_tensor(side, dtype=torch.float32) for side in (frames.shape[3], frames.shape[2])])


def export_detector(
    detector: DetectionStudent, folder: str | Path, normalize: bool = True, threshold: float = 0.5
) -> OnnxDetector:
    """
    Export this project's detection student: write model.onnx and runtime.json.

    Args:
        detector: the student.
        folder: to write to.
        normalize: whether the graph normalises frames.
        threshold: lowest score of a box. The runtime applies it, since a graph returns a fixed number of boxes.

    Returns the detector, loaded by the runtime. Raises `ValueError` for another model, and `ImportError` where torch is
    too old.
    """
    if not isinstance(detector.model, ScalpelStudentForObjectDetection):
        raise ValueError(f"only this project's own detector can be exported, not {type(detector.model).__name__}")
    check_detector_export()
    config = runtime_config(detector, normalize, threshold, threshold_inside=False, task="detection")
    with whole_or_not_at_all(folder, CONFIG_FILE) as work:
        graph = DetectorGraph(in_float32(detector), normalize)
        onnx.save(to_proto(graph, ["scores", "boxes"], normalize), work / MODEL_FILE)
        replace(config, files=hashes(work)).write(work)
    return OnnxDetector.from_pretrained(folder)


@torch.no_grad()
def check_detector(detector: DetectionStudent, exported: OnnxDetector, frames: Iterable[Any]) -> float:
    """
    Largest difference between an exported detector and PyTorch on some frames, over scores and boxes (relative to the
    frame's size). Each box is compared with the most similar one of the other prediction, since the order of boxes with
    nearly equal scores may differ.

    Raises `ValueError` if it exceeds 1e-4, and without frames.
    """
    graph = DetectorGraph(in_float32(detector), exported.config.normalization_inside)
    differences = []
    for frame in frames:
        x = exported.graph_input(frame)
        sides = np.array([x.shape[3], x.shape[2]] * 2)
        scores, boxes = exported.graph.run(x)
        prediction = _rows(scores, boxes, sides)
        scores, boxes = graph(torch.from_numpy(x))
        expected = _rows(scores.numpy(), boxes.numpy(), sides)
        gaps = np.abs(prediction[:, None] - expected).max(-1)
        differences.append(float(max(gaps.min(0).max(), gaps.min(1).max())))
    return checked(differences)


def _rows(scores: np.ndarray, boxes: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Score and relative box of each detection in one frame, `(Q, 5)`; rows with score 0 are set to 0."""
    rows = np.concatenate([scores[0, :, None], boxes[0] / sides], 1)
    return rows * (rows[:, :1] > 1e-4)
