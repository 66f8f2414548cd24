"""Maps of large frames from overlapping tiles, blended so that a seam neither cuts a target nor doubles it."""

from collections.abc import Callable

import numpy as np


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """
    First pixels of the fewest tiles that cover an axis with at least `overlap` pixels shared by neighbours.

    They are spread evenly. An axis no longer than a tile gives `[0]`.
    """
    if not 0 <= overlap < tile:
        raise ValueError(f"tiles of {tile} pixels can't overlap by {overlap}")
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [i * (length - tile) // (count - 1) for i in range(count)]


def axis_weights(length: int, starts: list[int], tile: int) -> list[np.ndarray]:
    """
    For each tile of an axis the weights of its pixels, float32.

    A pixel's weight rises with its distance to the tile's nearest edge, and the weights of all tiles sum to 1 at each
    pixel of the axis: where two tiles overlap, one fades out linearly as the other fades in.
    """
    size = min(tile, length)
    ramp = np.minimum(np.arange(size) + 0.5, size - 0.5 - np.arange(size))
    total = np.zeros(length)
    for start in starts:
        total[start : start + size] += ramp
    return [(ramp / total[start : start + size]).astype(np.float32) for start in starts]


def blend_tiles(predict: Callable[[np.ndarray], np.ndarray], frame: np.ndarray, tile: int, overlap: int) -> np.ndarray:
    """
    Maps `(C, H, W)` float32 of a frame `(H, W)` from those of its tiles.

    What is held is the frame, its maps and one tile's, however many tiles there are.

    Args:
        predict: from a tile `(h, w)` to its maps `(C, h, w)`.
        tile: side of the tiles in pixels; a frame shorter than that in one direction is not cut there.
        overlap: least number of pixels that neighbours share: twice a target's size, or more.
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
