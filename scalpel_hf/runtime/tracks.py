"""Targets followed from frame to frame, and what is seen in too few frames left out."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from .results import Result

REACH = 20.0  # pixels between where a target is expected and where it is found
PATIENCE = 5  # frames that a target may be missed in
FAR = 1e6


@dataclass
class _Track:
    number: int
    centre: np.ndarray  # (x, y), where it was seen last
    last: int  # the frame that was
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))
    frames: int = 1
    is_over: bool = False

    def expected(self, now: int) -> np.ndarray:
        return self.centre + self.velocity * (now - self.last)

    def see(self, centre: np.ndarray, now: int) -> None:
        speed = (centre - self.centre) / (now - self.last)
        self.velocity = speed if self.frames == 1 else 0.5 * self.velocity + 0.5 * speed
        self.centre, self.last, self.frames = centre, now, self.frames + 1


class Tracker:
    """
    Gives the boxes of one target the same number through the frames of a recording.

    Each frame's boxes are paired with the tracks so that the sum of the distances between their centres and those
    expected, at the last speed, is least (`scipy.optimize.linear_sum_assignment`); what lies further off than `REACH`
    begins a track of its own. A track that is missed in more than `PATIENCE` frames in a row is over.

    Args:
        min_frames: a target that is seen in fewer is left out. Frames are held back until that is known of all their
            targets, which takes some `min_frames + PATIENCE` frames.

    Raises `ImportError` without SciPy.
    """

    def __init__(self, min_frames: int = 1):
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError as error:
            raise ImportError("following targets needs SciPy: pip install scipy") from error
        self._assign = linear_sum_assignment
        self.min_frames = min_frames
        self._tracks: list[_Track] = []
        self._held: deque[tuple[Result, list[_Track]]] = deque()
        self._count = self._now = 0

    def push(self, result: Result) -> list[Result]:
        """Add a frame. Returns the frames whose targets are all decided, in order, with the targets numbered."""
        self._now += 1
        self._held.append((result, self._pair(result.boxes)))
        for track in self._tracks:
            track.is_over = self._now - track.last > PATIENCE
        self._tracks = [track for track in self._tracks if not track.is_over]
        return self._known()

    def rest(self) -> list[Result]:
        """The remaining frames, at the end of the recording."""
        for track in self._tracks:
            track.is_over = True
        self._tracks = []
        return self._known()

    def _pair(self, boxes: np.ndarray) -> list[_Track]:
        """The track of each box."""
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        expected = np.array([track.expected(self._now) for track in self._tracks]).reshape(-1, 2)
        distances = np.linalg.norm(expected[:, None] - centres, axis=-1)
        found: dict[int, _Track] = {}
        for row, column in zip(*self._assign(np.where(distances > REACH, FAR, distances)), strict=True):
            if distances[row, column] <= REACH:
                self._tracks[row].see(centres[column], self._now)
                found[column] = self._tracks[row]
        for column in range(len(boxes)):
            if column not in found:
                self._count += 1
                found[column] = _Track(self._count, centres[column], self._now)
                self._tracks.append(found[column])
        return [found[column] for column in range(len(boxes))]

    def _known(self) -> list[Result]:
        known = []
        while self._held and all(t.is_over or t.frames >= self.min_frames for t in self._held[0][1]):
            result, tracks = self._held.popleft()
            numbers = np.array([track.number for track in tracks], int)
            kept = np.array([track.frames >= self.min_frames for track in tracks], bool)
            known.append(result.only(kept, numbers))
        return known
