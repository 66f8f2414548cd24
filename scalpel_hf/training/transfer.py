"""Stage 2, deployment-oriented transfer: what a student is shown and what it is asked for."""

from collections.abc import Callable

import datasets
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from scalpel_hf.data.transforms import Sample, crop, dihedral, paste_targets, photometric, zoom
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor, normalize_frame, read_frame
from scalpel_hf.modeling.losses import soft_iou_loss, weighted_bce
from scalpel_hf.pseudo_labels import training_mask


def labelled_sample(row: dict) -> Sample:
    """A data set's row as frame, target and weight; an error naming the row where it has no label."""
    label = training_mask(row)
    if label is None:
        raise ValueError(f"{row['name']} has neither a human nor a pseudo label: `label_source` is 'none'")
    return Sample(read_frame(row["image"]).astype(np.float32), *label)


class StudentSamples(Dataset):
    """
    Augmented crops of all frames that have a label.

    Sample i is a pure function of (`seed`, i). Human-labelled frames make up at least `human_share` of the samples, so
    that a tenth of true masks is not lost among the pseudo labels; within each kind every pass shows each frame once,
    in a new order. Frames are decoded when they are asked for, so memory does not grow with the data set.

    Args:
        dataset: rows with `image` and either human masks or pseudo labels; others are left out.
        crop_size: side of the crops in pixels.
        human_share: between 0 and 1.
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
        sources = dataset["label_source"]
        self.human = [i for i, source in enumerate(sources) if source == "human"]
        self.human_set = set(self.human)
        self.pseudo = [i for i, source in enumerate(sources) if source == "pseudo"]
        self.indices = self.human + self.pseudo
        if not self.indices:
            raise ValueError("no frame of the data set has a label: every `label_source` is 'none'")
        self.dataset, self.processor, self.crop_size, self.seed = dataset, processor, crop_size, seed
        share = max(human_share, len(self.human) / len(self.indices)) if self.human else 0.0
        self.share = share if self.pseudo else 1.0

    def _index(self, i: int) -> int:
        """Row of sample i: `floor(i · share)` human samples have come before it."""
        before = int(i * self.share + 1e-9)
        human = int((i + 1) * self.share + 1e-9) > before
        rows, number = (self.human, before) if human else (self.pseudo, i - before)
        epoch, position = divmod(number, len(rows))
        return rows[int(np.random.default_rng([self.seed, epoch]).permutation(len(rows))[position])]

    def _sample(self, index: int) -> Sample:
        return labelled_sample(self.dataset[index])

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        index = self._index(i)
        rng = np.random.default_rng([self.seed, 1, i])
        sample = dihedral(self._sample(index), int(rng.integers(8)))
        if rng.random() < 0.5:
            sample = zoom(sample, float(np.exp(rng.uniform(np.log(0.7), np.log(1.4)))))
        if rng.random() < 0.5:
            donors = self.human or self.pseudo  # a pasted target counts in full: it should be a true one
            donor = self._sample(donors[int(rng.integers(len(donors)))])
            sample = paste_targets(sample, donor, rng, count=int(rng.integers(1, 4)))
        frame = torch.from_numpy(photometric(sample.frame, rng))
        frame = normalize_frame(frame, self.processor.normalization, self.processor.percentiles)
        sample, _ = crop(Sample(frame.numpy(), sample.target, sample.weight), self.crop_size, rng)
        return {
            "pixel_values": torch.from_numpy(sample.frame)[None],
            "labels": torch.from_numpy(sample.target),
            "weights": torch.from_numpy(sample.weight),
            "human": torch.tensor(float(index in self.human_set)),
        }


def transfer_loss(
    pseudo_weight: float, warmup_steps: int
) -> Callable[[nn.Module, dict[str, Tensor], int], tuple[Tensor, dict[str, float]]]:
    """
    The student's loss as a function of (model, batch, step): `10 · BCE + soft IoU`, each pixel weighted.

    A pseudo-labelled pixel weighs its confidence times `pseudo_weight`, which rises from 0 over `warmup_steps`.
    """

    def loss_function(model: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        logits = model(pixel_values=batch["pixel_values"]).logits
        ramp = pseudo_weight * min(1.0, (step + 1) / max(1, warmup_steps))
        share = batch["human"] + (1 - batch["human"]) * ramp
        target, weight = batch["labels"][:, None], batch["weights"][:, None] * share[:, None, None, None]
        bce, iou = weighted_bce(logits, target, weight), soft_iou_loss(logits, target, weight)
        return 10 * bce + iou, {"bce": bce.item(), "soft_iou": iou.item()}

    return loss_function
