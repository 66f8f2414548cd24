"""A student that detects as one ONNX graph for frames of any size and number."""

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

from .onnx_files import checked, whole_or_not_at_all
from .onnx_student import normalize_frames, runtime_config, to_proto


class DetectorGraph(nn.Module):
    """
    What is exported of a detector: `frames` (B, 1, H, W) float32 → `scores` (B, Q), best first but for those of 0,
    which are no boxes, and `boxes` (B, Q, 4), (x0, y0, x1, y1) in pixels.

    `normalize`: whether `frames` are as they were read; otherwise they are normalised already.
    """

    def __init__(self, detector: DetectionStudent, normalize: bool = True):
        super().__init__()
        self.model, self.processor, self.normalize = detector.model, detector.processor, normalize
        self.eval()

    def forward(self, frames: Tensor, given: Tensor | None = None) -> tuple[Tensor, Tensor]:
        processor, (height, width) = self.processor, frames.shape[-2:]
        x = frames
        if self.normalize:
            x = normalize_frames(frames, processor.normalization, processor.percentiles, given)
        outputs = self.model(pixel_values=x)
        centre, sides = outputs.pred_boxes.split(2, dim=-1)
        frame = torch.stack([torch.scalar_tensor(n, dtype=torch.float32) for n in (width, height, width, height)])
        boxes = torch.cat([centre - sides / 2, centre + sides / 2], -1) * frame
        return outputs.logits[..., 0].sigmoid(), boxes


def export_detector(
    detector: DetectionStudent, folder: str | Path, normalize: bool = True, threshold: float = 0.5
) -> OnnxDetector:
    """
    Write model.onnx and runtime.json of this project's own detection student to a folder.

    Args:
        normalize: whether the graph normalises frames.
        threshold: score that boxes exceed, applied by the runtime: a graph has as many boxes for every frame.

    Returns the detector as the runtime loads it. Raises `ValueError` for another model.
    """
    if not isinstance(detector.model, ScalpelStudentForObjectDetection):
        raise ValueError(f"of detectors only this project's own is exported, not {type(detector.model).__name__}")
    config = runtime_config(detector, normalize, threshold, threshold_inside=False, task="detection")
    with whole_or_not_at_all(folder, CONFIG_FILE) as work:
        onnx.save(to_proto(DetectorGraph(detector, normalize), ["scores", "boxes"], normalize), work / MODEL_FILE)
        replace(config, files=hashes(work)).write(work)
    return OnnxDetector.from_pretrained(folder)


@torch.no_grad()
def check_detector(detector: DetectionStudent, exported: OnnxDetector, frames: Iterable[Any]) -> float:
    """
    Largest difference between the predictions of an exported detector and of torch over frames, scores and boxes, these
    as shares of the frame. Each box counts with the most similar one of the other prediction: of two with nearly the
    same score either may come first.

    Raises `ValueError` where it exceeds 1e-4, and without any frame.
    """
    graph = DetectorGraph(detector, exported.config.normalization_inside)
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
    """Score and box as shares, (Q, 5), of one frame; the boxes of what scores nothing are left out of it."""
    rows = np.concatenate([scores[0, :, None], boxes[0] / sides], 1)
    return rows * (rows[:, :1] > 1e-4)
