"""How much larger than its target a box is drawn, and boxes of pseudo labels as people draw them."""

from collections.abc import Iterable

import numpy as np
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from scalpel_hf.data.objects import objects_from_mask
from scalpel_hf.data.transforms import Sample
from scalpel_hf.evaluation.box_metrics import as_corners


def tell_margin(margin: float) -> str:
    """What a training of masks says of it."""
    return f"masks needn't touch the sides of people's boxes: here these are {margin:g} pixels larger than targets"


def margin_of_boxes(samples: Iterable[Sample]) -> float:
    """
    By how many pixels the boxes that people drew are wider and higher than the targets proposed in them: the median
    over the widths and heights of all boxes in which something is proposed, see [`weak_label`]; 0 without any.

    A number of pixels describes people's boxes better than a factor (docs/explanation/boxes_and_points.md).
    """
    margins: list[int] = []
    for sample in samples:
        if sample.boxes is None:
            continue
        for number, window in enumerate(ndimage.find_objects(sample.boxes), 1):
            if window is None:
                continue
            proposed = (sample.target[window] > 0) & (sample.boxes[window] == number)
            if proposed.any():
                margins += [len(line) - int(np.ptp(np.flatnonzero(line))) - 1 for line in map(proposed.any, (0, 1))]
    return float(np.median(margins)) if margins else 0.0


def margin_of_pseudo_labels(drawn: Iterable[Sample], pseudo: Iterable[Sample], reach: float) -> float:
    """
    By how many pixels the boxes that people drew are larger than the targets of pseudo labels, see [`target_boxes`]:
    the median of the former's widths and heights less that of the latter's, at least 0; 0 without any.

    A teacher's targets have an extent of their own, between what is proposed in people's boxes and the boxes. It takes
    labelled frames for a random sample of all.
    """
    sides = [
        s.stop - s.start
        for sample in drawn
        if sample.boxes is not None
        for window in ndimage.find_objects(sample.boxes)
        if window is not None
        for s in window
    ]
    boxes = [target_boxes(sample.target > 0, reach) for sample in pseudo]
    found = np.concatenate([(box[:, 2:] - box[:, :2]).ravel() for box in boxes]) if boxes else np.array([])
    return max(0.0, float(np.median(sides) - np.median(found))) if len(found) and sides else 0.0


def target_boxes(target: np.ndarray, reach: float) -> np.ndarray:
    """
    Boxes (N, 4), (x0, y0, x1, y1), around the targets of a mask `(H, W)`.

    Components of which one's centre lies in the other's box, were this `reach` pixels larger, are one target: of two
    boxes so near a detector gives one.
    """
    boxes = as_corners(objects_from_mask(target)["bbox"])
    if not len(boxes):
        return boxes
    low, high, centres = boxes[:, :2], boxes[:, 2:], (boxes[:, :2] + boxes[:, 2:]) / 2
    near = ((centres >= low[:, None] - reach / 2) & (centres <= high[:, None] + reach / 2)).all(-1)
    count, groups = connected_components(near, directed=False)
    of_group = [boxes[groups == number] for number in range(count)]
    return np.array([np.concatenate([box[:, :2].min(0), box[:, 2:].max(0)]) for box in of_group])


def number_boxes(target: np.ndarray, reach: float, margin: float) -> np.ndarray:
    """[`target_boxes`], `margin` pixels larger, as [`WeakLabel`] has those that people drew: `(H, W)` int32."""
    numbers = np.zeros(target.shape, np.int32)
    boxes = target_boxes(target, reach) + margin / 2 * np.array([-1, -1, 1, 1])
    by_size = sorted(np.rint(boxes).astype(int).clip(0).tolist(), key=lambda box: (box[0] - box[2]) * (box[3] - box[1]))
    for number, (x0, y0, x1, y1) in enumerate(by_size, 1):
        numbers[y0:y1, x0:x1] = number
    return numbers
