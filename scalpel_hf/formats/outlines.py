"""Outlines of targets as polygons."""

import numpy as np

INSET = 0.1
STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # (row, column) to the right, down, to the left, up
# Of a pixel's edges, walked clockwise: where each starts, seen from the pixel's upper left corner.
STARTS = ((0, 0), (0, 1), (1, 1), (1, 0))
OUTSIDE = ((-1, 0), (0, 1), (1, 0), (0, -1))  # the neighbour across each edge


def outline(pixels: np.ndarray) -> np.ndarray:
    """
    The outer outline of an 8-connected target, clockwise, a tenth of a pixel inside the pixels' edges.

    Whoever fills the polygon gets the target's pixels back, holes filled: a pixel's centre lies inside if and only if
    the pixel is the target's, and so do the whole pixels that the corners fall into when they are cut off to integers.
    Where pixels touch by a corner alone the outline crosses over there and back.

    Args:
        pixels: `(H, W)` bool, one component.

    Returns `(N, 2)`, x and y in pixels, 0 being the left edge of the first column; N is at least 4.
    """
    padded = np.pad(pixels, 1)
    edges = {}  # where it starts and which way it goes → its pixel
    for row, column in np.argwhere(padded).tolist():
        for way, (down, right) in enumerate(OUTSIDE):
            if not padded[row + down, column + right]:
                edges[(row + STARTS[way][0], column + STARTS[way][1], way)] = (row, column)
    first = min(edges)  # the upper edge of the highest row's leftmost pixel
    edge, points = first, []
    while True:
        start, way, (row, column) = edge[:2], edge[2], edges[edge]
        stop = (start[0] + STEPS[way][0], start[1] + STEPS[way][1])
        points += [_inset(start, row, column), _inset(stop, row, column)]
        # Left first: that keeps to one side of the background, so that it goes round pixels that touch by a corner.
        edge = next(e for e in ((*stop, (way + turn) % 4) for turn in (-1, 0, 1)) if e in edges)
        if edge == first:
            return _corners(np.array(points)) - 1


def _inset(corner: tuple[int, int], row: int, column: int) -> tuple[float, float]:
    """x and y of a pixel's corner, moved towards its centre."""
    y, x = corner
    return x + (INSET if x == column else -INSET), y + (INSET if y == row else -INSET)


def _corners(points: np.ndarray) -> np.ndarray:
    """A closed polygon's points without those that lie between their neighbours."""
    points = points[(points != np.roll(points, -1, 0)).any(1)]
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    turns = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
    return points[np.abs(turns) > INSET**2]
