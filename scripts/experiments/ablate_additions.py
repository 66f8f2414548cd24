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
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import set_seed
from additions_loss import EDGES, OWN_MASKS, SAM_FEATURES, SAM_MASKS, SELF_DISTILLATION, AdditionsLoss, RunningMean
from mask_losses import hard_weighed, soft_edges
from sam_on_frames import SamMasks
from unlabelled_crops import WithUnlabelled, frames_without_label, pseudo_labels, scaled

from scalpel_hf.cli.numbers import COUNT, SEED
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import labelled_by_people, load_split
from scalpel_hf.data.transforms import ZOOM, Sample, Zoom
from scalpel_hf.evaluation.comparison import count_record, frames_to_compare
from scalpel_hf.evaluation.run_files import has_result
from scalpel_hf.predictors.sam import load_sam
from scalpel_hf.predictors.teacher import Teacher
from scalpel_hf.training.distillation import normalized_sample
from scalpel_hf.training.frames import labelled_sample
from scalpel_hf.training.loop import make_accelerator, train
from scalpel_hf.training.new_teacher import new_teacher, set_initial_bias
from scalpel_hf.training.recipe_arguments import DistillArguments
from scalpel_hf.training.run_record import commit_and_machine
from scalpel_hf.utils.files import write_json
from scalpel_hf.utils.reading import read_json

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
SECONDS_FILE = "seconds.json"  # written last: a network that has it is finished


def train_network(
    arm: Arm, args: argparse.Namespace, rows: datasets.Dataset, seed: int, run: Path, labellers: Sequence[Path] = ()
) -> None:
    """Train a network of an arm on rows, some with a person's mask, and keep it in `run`, unless that is done."""
    if (run / SECONDS_FILE).exists():
        return
    begin = time.monotonic()
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
    labelled = [labelled_sample(row) for row in labelled_by_people(rows, str(args.few))]
    names, frames = frames_without_label(rows)
    teacher = new_teacher(settings, load_sam(args.base_model, settings.image_size), accelerator.device)
    pseudo = []
    if labellers:
        before = Teacher.from_pretrained([*labellers], args.base_model)
        pseudo = pseudo_labels(before, frames, soft_edges if EDGES in arm.additions else hard_weighed)
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
    write_json(run / SECONDS_FILE, {"seconds": round(time.monotonic() - begin, 1), **commit_and_machine()})


def runs_of(name: str, args: argparse.Namespace, seed: int) -> list[Path]:
    """The folders of an arm's networks. Those that are missing are trained, and first those whose labels they need."""
    arm = ARMS[name]
    if arm.members_of:
        return [run for k in range(MEMBERS) for run in runs_of(arm.members_of, args, seed + SEED_STEP * k)]
    run = args.work / f"{name}-{seed}"
    # A member of a committee, too, learns from the labels of the arm's own seed.
    labellers = runs_of(arm.labels_of, args, seed % SEED_STEP) if arm.labels_of else []
    train_network(arm, args, load_split(str(args.few), "train"), seed=seed, run=run, labellers=labellers)
    return [run]


def facts_of(runs: Sequence[Path], steps: int) -> dict[str, Any]:
    """Steps, commit and machine of an arm's trainings, and their seconds together."""
    trainings = [read_json(run / SECONDS_FILE) for run in runs]
    return {**trainings[0], "seconds": sum(one["seconds"] for one in trainings), "steps": steps}


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
            if has_result(result, dataset=args.all.name, steps=args.steps):
                continue
            runs = runs_of(name, args, seed)
            record = count_record(Teacher.from_pretrained(runs, args.base_model).probabilities, rows)
            result.parent.mkdir(parents=True, exist_ok=True)
            write_json(
                result, {"arm": name, "dataset": args.all.name, "seed": seed, **record, **facts_of(runs, args.steps)}
            )
            print(name, seed, record["metrics"], flush=True)


if __name__ == "__main__":
    run_program(main, resumes=True)
