"""How much larger than its target a box is drawn."""

from collections.abc import Iterable

import numpy as np
from scipy import ndimage

from scalpel_hf.data.transforms import Sample


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
