"""AP, precision, recall and F1 of boxes around small targets.

Average precision is computed by pycocotools, COCO's reference implementation (extra `detection`).
"""

import contextlib
import io
from typing import Any

import numpy as np

from .box_metrics import COUNTS

# Areas of boxes in pixels, lower bound included. 9 x 9 is the SPIE's limit for small targets; COCO's smallest class, up
# to 32 x 32, would contain nearly all of them.
AREAS = {"all": (0, 1e10), "tiny": (0, 9), "small": (9, 81), "large": (81, 1e10)}


class DetectionMetrics:
    """Metrics of small-target boxes, accumulated frame by frame at the frames' own size.

    - `ap50`, `ap50_95`: COCO's average precision at an IoU of 0.5, and averaged over IoU 0.5, 0.55, … 0.95, of the 100
      best boxes in each frame. `ap50_tiny`, `ap50_95_tiny`, `…_small`, `…_large`: the same for targets whose boxes have
      an area below 9, from 9 to below 81, and from 81 pixels on; `None` without such targets.
    - `precision`, `recall`, `f1`: of the boxes with a score above `threshold`. From the highest score on, each box is
      matched with the nearest free target whose centre is strictly closer than `distance` pixels (greedy, one to one).
      IoU isn't used: a box of 2 x 2 moved by one pixel has an IoU of 1/3.

    0 / 0 is 0. Source of COCO's rules: Lin et al., "Microsoft COCO" (ECCV 2014).

    Args:
        threshold: score above which a box counts for precision, recall and F1.
        distance: largest distance of matching centres in pixels, exclusive.

    Examples:
        >>> metrics = DetectionMetrics()
        >>> metrics.update(scores=[0.9], boxes=[[4, 2, 7, 5]], truth=[[4, 2, 7, 5]])
        >>> metrics.compute()["f1"]
        1.0
    """

    def __init__(self, threshold: float = 0.5, distance: float = 3.0) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(f"`threshold` is a score in [0, 1), got {threshold}.")
        if not distance > 0:
            raise ValueError(f"`distance` is a positive number of pixels, got {distance}.")
        self.threshold, self.distance = threshold, distance
        self.frames: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def update(self, scores: Any, boxes: Any, truth: Any) -> None:
        """Add a frame.

        Args:
            scores: (N,) in [0, 1].
            boxes: (N, 4), predicted, (x0, y0, x1, y1) in pixels.
            truth: (M, 4), the targets' boxes.

        Raises:
            ValueError: if shapes differ from these, x1 < x0 or y1 < y0, or a score is outside [0, 1].
        """
        score, box, target = np.asarray(scores, float), _boxes(boxes, "boxes"), _boxes(truth, "truth")
        if score.shape != (len(box),) or not ((score >= 0) & (score <= 1)).all():
            raise ValueError(f"`scores` are {len(box)} numbers in [0, 1], one a box, got {score.tolist()}.")
        self.frames.append((score, box, target))

    def counts(self) -> np.ndarray:
        """The `COUNTS` of each frame, `(frames, 4)`: targets, matched targets, boxes without a target, 1 frame."""
        rows = []
        for score, box, truth in self.frames:
            keep = score > self.threshold
            matched = _matches(score[keep], box[keep], truth=truth, distance=self.distance)
            rows.append((len(truth), matched, int(keep.sum()) - matched, 1))
        return np.array(rows, dtype=np.int64).reshape(-1, len(COUNTS))

    def compute(self) -> dict[str, float | None]:
        """All metrics over the frames so far, with the counts behind them and the settings."""
        n_targets, n_matched, n_false, n_images = self.counts().sum(0).tolist()
        n_predicted = n_matched + n_false
        return {
            **_average_precision(self.frames),
            "precision": n_matched / n_predicted if n_predicted else 0.0,
            "recall": n_matched / n_targets if n_targets else 0.0,
            "f1": 2 * n_matched / (n_predicted + n_targets) if n_predicted + n_targets else 0.0,
            "n_images": n_images,
            "n_targets": n_targets,
            "n_predicted": n_predicted,
            "n_matched": n_matched,
            "threshold": self.threshold,
            "distance": self.distance,
        }


def _boxes(boxes: Any, name: str) -> np.ndarray:
    array = np.asarray(boxes, float)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4 or not (array[:, :2] <= array[:, 2:]).all():
        raise ValueError(f"`{name}` are rows of x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, got {array.tolist()}.")
    return array


def _matches(scores: np.ndarray, boxes: np.ndarray, truth: np.ndarray, distance: float) -> int:
    centres, targets = (b[:, :2] / 2 + b[:, 2:] / 2 for b in (boxes, truth))
    gaps = np.linalg.norm(centres[:, None] - targets, axis=-1)  # (N, M)
    gaps[gaps >= distance] = np.inf
    matched = 0
    for index in np.argsort(-scores, kind="stable"):
        if np.isfinite(gaps[index]).any():
            gaps[:, gaps[index].argmin()] = np.inf
            matched += 1
    return matched


def coco_classes() -> tuple[Any, Any]:
    """pycocotools' `COCO` and `COCOeval`; `ImportError` with the remedy if it isn't installed."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise ImportError("average precision needs pycocotools: pip install 'scalpel-hf[detection]'") from error
    return COCO, COCOeval


def _average_precision(frames: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, float | None]:
    COCO, COCOeval = coco_classes()

    def coco(annotations: list[dict[str, Any]]) -> Any:
        result = COCO()
        images = [{"id": i} for i in range(len(frames))]
        categories = [{"id": 0, "name": "target"}]
        result.dataset = {
            "images": images,
            "categories": categories,
            # Ids start at 1: COCOeval takes a match with annotation 0 for no match.
            "annotations": [{**a, "id": i, "category_id": 0, "iscrowd": 0} for i, a in enumerate(annotations, 1)],
        }
        result.createIndex()
        return result

    truth = [{"image_id": i, **_coco_box(box)} for i, (_, _, boxes) in enumerate(frames) for box in boxes]
    found = [
        {"image_id": i, "score": score, **_coco_box(box)}
        for i, (scores, boxes, _) in enumerate(frames)
        for score, box in zip(scores.tolist(), boxes, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        evaluator = COCOeval(coco(truth), coco(found), "bbox")
        evaluator.params.areaRngLbl = list(AREAS)
        evaluator.params.areaRng = [[low, high - 1e-6] for low, high in AREAS.values()]  # both ends are included there
        evaluator.evaluate()
        evaluator.accumulate()
    precision = evaluator.eval["precision"][:, :, 0, :, -1]  # (overlaps, recalls, areas); -1 where there is no target
    metrics: dict[str, float | None] = {}
    for index, area in enumerate(AREAS):
        for name, values in (("ap50", precision[:1, :, index]), ("ap50_95", precision[:, :, index])):
            key = name if area == "all" else f"{name}_{area}"
            metrics[key] = float(values.mean()) if (values >= 0).all() else (0.0 if area == "all" else None)
    return metrics


def _coco_box(box: np.ndarray) -> dict[str, Any]:
    x, y, width, height = box[0], box[1], box[2] - box[0], box[3] - box[1]
    return {"bbox": [float(x), float(y), float(width), float(height)], "area": float(width * height)}
