"""Tracks targets from frame to frame, and leaves out those that are found in too few frames."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from .results import Result

REACH = 20.0  # largest distance in pixels between a target's expected and found position
PATIENCE = 5  # frames in a row in which a target may be missed
FAR = 1e6  # cost of pairs beyond `REACH`


@dataclass
class _Track:
    number: int
    centre: np.ndarray  # (x, y) in the frame where it was found last
    last: int  # number of that frame
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))  # (x, y) in pixels per frame
    frames: int = 1  # in which it was found
    is_over: bool = False

    def expected(self, now: int) -> np.ndarray:
        return self.centre + self.velocity * (now - self.last)

    def see(self, centre: np.ndarray, now: int) -> None:
        speed = (centre - self.centre) / (now - self.last)
        self.velocity = speed if self.frames == 1 else 0.5 * self.velocity + 0.5 * speed
        self.centre, self.last, self.frames = centre, now, self.frames + 1


class Tracker:
    """
    Gives the boxes of a target the same number in all frames of a recording.

    The boxes of a frame are assigned to the tracks so that the sum of distances between the boxes' centres and the
    tracks' expected positions is smallest (`scipy.optimize.linear_sum_assignment`). The expected position assumes a
    constant velocity. A box further than `REACH` from its track begins a new track. A track that is missed in more than
    `PATIENCE` frames in a row, also in ones that were left out, ends.

    Args:
        min_frames: targets that are found in fewer frames are left out. A frame is held back until this is known for
            all its targets, which takes about `min_frames + PATIENCE` frames.

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
        self._count = 0

    def push(self, result: Result, number: int) -> list[Result]:
        """
        Add a frame. Returns, in order, the frames for which it is now known which targets are kept.

        Args:
            result: of the frame.
            number: the frame's position in the recording, higher than the last one's; a gap is of frames left out.
        """
        self._end(missed_until=number - 1)
        self._held.append((result, self._pair(result.boxes, number)))
        self._end(missed_until=number)
        return self._known()

    def rest(self) -> list[Result]:
        """Returns the frames that are still held back, at the end of the recording."""
        for track in self._tracks:
            track.is_over = True
        self._tracks = []
        return self._known()

    def _end(self, missed_until: int) -> None:
        """End the tracks that are missed in too many frames, the last of which is `missed_until`."""
        for track in self._tracks:
            track.is_over = missed_until - track.last > PATIENCE
        self._tracks = [track for track in self._tracks if not track.is_over]

    def _pair(self, boxes: np.ndarray, now: int) -> list[_Track]:
        """Assign the boxes `(N, 4)` of frame `now` to tracks; returns the track of each box."""
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        expected = np.array([track.expected(now) for track in self._tracks]).reshape(-1, 2)
        distances = np.linalg.norm(expected[:, None] - centres, axis=-1)
        found: dict[int, _Track] = {}
        for row, column in zip(*self._assign(np.where(distances > REACH, FAR, distances)), strict=True):
            if distances[row, column] <= REACH:
                self._tracks[row].see(centres[column], now)
                found[column] = self._tracks[row]
        for column in range(len(boxes)):
            if column not in found:
                self._count += 1
                found[column] = _Track(self._count, centres[column], now)
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
