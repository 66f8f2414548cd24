"""What could be added to the teacher's training, and what each addition is worth on frames without a label.

    python scripts/experiments/ablate_additions.py --few data/nuaa-10pct --all data/nuaa \\
        --base-model models/mobile-sam --seeds 0 1 2 --work runs/additions --out results/additions/nuaa

`--few` has masks for a part of the frames of `--all`; both are made by `scalpel-hf prepare`. The network is the
teacher's mask level, of the frame alone. It is measured, one view, threshold 0.5, on the frames whose masks `--few`
hides. The additions:

- self-distillation: the running mean of the weights answers a plain crop of an unlabelled frame, the network the same
  crop with other zoom, noise, blur, response, cut-outs and pasted targets. The mean's answer is the target where it is
  sure.
- sam-masks: after half of the steps, SAM at 1024 pixels is asked with the boxes of what the running mean and the
  operators agree on in unlabelled frames; its masks are targets, weighed by its predicted IoU and the agreement.
- own-masks: the same with the running mean's own masks in place of SAM's.
- sam-features: linear maps of the decoder's features at strides 4 and 8 are to predict MobileSAM's.
- edges: pixels at edges of targets weigh 4, of all pixels the hardest half counts, and the IoU is that of each crop.
- zoom: every crop is zoomed, by a half to two.
- larger-pastes: pasted targets are enlarged, by 1, 1.5, 2 or 3.
- second-round, third-round: half of the crops come from frames that the network of the round before labelled.
- committee: the mean log-odds of three networks; its labels for a second round, and a committee of that.

Writes one JSON an arm and seed, with its counts on every frame. Run again after a kill, it resumes.
"""

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import set_seed
from mask_losses import edge_loss
from sam_on_frames import FEATURE_SIZE, SamMasks, decoder_width, early_features, recorded, sam
from scipy import ndimage
from torch import Tensor, nn

from scalpel_hf.adapter.layer import active_mask_level
from scalpel_hf.cli.numbers import COUNT, SEED
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import labelled_by_people, load_split, read_frame
from scalpel_hf.data.pasting import Cutout
from scalpel_hf.data.transforms import ZOOM, Sample, Zoom, dihedral, paste_targets, photometric, zoomed_crop
from scalpel_hf.evaluation.comparison import count_record, frames_to_compare
from scalpel_hf.modeling.losses import mask_loss
from scalpel_hf.modeling.mask_level import MaskLevel
from scalpel_hf.predictors.sam import load_sam
from scalpel_hf.predictors.teacher import Teacher
from scalpel_hf.training.distillation import TeacherSamples, normalized_sample
from scalpel_hf.training.frames import labelled_sample
from scalpel_hf.training.loop import make_accelerator, train
from scalpel_hf.training.new_teacher import new_teacher, set_initial_bias
from scalpel_hf.training.recipe_arguments import DistillArguments
from scalpel_hf.training.run_record import commit_and_machine
from scalpel_hf.training.sampling import prior_shift, shuffled
from scalpel_hf.utils.files import write_json
from scalpel_hf.utils.reading import read_json

SELF_DISTILLATION, SAM_MASKS, SAM_FEATURES, EDGES = "self-distillation", "sam-masks", "sam-features", "edges"
OWN_MASKS = "own-masks"
ALL = frozenset((SELF_DISTILLATION, SAM_MASKS, SAM_FEATURES, EDGES))


@dataclass(frozen=True)
class Arm:
    """What is added, the arm whose labels of the unlabelled frames are learned from; or that of a committee's members.

    Members are of the arm's seed, and of two other seeds.
    """

    additions: frozenset[str] = frozenset()
    labels_of: str = ""
    members_of: str = ""
    zoom: Zoom = ZOOM
    paste_scales: tuple[float, ...] = (1.0,)


FIRST_ROUND, BOTH = "all-less-second-round", "self-distillation-and-sam-masks"
ARMS = {
    "base": Arm(),
    SELF_DISTILLATION: Arm(frozenset({SELF_DISTILLATION})),
    SAM_MASKS: Arm(frozenset({SAM_MASKS})),
    OWN_MASKS: Arm(frozenset({OWN_MASKS})),
    SAM_FEATURES: Arm(frozenset({SAM_FEATURES})),
    EDGES: Arm(frozenset({EDGES})),
    "second-round": Arm(labels_of="base"),
    FIRST_ROUND: Arm(ALL),
    "all": Arm(ALL, labels_of=FIRST_ROUND),
    **{f"all-less-{addition}": Arm(ALL - {addition}, labels_of=FIRST_ROUND) for addition in sorted(ALL)},
    "committee": Arm(members_of="base"),
    "third-round": Arm(labels_of="second-round"),
    BOTH: Arm(frozenset({SELF_DISTILLATION, SAM_MASKS})),
    f"{BOTH}-committee": Arm(members_of=BOTH),
    "zoom": Arm(zoom=Zoom(low=0.5, high=2.0, share=1.0)),
    "committee-of-zoom": Arm(members_of="zoom"),
    "larger-pastes": Arm(paste_scales=(1.0, 1.5, 2.0, 3.0)),
    "second-round-of-committee": Arm(labels_of="committee"),
    "committee-of-second-round": Arm(members_of="second-round-of-committee"),
    f"{BOTH}-second-round": Arm(frozenset({SELF_DISTILLATION, SAM_MASKS}), labels_of=BOTH),
}
MEMBERS, SEED_STEP = 3, 1000  # a committee's networks, and from one's seed to the next's
UNLABELLED_SHARE = 2  # of so many crops of a batch, one has a companion without a label
SURE = 0.6  # |2p - 1| of the running mean's answer from which it is a target
RAMP = (0.25, 0.5)  # shares of the steps between which the weight of the running mean's answers rises to 1
ZOOMS = (112, 128, 160, 192, 208)  # sides to which crops of 160 pixels are resized
FEATURE_WEIGHT = 0.5
CUT_OUTS, CUT_OUT_SIDE = 4, 12
SECONDS_FILE = "seconds.json"  # written last: a network that has it is finished


class WithUnlabelled(TeacherSamples):
    """
    Crops of labelled frames, each with one of an unlabelled frame: `plain` and `shown` `(1, S, S)`, the latter with
    pasted targets and a camera's effects, and what is known of it, `known` and `known_weights` `(S, S)`.

    Args:
        unlabelled: frames whose targets have weight 0 where nothing is known; may be changed between samples.
        pseudo: labels of the round before; half of the labelled crops come from them.
    """

    def __init__(self, *args: Any, unlabelled: list[Sample], pseudo: list[Sample], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.unlabelled, self.pseudo = unlabelled, pseudo

    def _frame(self, i: int) -> tuple[Sample, int, bool]:
        number, of_pseudo = divmod(i, 2) if self.pseudo else (i, 0)
        pool = self.pseudo if of_pseudo else self.samples
        index = shuffled(number, len(pool), self.seed)
        return pool[index], index, False

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        item = super().__getitem__(i)
        if self.unlabelled:
            item |= self._unlabelled_crop(i)
        return item

    def _unlabelled_crop(self, i: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, 2, i])
        frame = self.unlabelled[shuffled(i, len(self.unlabelled), self.seed + 1)]
        turned = dihedral(frame, int(rng.integers(8)))
        plain, _ = zoomed_crop(turned, size=self.crop_size, factor=1.0, rng=rng, on_target=0.0)
        shown = plain
        if rng.random() < 0.5:
            donor = int(rng.integers(len(self.donors)))
            unit = float(frame.frame.std() / max(self.donors[donor].frame.std(), 1e-6))
            shown = paste_targets(plain, self.cutouts[donor], rng, count=int(rng.integers(1, 4)), unit=unit)
        seen, weight = photometric(photometric(shown.frame, rng), rng), shown.weight.copy()
        hidden = np.ones_like(weight)
        for y, x in rng.integers(self.crop_size - CUT_OUT_SIDE, size=(CUT_OUTS, 2)):
            window = slice(y, y + CUT_OUT_SIDE), slice(x, x + CUT_OUT_SIDE)
            seen[window], hidden[window] = np.median(seen[window]), 0
        item = {"plain": plain.frame[None], "shown": seen[None], "known": shown.target, "known_weights": weight}
        return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in item.items()} | {
            "visible": torch.from_numpy(hidden)
        }


class UnlabelledCrops:
    """The unlabelled crops alone, of labelled frames: for the odds of a target pixel in them."""

    def __init__(self, dataset: WithUnlabelled, labelled: list[Sample]):
        self.dataset = copy.copy(dataset)
        self.dataset.unlabelled = labelled

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        crop = self.dataset._unlabelled_crop(i)
        return {"labels": crop["known"], "weights": crop["known_weights"]}

    def labelled_frame(self, i: int) -> Sample:
        return self.dataset.unlabelled[shuffled(i, len(self.dataset.unlabelled), self.dataset.seed + 1)]


class RunningMean:
    """A copy of a mask level whose weights are the exponential moving average of its own."""

    def __init__(self, level: MaskLevel, decay: float):
        self.level, self.decay = level, decay
        self.mean = copy.deepcopy(level).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for mean, value in zip(self.mean.state_dict().values(), self.level.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)

    @torch.no_grad()
    def probability(self, frames: Tensor) -> Tensor:
        """Of frames `(B, 1, H, W)`, the same shape."""
        return self.mean.without_sam(frames)["logits"].sigmoid()


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
        with recorded(self.level.decoder) as features:
            logits = self.level.without_sam(shown)["logits"] + self.unlabelled_shift
        losses = {}
        if ramp or (self.knows_masks and step >= self.steps // 2):
            losses["unlabelled"] = self.mask_loss(logits, target, weight)
        if self.heads is not None:
            wanted = early_features(self.base_model, batch["plain"])
            losses["features"] = FEATURE_WEIGHT * self._feature_loss(features, wanted)
        return losses

    def _feature_loss(self, features: list[Tensor], wanted: list[Tensor]) -> Tensor:
        """1 minus the cosine of predicted and SAM's features, the mean over positions and both strides."""
        assert self.heads is not None
        coarse, fine = features
        terms = []
        for head, own, sams in zip(self.heads, (fine, coarse), wanted, strict=True):
            sams = F.interpolate(sams, own.shape[2:], mode="bilinear")
            terms.append(1 - F.cosine_similarity(head(own), sams, dim=1).mean())
        return torch.stack(terms).mean()


def scaled(cutout: Cutout, factor: float) -> Cutout:
    """A target to paste, enlarged."""
    excess, own, is_open = (
        ndimage.zoom(a.astype(np.float32), factor, order=1, grid_mode=True, mode="nearest")
        for a in (cutout.excess, cutout.own, cutout.is_open)
    )
    return Cutout(excess, own=own > 0.5, is_open=is_open > 0.5)


def frames_without_label(rows: datasets.Dataset) -> tuple[list[str], list[np.ndarray]]:
    unlabelled = rows.select([i for i, source in enumerate(rows["label_source"]) if source == "none"])
    return unlabelled["name"], [read_frame(row["image"]).astype(np.float32) for row in unlabelled]


def pseudo_labels(teacher: Teacher, frames: list[np.ndarray], soft_edges: bool) -> list[Sample]:
    """A teacher's labels: targets above 0.5, pixels weighed by |2p - 1|; with `soft_edges`, p itself at the edges."""
    samples = []
    for frame in frames:
        p = teacher.probabilities(frame)
        target = (p > 0.5).astype(np.float32)
        weight = np.abs(2 * p - 1)
        if soft_edges:
            edge = ndimage.grey_dilation(target, (3, 3)) > ndimage.grey_erosion(target, (3, 3))
            target, weight = np.where(edge, p, target), np.where(edge, 1, weight)
        samples.append(Sample(frame, target=target, weight=weight.astype(np.float32)))
    return samples


def train_network(arm: Arm, args: argparse.Namespace, seed: int, run: Path, labellers: list[Path]) -> None:
    """Train a network of an arm and keep it in `run`."""
    settings = DistillArguments(
        output_dir=str(run / "training"),
        seed=seed,
        max_steps=args.steps,
        batch_size=8,
        learning_rate=2e-3,
        crop_size=160,
        levels=["mask"],
        checkpoint_steps=10**6,
        resume=False,
    )
    accelerator = make_accelerator(settings)
    set_seed(seed)
    rows = load_split(str(args.few), "train")
    labelled = [labelled_sample(row) for row in labelled_by_people(rows, str(args.few))]
    names, frames = frames_without_label(rows)
    teacher = new_teacher(settings, load_sam(args.base_model, settings.image_size), accelerator.device)
    pseudo = []
    if labellers:
        before = Teacher.from_pretrained(labellers, args.base_model)
        pseudo = pseudo_labels(before, frames, soft_edges=EDGES in arm.additions)
    nothing = [Sample(f, target=np.zeros_like(f), weight=np.zeros_like(f)) for f in frames]
    needs_unlabelled = arm.additions - {EDGES}
    dataset = WithUnlabelled(
        labelled,
        teacher.processor,
        None,
        crop_size=settings.crop_size,
        seed=seed,
        unlabelled=[normalized_sample(s, teacher.processor) for s in nothing] if needs_unlabelled else [],
        pseudo=[normalized_sample(s, teacher.processor) for s in pseudo],
    )
    dataset.zoom = arm.zoom
    dataset.cutouts = [[scaled(c, s) for c in cutouts for s in arm.paste_scales] for cutouts in dataset.cutouts]
    loss = AdditionsLoss(arm.additions, teacher.model, dataset=dataset, steps=args.steps, ema=settings.ema_decay)
    set_initial_bias(teacher.model, loss.shift)
    if SAM_FEATURES in arm.additions:
        loss.predict_features_of(args.base_model, teacher.model)
    if loss.knows_masks:
        sam_masks = SamMasks(args.base_model, labelled, args.work / "embeddings")

        def ask(mean: RunningMean) -> None:
            for k, (name, sample) in enumerate(zip(names, dataset.unlabelled, strict=True)):
                p = mean.probability(torch.from_numpy(sample.frame)[None, None])[0, 0].numpy()
                known = sam_masks.ask(sample, name, p, own_masks=OWN_MASKS in arm.additions)
                dataset.unlabelled[k] = replace(sample, target=known.target, weight=known.weight)

        loss.ask_sam = ask
    train(accelerator, teacher.model, dataset=dataset, loss_function=loss, args=settings)
    teacher.save_pretrained(run)


def runs_of(name: str, args: argparse.Namespace, seed: int) -> list[Path]:
    """The folders of an arm's networks. Those that are missing are trained, and first those whose labels they need."""
    arm = ARMS[name]
    if arm.members_of:
        return [run for k in range(MEMBERS) for run in runs_of(arm.members_of, args, seed + SEED_STEP * k)]
    run = args.work / f"{name}-{seed}"
    if not (run / SECONDS_FILE).exists():
        # A member of a committee, too, learns from the labels of the arm's own seed.
        labellers = runs_of(arm.labels_of, args, seed % SEED_STEP) if arm.labels_of else []
        begin = time.monotonic()
        train_network(arm, args, seed=seed, run=run, labellers=labellers)
        write_json(run / SECONDS_FILE, {"seconds": round(time.monotonic() - begin, 1), **commit_and_machine()})
    return [run]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=Path, required=True, help="prepared data set with few masks")
    parser.add_argument("--all", type=Path, required=True, help="the same with all masks")
    parser.add_argument("--base-model", required=True, help="MobileSAM")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS], default=[*ARMS], help="(default: all)")
    parser.add_argument("--seeds", nargs="+", type=SEED, default=[0, 1, 2])
    parser.add_argument("--steps", type=COUNT, default=400, help="of each network (default: %(default)s)")
    parser.add_argument("--work", type=Path, required=True, help="folder for networks and SAM's embeddings")
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    args = parser.parse_args(argv)
    (args.work / "embeddings").mkdir(parents=True, exist_ok=True)

    rows = frames_to_compare(str(args.all), "train", models=[], labelled=str(args.few))
    for seed in args.seeds:
        for name in args.arms:
            result = args.out / f"{name}-{seed}.json"
            if result.exists():
                continue
            runs = runs_of(name, args, seed)
            record = count_record(Teacher.from_pretrained(runs, args.base_model).probabilities, rows)
            trainings = [read_json(run / SECONDS_FILE) for run in runs]
            facts = {**trainings[0], "seconds": sum(one["seconds"] for one in trainings), "steps": args.steps}
            result.parent.mkdir(parents=True, exist_ok=True)
            write_json(result, {"arm": name, "dataset": args.all.name, "seed": seed, **record, **facts})
            print(name, seed, record["metrics"], flush=True)


if __name__ == "__main__":
    run_program(main, resumes=True)
