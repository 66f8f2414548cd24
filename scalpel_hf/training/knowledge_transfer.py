"""Stage 2, deployment-oriented transfer: what a student is shown and what it is asked for."""

from collections.abc import Callable
from functools import partial
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from scalpel_hf.data.label_sources import BOX, BY_PEOPLE, HUMAN, POINT, PSEUDO
from scalpel_hf.data.objects import EIGHT_CONNECTED
from scalpel_hf.data.pasting import Patch, place_cutouts, with_patches
from scalpel_hf.data.transforms import (
    Sample,
    Spread,
    dihedral,
    dihedral_points,
    response_curve,
    sensor_noise,
    zoomed_crop,
    zoomed_shape,
)
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor
from scalpel_hf.modeling.losses import BCE_WEIGHT, soft_iou_loss, weighted_bce
from scalpel_hf.modeling.segmentation_maps import as_foreground
from scalpel_hf.training.box_loss import box_projection_loss
from scalpel_hf.training.box_margin import margin_of_boxes, margin_of_pseudo_labels, number_boxes
from scalpel_hf.training.frames import LabelledFrame, LabelledFrames, labelled_sample
from scalpel_hf.training.sampling import shuffled

MEASURED = 200  # frames, or up to twice as many, that tell the margin of people's boxes


class StudentSamples(Dataset):
    """
    Augmented crops of all frames that have a label.

    Sample i is a pure function of (`seed`, i). Frames that people labelled make up at least `human_share` of the
    samples, so that a tenth of true labels is not lost among the pseudo labels; within each kind every pass shows each
    frame once, in a new order. A crop costs the same of frames of any size, see [`zoomed_crop`], and memory is bounded,
    see [`LabelledFrames`].

    Args:
        dataset: rows with `image` and people's masks, boxes or points, or pseudo labels; others are left out.
        crop_size: side of the crops in pixels.
        human_share: between 0 and 1.

    `margin` is that of people's boxes, in pixels of the frame, see [`margin_of_boxes`]; 0 where they drew none.
    """

    def __init__(
        self,
        dataset: datasets.Dataset,
        processor: InfraredImageProcessor,
        crop_size: int,
        seed: int,
        human_share: float = 0.5,
    ):
        if not 0 <= human_share <= 1:
            raise ValueError(f"`human_share` must be between 0 and 1, got {human_share}")
        if processor.size_divisor and crop_size % processor.size_divisor:
            raise ValueError(f"`crop_size` must be a multiple of {processor.size_divisor} here, got {crop_size}")
        sources = dataset["label_source"]
        self.human = [i for i, source in enumerate(sources) if source in BY_PEOPLE]
        self.human_set = set(self.human)
        self.pseudo = [i for i, source in enumerate(sources) if source == PSEUDO]
        # A pasted target counts in full: it should be a true one, of a known extent.
        self.donors = [i for i in self.human if sources[i] == HUMAN] or self.human or self.pseudo
        self.drawn = [i for i in self.human if sources[i] in (BOX, POINT)]
        self.has_boxes = bool(self.drawn)
        self.indices = self.human + self.pseudo
        if not self.indices:
            raise ValueError("no frame of the data set has a label: every `label_source` is 'none'")
        self.frames = LabelledFrames(dataset, processor)
        self.margin = margin_of_boxes(self.frames[i].sample for i in _some(self.drawn))
        self.processor, self.crop_size, self.seed = processor, crop_size, seed
        share = max(human_share, len(self.human) / len(self.indices)) if self.human else 0.0
        self.share = share if self.pseudo else 1.0

    def _index(self, i: int) -> int:
        """Row of sample i: `floor(i · share)` human samples have come before it."""
        before = int(i * self.share + 1e-9)
        human = int((i + 1) * self.share + 1e-9) > before
        rows, number = (self.human, before) if human else (self.pseudo, i - before)
        return rows[shuffled(number, len(rows), self.seed)]

    def labelled_frame(self, i: int) -> Sample:
        """The whole frame that sample i is a view of, as it is labelled."""
        return self.frames[self._index(i)].labelled()

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._crop(i)[0]

    def _crop(self, i: int) -> tuple[dict[str, Any], float]:
        """Sample i, and the factor by which it is zoomed."""
        index = self._index(i)
        frame, is_human = self.frames[index], index in self.human_set
        rng = np.random.default_rng([self.seed, 1, i])
        turn = int(rng.integers(8))
        factor = float(np.exp(rng.uniform(np.log(0.7), np.log(1.4)))) if rng.random() < 0.5 else 1.0
        turned, pixels = dihedral(frame.sample, turn), dihedral_points(frame.pixels, frame.target.shape, turn)
        taken = turned.target if turned.boxes is None else turned.target | (turned.boxes > 0)
        patches = self._patches(frame, taken, factor, rng) if rng.random() < 0.5 else []
        shown, _ = zoomed_crop(turned, self.crop_size, factor, rng, pixels=pixels, patches=patches, full_weight=255)
        whole = with_patches(turned.frame, patches, zoomed_shape(turned.frame.shape, factor)) if patches else None
        spread = frame.spread if whole is None else Spread.of(whole)
        curve = response_curve(spread.low, spread.high, rng)
        seen = sensor_noise(curve(shown.frame) if curve else shown.frame, rng, spread.deviation)
        result = {
            "pixel_values": self._pixel_values(frame.normalize(seen, whole, curve)),
            "labels": torch.from_numpy(shown.target),
            "weights": torch.from_numpy(shown.weight / np.float32(255)),
            "human": torch.tensor(float(is_human)),
        }
        if self.has_boxes:
            result["boxes"] = torch.from_numpy(shown.numbered_boxes())
        return result, factor

    def _patches(self, frame: LabelledFrame, taken: np.ndarray, factor: float, rng: np.random.Generator) -> list[Patch]:
        """One to three targets of another frame, placed anywhere in the zoomed one where no pixel is taken."""
        donor = self.frames[self.donors[int(rng.integers(len(self.donors)))]]
        if not (frame.has_spread and donor.has_spread):
            return []
        unit, count = frame.spread.deviation / donor.spread.deviation, int(rng.integers(1, 4))
        return place_cutouts(donor.cutouts, taken, zoomed_shape(taken.shape, factor), rng, count, unit)

    def _pixel_values(self, crop: np.ndarray) -> Tensor:
        """A crop as the model takes it, (C, S, S)."""
        return torch.from_numpy(crop).expand(self.processor.num_channels, -1, -1)


class DetectionSamples(StudentSamples):
    """
    [`StudentSamples`] with the boxes of their targets in place of the mask, in transformers' format: `labels` with
    `class_labels` (N,), all 0, and `boxes` (N, 4), (centre x, centre y, width, height) as shares of the crop.

    A box that a person drew is taken as it is, cut off at the crop's edge, and its pixels weigh 1. Where these have a
    margin, other targets get boxes of the same kind: pasted ones and those of masks their own with that margin, those
    of pseudo labels theirs with `pseudo_margin`, see [`margin_of_pseudo_labels`].
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.pseudo_margin = 0.0
        if self.margin and self.pseudo:
            drawn, pseudo = (
                map(labelled_sample, self.frames.dataset.select(rows)) for rows in map(_some, (self.drawn, self.pseudo))
            )
            self.pseudo_margin = margin_of_pseudo_labels(drawn, pseudo, self.margin)
            self.frames.pseudo_boxes = partial(number_boxes, reach=self.margin, margin=self.pseudo_margin)

    def __getitem__(self, i: int) -> dict[str, Any]:
        sample, zoom = self._crop(i)
        target = sample["labels"].numpy()
        numbers = sample.pop("boxes").numpy() if self.has_boxes else np.zeros(target.shape, np.int32)
        others = boxes_of_target(_away_from_boxes(target, numbers))
        found = np.concatenate([_drawn_boxes(numbers), _grown(others, self.margin * zoom, self.crop_size)])
        if sample["human"]:
            sample["weights"][torch.from_numpy(numbers > 0)] = 1
        boxes = torch.from_numpy(found) / self.crop_size
        sample["labels"] = {"class_labels": torch.zeros(len(boxes), dtype=torch.long), "boxes": boxes}
        return sample

    @staticmethod
    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        labels = [sample.pop("labels") for sample in samples]
        return {**default_collate(samples), "labels": labels}


def _some(rows: list[int]) -> list[int]:
    """`MEASURED` rows, or up to twice as many, at equal distances."""
    return rows[:: max(1, len(rows) // MEASURED)]


def boxes_of_target(target: np.ndarray) -> np.ndarray:
    """
    Boxes (N, 4), float32, (centre x, centre y, width, height) in pixels, of the components of a target map in [0, 1].

    A component is where the map exceeds half of the highest value in its 8-connected region above 0: one half where
    that is 1. A zoom may spread a target of a pixel or two over several, none of which exceeds one half.
    """
    regions, count = ndimage.label(target > 0, structure=EIGHT_CONNECTED)
    peaks = np.asarray(ndimage.maximum(target, regions, range(count + 1)), dtype=np.float32)
    labels, _ = ndimage.label(target > peaks[regions] / 2, structure=EIGHT_CONNECTED)
    return _drawn_boxes(labels)


def _drawn_boxes(numbers: np.ndarray) -> np.ndarray:
    """Those of a map of numbers, as [`boxes_of_target`] has them."""
    windows = [window for window in ndimage.find_objects(numbers) if window is not None]
    corners = [(c.start, r.start, c.stop, r.stop) for r, c in windows]
    x0, y0, x1, y1 = np.array(corners, dtype=np.float32).reshape(-1, 4).T
    return np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=1)


def _away_from_boxes(target: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """A target map without what lies in drawn boxes, or reaches out of one."""
    regions, _ = ndimage.label((target > 0) | (numbers > 0), structure=EIGHT_CONNECTED)
    return np.where(np.isin(regions, regions[numbers > 0]), 0, target)


def _grown(boxes: np.ndarray, by: float, size: int) -> np.ndarray:
    """Boxes (N, 4), (centre x, centre y, width, height), so much wider and higher, and cut off at a crop's edge."""
    low = np.maximum(boxes[:, :2] - (boxes[:, 2:] + by) / 2, 0)
    high = np.minimum(boxes[:, :2] + (boxes[:, 2:] + by) / 2, size)
    return np.concatenate([(low + high) / 2, high - low], axis=1).astype(np.float32)


LossFunction = Callable[[nn.Module, dict[str, Any], int], tuple[Tensor, dict[str, float]]]


def transfer_loss(
    pseudo_weight: float, warmup_steps: int, logit_shift: float = 0.0, box_weight: float = 1.0, margin: float = 0.0
) -> LossFunction:
    """
    The student's loss as a function of (model, batch, step): `10 · BCE + soft IoU`, each pixel weighted.

    A pseudo-labelled pixel weighs its confidence times `pseudo_weight`, which rises from 0 over `warmup_steps`. Coarser
    logits are resized to the labels' size.

    `logit_shift` is added to the logits, so that by themselves they are calibrated to whole frames, where targets are
    rarer than in the crops: the logit adjustment of Menon et al. (arXiv 2007.07314) by what `prior_shift` measures.

    Where people drew boxes, `box_weight` times [`box_projection_loss`] is added, for boxes of that margin.
    """

    def loss_function(model: nn.Module, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, float]]:
        share = _share(batch["human"], pseudo_weight, step, warmup_steps)
        target, weight = batch["labels"][:, None], batch["weights"][:, None] * share[:, None, None, None]
        logits = foreground_logits(model(pixel_values=batch["pixel_values"]).logits, target.shape[2:]) + logit_shift
        bce, iou = weighted_bce(logits, target, weight), soft_iou_loss(logits, target, weight)
        loss, metrics = BCE_WEIGHT * bce + iou, {"bce": bce.item(), "soft_iou": iou.item()}
        if "boxes" in batch:
            projections = box_projection_loss(logits, batch["boxes"], margin)
            loss, metrics = loss + box_weight * projections, metrics | {"boxes": projections.item()}
        return loss, metrics

    return loss_function


def foreground_logits(logits: Tensor, size: torch.Size) -> Tensor:
    """(B, 1, H, W) of the logits of a model for semantic segmentation, resized where they are coarser than frames."""
    logits = as_foreground(logits)
    return logits if logits.shape[2:] == size else F.interpolate(logits, size, mode="bilinear", align_corners=False)


def detection_loss(pseudo_weight: float, warmup_steps: int, weigh_pixels: bool) -> LossFunction:
    """
    A detector's own loss as a function of (model, batch, step).

    Args:
        pseudo_weight: of pseudo-labelled frames beside human ones, risen from 0 over `warmup_steps`.
        weigh_pixels: whether the model takes `pixel_weights`, as [`ScalpelStudentForObjectDetection`] does: pixels then
            weigh their confidence too. Of another model the loss of each kind of frame is taken apart and weighted.
    """

    def loss_function(model: nn.Module, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, float]]:
        share = _share(batch["human"], pseudo_weight, step, warmup_steps)
        if weigh_pixels:
            weights = batch["weights"] * share[:, None, None]
            outputs = model(pixel_values=batch["pixel_values"], labels=batch["labels"], pixel_weights=weights)
            return outputs.loss, {name: value.item() for name, value in outputs.loss_dict.items()}
        loss = share.new_zeros(())
        for kind in share.unique().tolist():
            rows = (share == kind).nonzero()[:, 0]
            labels = [batch["labels"][row] for row in rows.tolist()]
            part = model(pixel_values=batch["pixel_values"][rows], labels=labels).loss
            loss = loss + kind * part * len(rows) / len(share)
        return loss, {}

    return loss_function


def _share(human: Tensor, pseudo_weight: float, step: int, warmup_steps: int) -> Tensor:
    """Weight (B,) of each frame at a step."""
    return human + (1 - human) * pseudo_weight * min(1.0, (step + 1) / max(1, warmup_steps))
