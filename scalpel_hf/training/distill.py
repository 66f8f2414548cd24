"""Stage 1, prior-guided knowledge distillation: what a teacher is shown and what it is asked for."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from scalpel_hf.adapter import record_router
from scalpel_hf.adapter.layer import prompt_free_logits
from scalpel_hf.data.transforms import Sample, crop, photometric, teacher_view
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor, normalize_frame, to_sam_input
from scalpel_hf.modeling.losses import soft_iou_loss, weighted_bce
from scalpel_hf.modeling.moe import load_balance_loss
from scalpel_hf.prefix_cache import FrozenPrefix, PrefixCache
from scalpel_hf.training.passes import shuffled


class TeacherSamples(Dataset):
    """
    Crops of the labelled frames' views, with the frozen prefix's activations of the whole view.

    Sample i is a pure function of (`seed`, i): every pass shows each frame once, in a new order and a random view. With
    background, every other sample is of it, by its own passes, and each of its frames has one view, number 1.

    Args:
        samples: the labelled frames, in sensor units.
        views: how many views of a frame there are; 1 is the frame alone.
        crop_size: side of the crops in pixels.
        streaks: probability, 0 to 1, that a view other than the frame itself gets bright lines, which are background.
        background: unlabelled frames, see [`background_samples`].
    """

    def __init__(
        self,
        samples: list[Sample],
        processor: InfraredImageProcessor,
        cache: PrefixCache,
        views: int,
        crop_size: int,
        seed: int,
        streaks: float = 0.0,
        background: Sequence[Sample] = (),
    ):
        if not 0 <= streaks <= 1:
            raise ValueError(f"`streaks` must be between 0 and 1, got {streaks}")
        self.samples, self.background, self.processor, self.cache = samples, background, processor, cache
        self.sam_size = cache.prefix.input_size
        self.views, self.crop_size, self.seed, self.streaks = views, crop_size, seed, streaks
        self._made: dict[tuple[int, int], tuple[Sample, str, Tensor]] = {}

    def fill(self, progress: bool = True) -> None:
        """Compute all activations that are not on disk yet."""
        pairs = [(i, v) for i in range(len(self.samples)) for v in range(self.views)]
        pairs += [(len(self.samples) + i, 1) for i in range(len(self.background))]
        for index, view in tqdm(pairs, desc="frozen prefix", disable=not progress, unit="view"):
            self._view(index, view)

    def _view(self, index: int, view: int) -> tuple[Sample, str, Tensor]:
        """A view, the name of its cache entry, and the region (4,) that it covers of SAM's input."""
        if (index, view) not in self._made:
            donors = self.samples[:index] + self.samples[index + 1 :]
            labelled = index < len(self.samples)
            frame = self.samples[index] if labelled else self.background[index - len(self.samples)]
            sample = teacher_view(frame, donors, view, self.seed * 100003 + index, self.streaks)
            pixel_values, box = to_sam_input(torch.from_numpy(sample.frame), self.sam_size)
            self.cache.get(pixel_values)
            self._made[index, view] = (sample, self.cache.key(pixel_values), box)
        return self._made[index, view]

    def _states(self, sample: Sample, key: str) -> Tensor:
        states = self.cache.load(key)
        if states is None:  # lost or damaged since: compute it again
            states = self.cache.get(to_sam_input(torch.from_numpy(sample.frame), self.sam_size)[0])
        return states

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 1, i])
        i, is_background = divmod(i, 2) if self.background else (i, 0)
        if is_background:
            index, view = len(self.samples) + shuffled(i, len(self.background), self.seed), 1
        else:
            index, view = shuffled(i, len(self.samples), self.seed), int(rng.integers(self.views))
        sample, key, box = self._view(index, view)
        states = self._states(sample, key)
        height, width = sample.frame.shape
        frame = torch.from_numpy(photometric(sample.frame, rng))
        frame = normalize_frame(frame, self.processor.normalization, self.processor.percentiles)
        sample, (x0, y0) = crop(Sample(frame.numpy(), sample.target, sample.weight), self.crop_size, rng)
        scale = box[2:] / torch.tensor([width, height])
        corner = torch.tensor([x0, y0]) * scale
        return {
            "states": states,
            "frames": torch.from_numpy(sample.frame)[None],
            "frame_boxes": torch.cat([corner, corner + self.crop_size * scale]).float(),
            "labels": torch.from_numpy(sample.target),
            "weights": torch.from_numpy(sample.weight),
        }


def distillation_loss(
    prefix: FrozenPrefix, supervised: float, prior: float, balance: float
) -> Callable[[nn.Module, dict[str, Tensor], int], tuple[Tensor, dict[str, float]]]:
    """
    The teacher's loss as a function of (model, batch, step).

    `supervised · (BCE + soft IoU) + prior · prior guidance + balance · load balance`. Prior guidance has two parts:
    the routed mixture of priors must explain the labels (BCE on its logit), and a confident prediction where no prior
    fires is penalised.
    """

    def loss_function(model: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        embeddings = prefix.embeddings(batch["states"], batch["frames"], batch["frame_boxes"])
        with record_router() as records:
            logits = prompt_free_logits(model, embeddings)  # (B, 1, H, W)
        target, weight = batch["labels"][:, None], batch["weights"][:, None]
        loss_supervised = weighted_bce(logits, target, weight) * 10 + soft_iou_loss(logits, target, weight)
        loss = supervised * loss_supervised
        figures = {"supervised": loss_supervised.item()}
        if records and "prior" in records[0]:
            loss_prior = prior_guidance(logits, records[0]["prior"], target, weight)
            loss_balance = load_balance_loss(records[0]["router_weights"])
            loss = loss + prior * loss_prior + balance * loss_balance
            figures |= {"prior": loss_prior.item(), "balance": loss_balance.item()}
        return loss, figures

    return loss_function


def prior_guidance(logits: Tensor, prior: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """
    Both directions between prediction and prior, `(B, 1, H, W)` each.

    The mixture, in units of its own spread, explains the labels: `BCE(prior − 2, target)`. And where it is silent a
    prediction is unlikely: `mean p · (1 − s)` with `s = σ(max prior in 5 × 5)`, held constant, off the labels.
    """
    explain = F.binary_cross_entropy_with_logits(prior - 2, target, weight)
    fires = torch.sigmoid(F.max_pool2d(prior.detach(), 5, 1, 2) - 1)
    silent = (torch.sigmoid(logits) * (1 - fires) * (1 - target) * weight).mean()
    return explain + silent
