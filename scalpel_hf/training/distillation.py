"""Stage 1, prior-guided knowledge distillation: what a teacher is shown and what it is asked for."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from scalpel_hf.adapter import record_router
from scalpel_hf.adapter.layer import active_mask_level, asks_sam, outputs_without_sam, prompt_free_logits
from scalpel_hf.data.pasting import cut_out
from scalpel_hf.data.transforms import Sample, dihedral, paste_targets, photometric, zoomed_crop
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor, normalize_frame, to_sam_input
from scalpel_hf.modeling.teacher_loss import teacher_losses, weighted_sum
from scalpel_hf.predictors.feature_cache import FeatureCache, FrozenFeatures
from scalpel_hf.training.box_loss import box_projection_loss
from scalpel_hf.training.box_margin import margin_of_boxes
from scalpel_hf.training.sampling import shuffled

SYMMETRIES = 8  # of the square


class TeacherSamples(Dataset):
    """
    Fresh crops of labelled frames, with what the frozen features of SAM's encoder makes of the whole frame.

    A frame is shown in its eight symmetries, each of which has an entry in the cache; place, zoom, pasted targets,
    noise and response curve are drawn anew for every crop, and the crop's place in SAM's input goes with it. Fixed
    views would be learned by heart (docs/log.md). Sample i is a pure function of (`seed`, i), and every pass shows each
    frame once. With background, every other sample is of it, by its own passes, in one symmetry.

    Args:
        samples: the labelled frames, in sensor units.
        cache: of the frozen features; `None` where the model looks at nothing of SAM's.
        crop_size: side of the crops in pixels.
        background: unlabelled frames, see [`background_samples`].

    `margin` is that of people's boxes, see [`margin_of_boxes`].
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
        self.donors = [sample for sample in self.samples if sample.boxes is None] or self.samples  # of known extents
        self.cutouts = [cut_out(donor.frame, donor.target, donor.weight) for donor in self.donors]
        self.has_boxes = any(sample.boxes is not None for sample in self.samples)
        self.margin = margin_of_boxes(self.samples)
        self.cache, self.crop_size, self.seed = cache, crop_size, seed
        self.channels = {"mean": processor.sam_mean, "std": processor.sam_std}
        self._entries: dict[tuple[int, int], tuple[str, Tensor]] = {}

    def fill(self, progress: bool = True) -> None:
        """Compute all activations that are not on disk yet."""
        if self.cache is None:
            return
        views = [(i, turn) for i in range(len(self.samples)) for turn in range(SYMMETRIES)]
        views += [(len(self.samples) + i, 0) for i in range(len(self.background))]
        frames = [*self.samples, *self.background]
        for index, turn in tqdm(views, desc="frozen features", disable=not progress, unit="view"):
            self._states(dihedral(frames[index], turn).frame, index, turn)

    def _states(self, frame: np.ndarray, index: int, turn: int) -> tuple[Tensor, Tensor]:
        """The frozen features of a turned frame, and the region (4,) that it covers of SAM's input."""
        assert self.cache is not None
        if (index, turn) not in self._entries:
            pixel_values, region = self._input(frame)
            self._entries[index, turn] = self.cache.key(pixel_values), region
        key, region = self._entries[index, turn]
        states = self.cache.load(key)
        if states is None:  # not there yet, or lost or damaged since
            states = self.cache.get(self._input(frame)[0])
        return states, region

    def _input(self, frame: np.ndarray) -> tuple[Tensor, Tensor]:
        """SAM's input of a frame, and the region of it that the frame covers."""
        assert self.cache is not None
        turned = torch.from_numpy(np.ascontiguousarray(frame))
        return to_sam_input(turned, self.cache.frozen.input_size, **self.channels)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 1, i])
        frame, index, is_background = self._frame(i)
        turn = 0 if is_background else int(rng.integers(SYMMETRIES))
        turned = dihedral(frame, turn)
        factor = float(np.exp(rng.uniform(np.log(0.7), np.log(1.4)))) if rng.random() < 0.5 else 1.0
        sample, box = zoomed_crop(turned, self.crop_size, factor, rng)
        if rng.random() < 0.5:
            donor = int(rng.integers(len(self.donors)))
            unit = float(frame.frame.std() / max(self.donors[donor].frame.std(), 1e-6))
            sample = paste_targets(sample, self.cutouts[donor], rng, count=int(rng.integers(1, 4)), unit=unit)
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

    def labelled_frame(self, i: int) -> Sample:
        """The whole frame that sample i is a view of, as it is labelled."""
        return self._frame(i)[0]

    def _frame(self, i: int) -> tuple[Sample, int, bool]:
        """The frame of sample i, its number, and whether it is of the background."""
        i, is_background = divmod(i, 2) if self.background else (i, 0)
        pool = self.background if is_background else self.samples
        number = shuffled(i, len(pool), self.seed)
        return pool[number], number + is_background * len(self.samples), bool(is_background)


def normalized_sample(sample: Sample, processor: InfraredImageProcessor) -> Sample:
    """A sample with its frame as the model takes it. What is done to a crop later is the same in any linear unit."""
    frame = normalize_frame(torch.from_numpy(sample.frame), processor.normalization, processor.percentiles)
    return Sample(frame.numpy(), sample.target, sample.weight, sample.boxes)


def distillation_loss(
    frozen: FrozenFeatures,
    supervised: float,
    prior: float,
    balance: float,
    logit_shift: float = 0.0,
    box_projection: float = 1.0,
    margin: float = 0.0,
) -> Callable[[nn.Module, dict[str, Tensor], int], tuple[Tensor, dict[str, float]]]:
    """
    The teacher's loss as a function of (model, batch, step).

    `supervised · (10 · BCE + soft IoU) + prior · prior guidance + balance · load balance`, and where people drew boxes
    `box_projection ·` [`box_projection_loss`], for boxes of that `margin`. Prior guidance has two parts: the routed
    mixture of priors must explain the labels (BCE on its logit), and a confident prediction where no prior fires is
    penalised.

    `logit_shift` is added to the logits in the loss, see `transfer_loss`: without it too much is taken for target.
    """

    weights = {"supervised": supervised, "prior": prior, "balance": balance, "boxes": box_projection}

    def loss_function(model: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        outputs = prompt_free_outputs(model, frozen, batch)
        target, weight = batch["labels"][:, None], batch["weights"][:, None]
        losses = teacher_losses(outputs["logits"], target, weight, outputs, logit_shift)
        if "boxes" in batch:
            losses["boxes"] = box_projection_loss(outputs["logits"] + logit_shift, batch["boxes"], margin)
        return weighted_sum(losses, weights), {name: part.item() for name, part in losses.items()}

    return loss_function


def start_from(model: nn.Module, logit_shift: float) -> None:
    """
    Lower a fresh model's logits by `logit_shift`, so that to the loss it is at first what it is without the shift; and
    where nothing of SAM answers, which leaves every pixel at even odds, to one target pixel in a hundred.
    """
    level = active_mask_level(model)
    if level is not None:
        level.add_to_logits(-logit_shift - (0 if level.sam_features else math.log(99)))


def freeze_operators(model: nn.Module) -> None:
    """Keep the operators on the frame the classical ones: a few hundred steps hardly change them, and their gradient
    takes a third of a step."""
    level = active_mask_level(model)
    if level is not None and level.pyramid is not None:
        level.pyramid.requires_grad_(False)


def prompt_free_outputs(model: nn.Module, frozen: FrozenFeatures, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """`logits` `(B, 1, H, W)` on the frames' grid and, where there are operators, what [`MaskLevel`] gives besides."""
    if not asks_sam(model):
        return outputs_without_sam(model, batch["frames"])
    embeddings = frozen.embeddings(batch["states"], batch["frames"], batch["frame_boxes"])
    with record_router() as records:
        logits = prompt_free_logits(model, embeddings)
    return {**(records[0] if records else {}), "logits": logits}
