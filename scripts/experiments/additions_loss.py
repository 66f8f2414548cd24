"""The loss of the additions to a teacher's training, for scripts/experiments/ablate_additions.py."""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from decoder_features import decoder_width, prediction_loss, recorded
from mask_losses import edge_loss
from sam_on_frames import FEATURE_SIZE, early_features, sam
from torch import Tensor, nn
from unlabelled_crops import UnlabelledCrops, WithUnlabelled

from scalpel_hf.adapter.layer import active_mask_level
from scalpel_hf.modeling.losses import mask_loss
from scalpel_hf.modeling.mask_level import MaskLevel
from scalpel_hf.training.checkpoints import Ema
from scalpel_hf.training.sampling import prior_shift

SELF_DISTILLATION, SAM_MASKS, SAM_FEATURES, EDGES = "self-distillation", "sam-masks", "sam-features", "edges"
OWN_MASKS = "own-masks"
UNLABELLED_SHARE = 2  # of so many crops of a batch, one has a companion without a label
SURE = 0.6  # |2p - 1| of the running mean's answer from which it is a target
RAMP = (0.25, 0.5)  # shares of the steps between which the weight of the running mean's answers rises to 1
ZOOMS = (112, 128, 160, 192, 208)  # sides to which crops of 160 pixels are resized
FEATURE_WEIGHT = 0.5


class RunningMean:
    """A copy of a mask level whose weights are the exponential moving average of its own."""

    def __init__(self, level: MaskLevel, decay: float):
        self.mean = copy.deepcopy(level).requires_grad_(False).eval()
        self.ema = Ema(dict(averaged(level)), decay)
        self.ema.shadow = dict(averaged(self.mean))

    def update(self, step: int) -> None:
        self.ema.update(step)

    @torch.no_grad()
    def probability(self, frames: Tensor) -> Tensor:
        """Of frames `(B, 1, H, W)`, the same shape."""
        return self.mean.without_sam(frames)["logits"].sigmoid()


def averaged(level: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """A level's weights and running statistics, by name."""
    yield from level.named_parameters()
    yield from ((name, buffer) for name, buffer in level.named_buffers() if buffer.is_floating_point())


class AdditionsLoss:
    """The loss of an arm: `10 · BCE + soft IoU` of the labelled crops, and the terms of the additions."""

    def __init__(self, additions: frozenset[str], model: nn.Module, dataset: WithUnlabelled, steps: int, ema: float):
        level = active_mask_level(model)
        assert level is not None
        self.additions, self.level, self.dataset, self.steps = additions, level, dataset, steps
        self.knows_masks = bool(additions & {SAM_MASKS, OWN_MASKS})
        self.mask_loss = edge_loss if EDGES in additions else mask_loss
        self.mean = RunningMean(level, ema)
        self.shift = prior_shift(dataset)
        self.unlabelled_shift = prior_shift(UnlabelledCrops(dataset, dataset.samples)) if dataset.unlabelled else 0.0
        self.ask_sam: Callable[[RunningMean], None] | None = None
        self.base_model = ""
        self.heads: nn.ModuleList | None = None

    def predict_features_of(self, base_model: str, model: nn.Module) -> None:
        """Add the linear maps to the trained weights."""
        own = [decoder_width(self.level, i) for i in (1, 2)]
        sams = sam(base_model, FEATURE_SIZE)[0].vision_encoder.config.embed_dims[1:3]
        self.heads = nn.ModuleList(nn.Conv2d(*widths, 1) for widths in zip(own, sams, strict=True))
        model.feature_heads = self.heads
        self.base_model = base_model

    def __call__(self, model: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        self.mean.update(step)
        logits = self.level.without_sam(batch["frames"])["logits"] + self.shift
        losses = {"labelled": self.mask_loss(logits, batch["labels"][:, None], batch["weights"][:, None])}
        if self.knows_masks and step == self.steps // 2:
            assert self.ask_sam is not None
            self.ask_sam(self.mean)
        ramp = float(np.clip((step / self.steps - RAMP[0]) / (RAMP[1] - RAMP[0]), 0, 1))
        distils = SELF_DISTILLATION in self.additions and ramp > 0
        knows = self.knows_masks and step >= self.steps // 2
        if distils or knows or self.heads is not None:
            losses |= self._unlabelled({k: v[::UNLABELLED_SHARE] for k, v in batch.items()}, ramp * distils, step)
        return sum(losses.values(), start=torch.zeros(())), {name: loss.item() for name, loss in losses.items()}

    def _unlabelled(self, batch: dict[str, Tensor], ramp: float, step: int) -> dict[str, Tensor]:
        target, weight = batch["known"][:, None], batch["known_weights"][:, None]
        if ramp:
            p = self.mean.probability(batch["plain"])
            sure = (2 * p - 1).abs()
            known = weight > 0
            target = torch.where(known, target, (p > 0.5).float())
            weight = torch.where(known, weight, ramp * sure * (sure > SURE))
        weight = weight * batch["visible"][:, None]
        side = int(np.random.default_rng([self.dataset.seed, 3, step]).choice(ZOOMS))
        shown, target, weight = (
            F.interpolate(x, (side, side), mode="bilinear") for x in (batch["shown"], target, weight)
        )
        with recorded(self.level.decoder[1:]) as features:
            logits = self.level.without_sam(shown)["logits"] + self.unlabelled_shift
        losses = {}
        if ramp or (self.knows_masks and step >= self.steps // 2):
            losses["unlabelled"] = self.mask_loss(logits, target, weight)
        if self.heads is not None:
            wanted = early_features(self.base_model, batch["plain"])
            losses["features"] = FEATURE_WEIGHT * prediction_loss(self.heads, features[::-1], wanted)
        return losses
