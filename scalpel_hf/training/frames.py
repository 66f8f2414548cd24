"""Labelled frames in memory, from which students' crops are cut: decoded once and cached, up to a limit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import datasets
import numpy as np
from torch.utils.data import get_worker_info

from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.label_sources import BOX, POINT, PSEUDO
from scalpel_hf.data.pasting import Cutout, cut_out, has_spread
from scalpel_hf.data.proposals import row_weak_label
from scalpel_hf.data.training_labels import training_mask
from scalpel_hf.data.transforms import Curve, Sample, Spread
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor
from scalpel_hf.runtime.preprocessing import apply_normalization, offset_and_scale

MEMORY = 1 << 30  # bytes of decoded frames that a process keeps: 1300 frames of 512 × 512 with 8 bits


def labelled_sample(row: dict) -> Sample:
    """
    A row's frame, target and weight: of a mask see [`training_mask`], of boxes and points [`weak_label`].

    Raises `ValueError`, which names the row, if it has no label or frame and mask differ in size.
    """
    sample = _read(row)
    return replace(sample, frame=sample.frame.astype(np.float32))


def _read(row: dict) -> Sample:
    """[`labelled_sample`], but with the frame's stored dtype."""
    if row["label_source"] in (BOX, POINT):
        frame = read_frame(row["image"])
        weak = row_weak_label(row, frame)
        return Sample(frame=frame, target=weak.target, weight=weak.weight, boxes=weak.boxes)
    label = training_mask(row)
    if label is None:
        raise ValueError(f"{row['name']} has neither a human nor a pseudo label: `label_source` is 'none'")
    frame = read_frame(row["image"])
    if frame.shape != label[0].shape:
        raise ValueError(f"{row['name']}: the frame is {frame.shape}, its mask {label[0].shape} (height, width)")
    return Sample(frame, *label)


@dataclass
class LabelledFrame:
    """
    A frame with its label, and cached values that its crops need. All arrays are `(H, W)`.

    Args:
        frame: in its stored dtype.
        target: bool.
        weight: 255 times the weight, uint8.
        boxes: int32, the number of the box that contains the pixel, 0 outside; `None` without boxes.
        processor: for the normalisation.
    """

    frame: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    boxes: np.ndarray | None
    processor: InfraredImageProcessor

    @property
    def nbytes(self) -> int:
        boxes = 0 if self.boxes is None else self.boxes.nbytes
        return self.frame.nbytes + self.target.nbytes + self.weight.nbytes + boxes

    @property
    def sample(self) -> Sample:
        """The arrays as a [`Sample`], with weights times 255."""
        return Sample(frame=self.frame, target=self.target, weight=self.weight, boxes=self.boxes)

    def labelled(self) -> Sample:
        """The same as [`labelled_sample`]."""
        frame, target = self.frame.astype(np.float32), self.target.astype(np.float32)
        return Sample(frame=frame, target=target, weight=self.weight / np.float32(255), boxes=self.boxes)

    @cached_property
    def pixels(self) -> np.ndarray:
        return self.sample.pixels()

    @cached_property
    def cutouts(self) -> list[Cutout]:
        return cut_out(self.frame, self.target, self.weight)

    @cached_property
    def spread(self) -> Spread:
        return Spread.of(self.frame)

    @property
    def has_spread(self) -> bool:
        return has_spread(self.spread.low, self.spread.high)

    def normalize(self, window: np.ndarray, whole: np.ndarray | None = None, curve: Curve | None = None) -> np.ndarray:
        """
        A crop, float32, normalised with the statistics of the whole frame.

        Args:
            window: the augmented crop.
            whole: the frame with pasted targets, if there are any.
            curve: the response curve that was applied to the crop, if any.
        """
        if whole is None and curve is None:
            return apply_normalization(window, *self._linear, self.spread.low)
        whole = self.frame.astype(np.float32) if whole is None else whole
        whole = curve(whole) if curve else whole
        return apply_normalization(window, *self._offset_and_scale(whole), float(whole.min()))

    @cached_property
    def _linear(self) -> tuple[float, float]:
        return self._offset_and_scale(self.frame)

    def _offset_and_scale(self, frame: np.ndarray) -> tuple[float, float]:
        return offset_and_scale(frame, self.processor.normalization, self.processor.percentiles)


class LabelledFrames(Sequence[LabelledFrame]):
    """
    The labelled frames of a data set, decoded and checked at first access, then cached.

    The frames that come first stay in the cache until it is full; none is evicted. (With random passes over all frames,
    evicting the oldest would make the cache useless.) Workers of a `DataLoader` share the limit equally.

    Args:
        dataset: rows with `image` and people's masks, boxes or points, or pseudo labels.
        processor: for the normalisation.
        memory: limit of the cache in bytes.

    Attributes: `pseudo_boxes`, if set, makes the `boxes` of a pseudo label from its target `(H, W)`.
    """

    pseudo_boxes: Callable[[np.ndarray], np.ndarray] | None = None

    def __init__(self, dataset: datasets.Dataset, processor: InfraredImageProcessor, memory: int = MEMORY):
        self.dataset, self.processor, self.memory = undecoded(dataset), processor, memory
        self.kept: dict[int, LabelledFrame] = {}
        self.bytes_kept = 0

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> LabelledFrame:  # type: ignore[override]
        if index in self.kept:
            return self.kept[index]
        row = self.dataset[index]
        sample = _read(row)
        if self.pseudo_boxes is not None and row["label_source"] == PSEUDO:
            sample = replace(sample, boxes=self.pseudo_boxes(sample.target > 0))
        weight = np.rint(sample.weight * 255).astype(np.uint8)
        frame = LabelledFrame(sample.frame, sample.target > 0, weight, boxes=sample.boxes, processor=self.processor)
        worker = get_worker_info()
        if self.bytes_kept + frame.nbytes <= self.memory // (worker.num_workers if worker else 1):
            self.kept[index] = frame
            self.bytes_kept += frame.nbytes
        return frame

    def __getstate__(self) -> dict:
        """Without the cache: another process fills its own."""
        return {**self.__dict__, "kept": {}, "bytes_kept": 0}
