"""Stage 2, deployment-oriented knowledge transfer: the student's training samples and losses."""

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
    PASTE_SHARE,
    ZOOM,
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
from scalpel_hf.training.loop import LossFunction
from scalpel_hf.training.sampling import shuffled

MEASURED = 200  # frames (at least; at most twice as many) in which the margin of people's boxes is measured


class StudentSamples(Dataset):
    """
    Augmented crops of all frames that have a label.

    Sample i is a pure function of (`seed`, i). Frames that people labelled make up at least `human_share` of the
    samples. Each epoch over the frames that people labelled, and each over the pseudo-labelled ones, shows every frame
    once, in a new order. The time for a crop doesn't depend on the size of its frame, see [`zoomed_crop`]; memory is
    bounded, see [`LabelledFrames`].

    A sample has `pixel_values` `(C, S, S)`, `labels` and `weights` `(S, S)`, `human` (1 for a person's label, else 0),
    and `boxes` `(S, S)` if some labels are boxes or points.

    Args:
        dataset: rows with `image` and people's masks, boxes or points, or pseudo labels; other rows are left out.
        processor: the student's.
        crop_size: side S of the crops in pixels.
        seed: of all random choices.
        human_share: between 0 and 1.

    Attributes: `margin`, that of people's boxes in pixels, see [`margin_of_boxes`]; 0 without boxes. `zoom` and
    `paste_share`: how crops are zoomed, and the share into which targets are pasted.

    Raises `ValueError` if no row has a label, or `human_share` or `crop_size` is out of range.
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
        # Pasted targets have weight 1, so they are taken from exact masks if there are any.
        self.donors = [i for i in self.human if sources[i] == HUMAN] or self.human or self.pseudo
        self.drawn = [i for i in self.human if sources[i] in (BOX, POINT)]
        self.has_boxes = bool(self.drawn)
        self.indices = self.human + self.pseudo
        if not self.indices:
            raise ValueError("no frame of the data set has a label: every `label_source` is 'none'")
        self.frames = LabelledFrames(dataset, processor)
        self.margin = margin_of_boxes(self.frames[i].sample for i in _evenly_spaced(self.drawn))
        self.processor, self.crop_size, self.seed = processor, crop_size, seed
        self.zoom, self.paste_share = ZOOM, PASTE_SHARE
        share = max(human_share, len(self.human) / len(self.indices)) if self.human else 0.0
        self.share = share if self.pseudo else 1.0

    def _index(self, i: int) -> int:
        """Row of sample i. `floor(i · share)` of the samples before it are people's."""
        before = int(i * self.share + 1e-9)
        human = int((i + 1) * self.share + 1e-9) > before
        rows, number = (self.human, before) if human else (self.pseudo, i - before)
        return rows[shuffled(number, len(rows), self.seed)]

    def labelled_frame(self, i: int) -> Sample:
        """The whole frame, with its label, that sample i is a crop of."""
        return self.frames[self._index(i)].labelled()

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._crop(i)[0]

    def _crop(self, i: int) -> tuple[dict[str, Any], float]:
        """Sample i, and its zoom factor."""
        index = self._index(i)
        frame, is_human = self.frames[index], index in self.human_set
        rng = np.random.default_rng([self.seed, 1, i])
        turn = int(rng.integers(8))
        factor = self.zoom(rng)
        turned, pixels = dihedral(frame.sample, turn), dihedral_points(frame.pixels, frame.target.shape, turn)
        taken = turned.target if turned.boxes is None else turned.target | (turned.boxes > 0)
        pastes = rng.random() < self.paste_share
        patches = self._patches(frame, taken=taken, factor=factor, rng=rng) if pastes else []
        shown, _ = zoomed_crop(
            turned,
            size=self.crop_size,
            factor=factor,
            rng=rng,
            pixels=pixels,
            patches=patches,
            full_weight=255,
        )
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
        """One to three targets of another frame, placed at random in the zoomed frame, away from its own targets."""
        donor = self.frames[self.donors[int(rng.integers(len(self.donors)))]]
        if not (frame.has_spread and donor.has_spread):
            return []
        unit, count = frame.spread.deviation / donor.spread.deviation, int(rng.integers(1, 4))
        zoomed = zoomed_shape(taken.shape, factor)
        return place_cutouts(donor.cutouts, taken, zoomed=zoomed, rng=rng, count=count, unit=unit)

    def _pixel_values(self, crop: np.ndarray) -> Tensor:
        """The model's input `(C, S, S)` for a crop `(S, S)`."""
        return torch.from_numpy(crop).expand(self.processor.num_channels, -1, -1)


class DetectionSamples(StudentSamples):
    """
    [`StudentSamples`] for detectors: `labels` are in transformers' format, `class_labels` `(N,)`, all 0, and `boxes`
    `(N, 4)`, (centre x, centre y, width, height) relative to the crop.

    People's boxes are used as drawn, clipped to the crop, and their pixels have weight 1. If people draw boxes larger
    than targets, the boxes of all other targets are enlarged to match: those of masks and pasted targets by `margin`,
    those of pseudo labels by `pseudo_margin`, see [`margin_of_pseudo_labels`].
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.pseudo_margin = 0.0
        if self.margin and self.pseudo:
            drawn, pseudo = (
                map(labelled_sample, self.frames.dataset.select(rows))
                for rows in map(_evenly_spaced, (self.drawn, self.pseudo))
            )
            self.pseudo_margin = margin_of_pseudo_labels(drawn, pseudo, self.margin)
            self.frames.pseudo_boxes = partial(number_boxes, reach=self.margin, margin=self.pseudo_margin)

    def __getitem__(self, i: int) -> dict[str, Any]:
        sample, zoom = self._crop(i)
        target = sample["labels"].numpy()
        numbers = sample.pop("boxes").numpy() if self.has_boxes else np.zeros(target.shape, np.int32)
        others = boxes_of_target(_outside_of_drawn_boxes(target, numbers))
        found = np.concatenate([_boxes_of_components(numbers), _enlarged(others, self.margin * zoom, self.crop_size)])
        if sample["human"]:
            sample["weights"][torch.from_numpy(numbers > 0)] = 1
        boxes = torch.from_numpy(found) / self.crop_size
        sample["labels"] = {"class_labels": torch.zeros(len(boxes), dtype=torch.long), "boxes": boxes}
        return sample

    @staticmethod
    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch, with `labels` as a list."""
        labels = [sample.pop("labels") for sample in samples]
        return {**default_collate(samples), "labels": labels}


def _evenly_spaced(rows: list[int]) -> list[int]:
    """At least `MEASURED` of the rows (if there are as many) and at most twice as many, evenly spaced."""
    return rows[:: max(1, len(rows) // MEASURED)]


def boxes_of_target(target: np.ndarray) -> np.ndarray:
    """
    Bounding boxes of the targets in a map `(H, W)` in [0, 1], as float32 `(N, 4)`, (centre x, centre y, width, height)
    in pixels.

    A target's pixels are those above half of the maximum of their 8-connected region. (A fixed threshold of 0.5 would
    lose small targets: zooming may spread one pixel over several, all below 0.5.)

    Examples:
        >>> boxes_of_target(np.array([[0, 0.4, 0.1], [0, 0.4, 0.1]]))
        array([[1.5, 1. , 1. , 2. ]], dtype=float32)
    """
    regions, count = ndimage.label(target > 0, structure=EIGHT_CONNECTED)
    peaks = np.asarray(ndimage.maximum(target, regions, range(count + 1)), dtype=np.float32)
    labels, _ = ndimage.label(target > peaks[regions] / 2, structure=EIGHT_CONNECTED)
    return _boxes_of_components(labels)


def _boxes_of_components(numbers: np.ndarray) -> np.ndarray:
    """Bounding boxes of a label map's components, as in [`boxes_of_target`]."""
    windows = [window for window in ndimage.find_objects(numbers) if window is not None]
    corners = [(c.start, r.start, c.stop, r.stop) for r, c in windows]
    x0, y0, x1, y1 = np.array(corners, dtype=np.float32).reshape(-1, 4).T
    return np.stack([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0], axis=1)


def _outside_of_drawn_boxes(target: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """A target map without the components that touch a box that a person drew."""
    regions, _ = ndimage.label((target > 0) | (numbers > 0), structure=EIGHT_CONNECTED)
    return np.where(np.isin(regions, regions[numbers > 0]), 0, target)


def _enlarged(boxes: np.ndarray, by: float, size: int) -> np.ndarray:
    """Boxes `(N, 4)`, (centre x, centre y, width, height), `by` pixels wider and higher, clipped to the crop."""
    low = np.maximum(boxes[:, :2] - (boxes[:, 2:] + by) / 2, 0)
    high = np.minimum(boxes[:, :2] + (boxes[:, 2:] + by) / 2, size)
    return np.concatenate([(low + high) / 2, high - low], axis=1).astype(np.float32)


def transfer_loss(
    pseudo_weight: float, warmup_steps: int, logit_shift: float = 0.0, box_weight: float = 1.0, margin: float = 0.0
) -> LossFunction:
    """
    The loss of a segmentation student: `10 · BCE + soft IoU + box_weight · box projection`.

    BCE and soft IoU are weighted by pixel, see [`StudentSamples`]; the last term is [`box_projection_loss`], if people
    drew boxes. Logits coarser than the labels are resized to these.

    Args:
        pseudo_weight: factor for pixels of pseudo-labelled frames; it rises linearly from 0 over `warmup_steps`.
        logit_shift: added to the logits in the loss. Without the shift the student's probabilities are then calibrated
            to whole frames, where targets are rarer than in the crops: the logit adjustment of Menon et al., "Long-tail
            learning via logit adjustment" (arXiv 2007.07314), by [`prior_shift`].
        box_weight: of the box projection.
        margin: of people's boxes in pixels, see [`margin_of_boxes`].

    Returns `(model, batch, step) → (loss, value of each term)`.
    """

    def loss_function(model: nn.Module, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, float]]:
        share = _frame_weights(batch["human"], pseudo_weight, step=step, warmup_steps=warmup_steps)
        target, weight = batch["labels"][:, None], batch["weights"][:, None] * share[:, None, None, None]
        logits = foreground_logits(model(pixel_values=batch["pixel_values"]).logits, target.shape[2:]) + logit_shift
        bce, iou = weighted_bce(logits, target, weight), soft_iou_loss(logits, target, weight)
        loss = (BCE_WEIGHT * bce + iou) * _batch_weight(share)
        metrics = {"bce": bce.item(), "soft_iou": iou.item()}
        if "boxes" in batch:
            projections = box_projection_loss(logits, batch["boxes"], margin)
            loss, metrics = loss + box_weight * projections, metrics | {"boxes": projections.item()}
        return loss, metrics

    return loss_function


def foreground_logits(logits: Tensor, size: torch.Size) -> Tensor:
    """One logit of target against background, `(B, 1, H, W)`, from the logits of any segmentation model."""
    logits = as_foreground(logits)
    return logits if logits.shape[2:] == size else F.interpolate(logits, size, mode="bilinear", align_corners=False)


def detection_loss(pseudo_weight: float, warmup_steps: int, weigh_pixels: bool) -> LossFunction:
    """
    The loss of a detection student: the model's own, with weights.

    Args:
        pseudo_weight: factor for pseudo-labelled frames; it rises linearly from 0 over `warmup_steps`.
        weigh_pixels: whether the model takes `pixel_weights`, as [`ScalpelStudentForObjectDetection`] does. Pixels are
            then weighted by their confidence too. Otherwise the model's loss is computed for people's frames and for
            pseudo-labelled ones, and the weighted mean is taken.

    Returns `(model, batch, step) → (loss, value of each term)`.
    """

    def loss_function(model: nn.Module, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, float]]:
        share = _frame_weights(batch["human"], pseudo_weight, step=step, warmup_steps=warmup_steps)
        if weigh_pixels:
            weights = batch["weights"] * share[:, None, None]
            outputs = model(pixel_values=batch["pixel_values"], labels=batch["labels"], pixel_weights=weights)
            return outputs.loss * _batch_weight(share), {
                name: value.item() for name, value in outputs.loss_dict.items()
            }
        loss = share.new_zeros(())
        for kind in share.unique().tolist():
            rows = (share == kind).nonzero()[:, 0]
            labels = [batch["labels"][row] for row in rows.tolist()]
            part = model(pixel_values=batch["pixel_values"][rows], labels=labels).loss
            loss = loss + kind * part * len(rows) / len(share)
        return loss, {}

    return loss_function


def _batch_weight(share: Tensor) -> Tensor:
    """Of a loss that is a mean by weight: without a frame of weight 1 in the batch, that of its frames."""
    return share.max().clamp(max=1)


def _frame_weights(human: Tensor, pseudo_weight: float, step: int, warmup_steps: int) -> Tensor:
    """Weight `(B,)` of each frame at a step: 1 for people's, `pseudo_weight` (warmed up) for pseudo-labelled ones."""
    return human + (1 - human) * pseudo_weight * min(1.0, (step + 1) / max(1, warmup_steps))
