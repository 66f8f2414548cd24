"""The margin: how much larger than targets people draw boxes. Gives pseudo labels boxes with the same margin."""

from collections.abc import Iterable

import numpy as np
from scipy import ndimage
from scipy.sparse.csgraph import connected_components

from scalpel_hf.data.objects import objects_from_mask
from scalpel_hf.data.transforms import Sample
from scalpel_hf.evaluation.box_metrics import as_corners


def tell_margin(margin: float) -> str:
    """A message about the margin, for the training of masks."""
    return f"people's boxes are {margin:g} pixels larger than targets here, so masks needn't touch their sides"


def margin_of_boxes(samples: Iterable[Sample]) -> float:
    """
    Pixels by which people's boxes are wider and higher than the targets that [`weak_label`] proposes in them.

    It is the median over widths and heights of all boxes with a proposed target; 0 without any. The margin is measured
    in pixels, not relative to the box, for the reason given in docs/explanation/boxes_and_points.md.
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
    Pixels by which people's boxes are larger than those of pseudo labels (see [`target_boxes`]): median of widths and
    heights of the former, minus that of the latter, at least 0. It is 0 if either is missing.

    It differs from [`margin_of_boxes`], since a teacher's masks are larger than the targets proposed in boxes. Labelled
    frames are assumed to be a random sample.

    Args:
        drawn: frames with people's boxes.
        pseudo: frames with pseudo labels.
        reach: see [`target_boxes`].
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
    Bounding boxes of the targets in a mask `(H, W)`, as `(N, 4)`, (x0, y0, x1, y1).

    Nearby components count as one target, since a detector would give one box for them: two components are joined if
    the centre of one lies in the other's box, enlarged by `reach` pixels in width and height.
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
    """[`target_boxes`], enlarged by `margin` pixels, as a map of box numbers `(H, W)` int32 like [`WeakLabel`]'s."""
    numbers = np.zeros(target.shape, np.int32)
    boxes = target_boxes(target, reach) + margin / 2 * np.array([-1, -1, 1, 1])
    by_size = sorted(np.rint(boxes).astype(int).clip(0).tolist(), key=lambda box: (box[0] - box[2]) * (box[3] - box[1]))
    for number, (x0, y0, x1, y1) in enumerate(by_size, 1):
        numbers[y0:y1, x0:x1] = number
    return numbers
