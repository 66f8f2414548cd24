"""Tiles of a frame that is too large to be computed at once.

A tile is a core and a margin around it, of which only the core's prediction counts. The margin is wider than what a
student looks at, and cores begin on the grid of its coarsest level, so that tiles give what the whole frame gives.
"""

from collections.abc import Iterator
from typing import NamedTuple

from .settings import is_number

TILE_SIZE = 1536  # up to Full HD a frame is one
MARGIN = 128  # what the students see around a pixel is less
GRID = 32  # the coarsest stride
BOUNDS = (256, 8192)


class Tile(NamedTuple):
    """A tile of a frame, along rows and columns: `seen` with the margin, `core` without, `inner` the core within it."""

    seen: tuple[slice, slice]
    core: tuple[slice, slice]
    inner: tuple[slice, slice]


def check_tile_size(size: int) -> int:
    """The size, if tiles can have it; else `ValueError`."""
    low, high = BOUNDS
    if not is_number(size) or not low <= size <= high or size % GRID:
        raise ValueError(f"the tiles' size is a multiple of {GRID} from {low} to {high}, got {size}")
    return size


def tiles(height: int, width: int, size: int) -> Iterator[Tile]:
    """The fewest tiles, row by row, with cores of at most `size` on a side."""
    for rows in _axis(height, size):
        for columns in _axis(width, size):
            yield Tile(*zip(rows, columns, strict=True))


def _axis(length: int, size: int) -> Iterator[tuple[slice, slice, slice]]:
    count = -(-length // size)
    core = -(-length // (count * GRID)) * GRID  # spread evenly
    for first in range(0, length, core):
        last, begin = min(first + core, length), max(first - MARGIN, 0)
        yield slice(begin, min(last + MARGIN, length)), slice(first, last), slice(first - begin, last - begin)
