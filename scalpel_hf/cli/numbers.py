"""Types of numeric flags; each accepts only numbers within bounds that make sense."""

import argparse
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def between(kind: type[Number], least: Number, most: Number) -> Callable[[str], Number]:
    """
    A `type` for `add_argument`: an int or float from `least` to `most`. NaN is refused.

    Examples:
        >>> between(int, 1, 4)("3")
        3
    """

    def read(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            name = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"must be {name} from {least:g} to {most:g}, got {text!r}")
        return value

    return read


SEED = between(int, 0, 2**32 - 1)
COUNT = between(int, 1, 10**9)
PROBABILITY = between(float, 1e-6, 1 - 1e-6)  # for thresholds: at 0 everything is a target, at 1 nothing
SHARE = between(float, 0.0, 1.0)
THREADS = between(int, 1, 1024)
BATCH_SIZE = between(int, 1, 4096)
SIDE = between(int, 16, 16384)  # of an image or a tile, in pixels
SCALE = between(float, 0.1, 8.0)  # factor by which a frame is resized for a prediction
