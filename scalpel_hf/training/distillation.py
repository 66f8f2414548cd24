"""Stage 1, prior-guided knowledge distillation: the teacher's training samples and loss."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from scalpel_hf.adapter import record_router
from scalpel_hf.adapter.layer import asks_sam, outputs_without_sam, prompt_free_logits
from scalpel_hf.data.pasting import cut_out
from scalpel_hf.data.transforms import PASTE_SHARE, ZOOM, Sample, dihedral, paste_targets, photometric, zoomed_crop
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor, normalize_frame, to_sam_input
from scalpel_hf.modeling.teacher_loss import teacher_losses, weighted_sum
from scalpel_hf.predictors.feature_cache import FeatureCache, FrozenFeatures
from scalpel_hf.training.box_loss import box_projection_loss
from scalpel_hf.training.box_margin import margin_of_boxes
from scalpel_hf.training.loop import LossFunction
from scalpel_hf.training.sampling import shuffled

SYMMETRIES = 8  # of the square: four rotations, each with or without a flip


class TeacherSamples(Dataset):
    """
    Augmented crops of labelled frames, with the frozen features of SAM's encoder for the whole frame.

    SAM sees the whole frame in one of its eight symmetries, each of which is cached. Everything else is drawn anew for
    every crop: position, zoom, pasted targets, noise, response curve. (With fixed crops the teacher overfits, see
    docs/log.md.) Sample i is a pure function of (`seed`, i). Each epoch shows each frame once. With `background`, every
    second sample is a background frame, in one symmetry.

    A sample has `frames` `(1, S, S)`, `labels` and `weights` `(S, S)`; `boxes` `(S, S)` if some labels are boxes; and
    with a cache `states` (frozen features) and `frame_boxes` `(4,)` (the crop's box in SAM's input).

    Args:
        samples: the labelled frames, in sensor units.
        processor: normalises frames and makes SAM's input.
        cache: of the frozen features; `None` if the model doesn't use SAM's features.
        crop_size: side S of the crops in pixels.
        seed: of all random choices.
        background: unlabelled frames, see [`background_samples`].

    Attributes: `margin`, that of people's boxes, see [`margin_of_boxes`], and `zoom`, how crops are zoomed.
    """

    def __init__(
        self,
        samples: list[Sample],
        processor: InfraredImageProcessor,
        cache: FeatureCache | None,
        crop_size: int,
        seed: int,
        background: Sequence[Sample] = (),
    ):
        self.samples = [normalized_sample(sample, processor) for sample in samples]
        self.background = [normalized_sample(sample, processor) for sample in background]
        self.donors = [
            sample for sample in self.samples if sample.boxes is None
        ] or self.samples  # with exact masks, if there are any
        self.cutouts = [cut_out(donor.frame, donor.target, donor.weight) for donor in self.donors]
        self.has_boxes = any(sample.boxes is not None for sample in self.samples)
        self.margin = margin_of_boxes(self.samples)
        self.cache, self.crop_size, self.seed = cache, crop_size, seed
        self.zoom = ZOOM
        self.channels = {"mean": processor.sam_mean, "std": processor.sam_std}
        self._entries: dict[tuple[int, int], tuple[str, Tensor]] = {}

    def fill(self, progress: bool = True) -> None:
        """Compute the frozen features that are not in the cache yet."""
        if self.cache is None:
            return
        views = [(i, turn) for i in range(len(self.samples)) for turn in range(SYMMETRIES)]
        views += [(len(self.samples) + i, 0) for i in range(len(self.background))]
        frames = [*self.samples, *self.background]
        for index, turn in tqdm(views, desc="frozen features", disable=not progress, unit="view"):
            self._states(dihedral(frames[index], turn).frame, index, turn)

    def _states(self, frame: np.ndarray, index: int, turn: int) -> tuple[Tensor, Tensor]:
        """The frozen features of a frame in one symmetry, and the region (4,) that the frame covers in SAM's input."""
        assert self.cache is not None
        if (index, turn) not in self._entries:
            pixel_values, region = self._input(frame)
            self._entries[index, turn] = self.cache.key(pixel_values), region
        key, region = self._entries[index, turn]
        states = self.cache.load(key)
        if states is None:  # not in the cache, or damaged
            states = self.cache.get(self._input(frame)[0])
        return states, region

    def _input(self, frame: np.ndarray) -> tuple[Tensor, Tensor]:
        """SAM's input for a frame, and the region (4,) that the frame covers in it."""
        assert self.cache is not None
        turned = torch.from_numpy(np.ascontiguousarray(frame))
        return to_sam_input(turned, self.cache.frozen.input_size, **self.channels)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 1, i])
        frame, index, is_background = self._frame(i)
        turn = 0 if is_background else int(rng.integers(SYMMETRIES))
        turned = dihedral(frame, turn)
        sample, box = zoomed_crop(turned, size=self.crop_size, factor=self.zoom(rng), rng=rng)
        sample = self.with_pasted(sample, frame, rng)
        item = {
            "frames": torch.from_numpy(photometric(sample.frame, rng))[None],
            "labels": torch.from_numpy(sample.target),
            "weights": torch.from_numpy(sample.weight),
        }
        if self.has_boxes:
            item["boxes"] = torch.from_numpy(sample.numbered_boxes())
        if self.cache is not None:
            item["states"], region = self._states(turned.frame, index, turn)
            scale = region[2:] / torch.tensor(turned.frame.shape[::-1])
            item["frame_boxes"] = (torch.from_numpy(box) * scale.repeat(2)).float()
        return item

    def with_pasted(self, crop: Sample, frame: Sample, rng: np.random.Generator) -> Sample:
        """A crop of a frame, into a share of `PASTE_SHARE` of which targets of another frame are pasted."""
        if rng.random() >= PASTE_SHARE:
            return crop
        donor = int(rng.integers(len(self.donors)))
        unit = float(frame.frame.std() / max(self.donors[donor].frame.std(), 1e-6))
        return paste_targets(crop, self.cutouts[donor], rng, count=int(rng.integers(1, 4)), unit=unit)

    def labelled_frame(self, i: int) -> Sample:
        """The whole frame, with its label, that sample i is a crop of."""
        return self._frame(i)[0]

    def _frame(self, i: int) -> tuple[Sample, int, bool]:
        """The frame of sample i, the frame's index, and whether it is a background frame."""
        i, is_background = divmod(i, 2) if self.background else (i, 0)
        pool = self.background if is_background else self.samples
        number = shuffled(i, len(pool), self.seed)
        return pool[number], number + is_background * len(self.samples), bool(is_background)


def normalized_sample(sample: Sample, processor: InfraredImageProcessor) -> Sample:
    """A sample with its frame normalised. (Augmentations commute with the linear normalisation.)"""
    frame = normalize_frame(torch.from_numpy(sample.frame), processor.normalization, processor.percentiles)
    return Sample(frame=frame.numpy(), target=sample.target, weight=sample.weight, boxes=sample.boxes)


def distillation_loss(
    frozen: FrozenFeatures,
    supervised: float,
    prior: float,
    balance: float,
    logit_shift: float = 0.0,
    box_projection: float = 1.0,
    margin: float = 0.0,
) -> LossFunction:
    """
    The teacher's loss:

    `supervised · (10 · BCE + soft IoU) + prior · prior guidance + balance · load balance + box_projection · boxes`

    See [`teacher_losses`] for the first three terms. Prior guidance has two parts: BCE between the routed mixture of
    prior maps and the labels, and a penalty on confident predictions where no operator responds. The last term is
    [`box_projection_loss`], if people drew boxes.

    Args:
        frozen: computes image embeddings from a batch's frozen features.
        supervised, prior, balance, box_projection: weights of the terms.
        logit_shift: added to the logits in the loss, see [`transfer_loss`]; without it the teacher predicts too many
            target pixels.
        margin: of people's boxes in pixels, see [`margin_of_boxes`].

    Returns `(model, batch, step) → (loss, value of each term)`.
    """

    weights = {"supervised": supervised, "prior": prior, "balance": balance, "boxes": box_projection}

    def loss_function(model: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        outputs = prompt_free_outputs(model, frozen, batch)
        target, weight = batch["labels"][:, None], batch["weights"][:, None]
        losses = teacher_losses(outputs["logits"], target=target, weight=weight, seen=outputs, logit_shift=logit_shift)
        if "boxes" in batch:
            losses["boxes"] = box_projection_loss(outputs["logits"] + logit_shift, batch["boxes"], margin)
        return weighted_sum(losses, weights), {name: part.item() for name, part in losses.items()}

    return loss_function


def prompt_free_outputs(model: nn.Module, frozen: FrozenFeatures, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """`logits` `(B, 1, H, W)` for a batch of [`TeacherSamples`], and the other outputs of [`MaskLevel`], if any."""
    if not asks_sam(model):
        return outputs_without_sam(model, batch["frames"])
    embeddings = frozen.embeddings(batch["states"], batch["frames"], batch["frame_boxes"])
    with record_router() as records:
        logits = prompt_free_logits(model, embeddings)
    return {**(records[0] if records else {}), "logits": logits}
