"""Predicts large frames in overlapping tiles, and blends these so that targets at a seam are found once."""

from collections.abc import Callable

import numpy as np


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """
    First pixels of the tiles along an axis: as few as possible, evenly spaced, neighbours overlapping by at least
    `overlap` pixels. `[0]` if the axis is no longer than a tile.

    Examples:
        >>> tile_starts(length=100, tile=40, overlap=8)
        [0, 30, 60]
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"tiles of {tile} pixels can't overlap by {overlap}")
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [i * (length - tile) // (count - 1) for i in range(count)]


def axis_weights(length: int, starts: list[int], tile: int) -> list[np.ndarray]:
    """
    The blending weights of each tile along an axis, float32.

    A pixel's weight is its distance to the tile's nearer end, divided by the sum of these distances over all tiles that
    contain the pixel. So the weights of all tiles sum to 1 at every pixel.
    """
    size = min(tile, length)
    ramp = np.minimum(np.arange(size) + 0.5, size - 0.5 - np.arange(size))
    total = np.zeros(length)
    for start in starts:
        total[start : start + size] += ramp
    return [(ramp / total[start : start + size]).astype(np.float32) for start in starts]


def blend_tiles(predict: Callable[[np.ndarray], np.ndarray], frame: np.ndarray, tile: int, overlap: int) -> np.ndarray:
    """
    Predict a frame `(H, W)` tile by tile; returns the blended maps `(C, H, W)` float32.

    Memory holds the maps of the frame and of one tile, whatever the number of tiles.

    Args:
        predict: from a tile `(h, w)` to its maps `(C, h, w)`.
        frame: `(H, W)`.
        tile: side of the tiles in pixels. A frame is not cut along an axis that is shorter.
        overlap: of neighbouring tiles in pixels; it should be at least twice the size of a target.
    """
    height, width = frame.shape
    rows, cols = tile_starts(height, tile, overlap), tile_starts(width, tile, overlap)
    row_weights, col_weights = axis_weights(height, rows, tile), axis_weights(width, cols, tile)
    blended: np.ndarray | None = None
    for y, row_weight in zip(rows, row_weights, strict=True):
        for x, col_weight in zip(cols, col_weights, strict=True):
            rows_here, cols_here = slice(y, y + len(row_weight)), slice(x, x + len(col_weight))
            maps = predict(frame[rows_here, cols_here])
            if blended is None:
                blended = np.zeros((len(maps), height, width), np.float32)
            blended[:, rows_here, cols_here] += maps * row_weight[:, None] * col_weight
    assert blended is not None
    return blended
