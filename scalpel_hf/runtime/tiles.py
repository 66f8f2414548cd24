"""
Divides a large frame into tiles, so that memory is bounded.

A tile is a core with a margin around it; only the prediction in the core is used. The margin is wider than the
receptive field of students of the named sizes, and cores begin on the grid of the coarsest stride. So their tiles give
the same result as the whole frame. Those of a deeper U-Net and of other models don't: runtime.json says it.
"""

from collections.abc import Iterator
from typing import NamedTuple

from .settings import is_number

TILE_SIZE = 1536  # pixels; frames up to Full HD are one tile
MARGIN = 128  # pixels, more than a named size's receptive field extends around a pixel
GRID = 32  # pixels, the coarsest stride
BOUNDS = (256, 8192)  # smallest and largest tile size


class Tile(NamedTuple):
    """
    A tile of a frame, as slices of rows and columns.

    Args:
        seen: the tile with its margin, in the frame.
        core: the tile without its margin, in the frame.
        inner: the core, in the tile with its margin.
    """

    seen: tuple[slice, slice]
    core: tuple[slice, slice]
    inner: tuple[slice, slice]


def check_tile_size(size: int) -> int:
    """Returns the size; raises `ValueError` unless it is a multiple of `GRID` within `BOUNDS`."""
    low, high = BOUNDS
    if not is_number(size) or not low <= size <= high or size % GRID:
        raise ValueError(f"the tiles' size is a multiple of {GRID} from {low} to {high}, got {size}")
    return size


def tiles(height: int, width: int, size: int) -> Iterator[Tile]:
    """
    Yields the smallest number of tiles with cores of at most `size` × `size` pixels, row by row.

    Examples:
        >>> [tile.core for tile in tiles(height=100, width=600, size=320)]
        [(slice(0, 100, None), slice(0, 320, None)), (slice(0, 100, None), slice(320, 600, None))]
    """
    for rows in _axis(height, size):
        for columns in _axis(width, size):
            yield Tile(*zip(rows, columns, strict=True))


def _axis(length: int, size: int) -> Iterator[tuple[slice, slice, slice]]:
    count = -(-length // size)
    core = -(-length // (count * GRID)) * GRID  # all cores but the last have this size
    for first in range(0, length, core):
        last, begin = min(first + core, length), max(first - MARGIN, 0)
        yield slice(begin, min(last + MARGIN, length)), slice(first, last), slice(first - begin, last - begin)
