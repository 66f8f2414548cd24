"""Fit a finished teacher's consensus gate to labelled frames, without any training.

    python scripts/experiments/fit_consensus_gate.py --dataset data/nuaa-10pct --teacher runs/nuaa/teacher \\
        --out runs/nuaa/teacher-gated
    python scripts/experiments/fit_consensus_gate.py --dataset data/another-camera --teacher org/teacher \\
        --out runs/teacher-here
    python scripts/experiments/fit_consensus_gate.py --dataset data/nudt-10pct --teacher runs/nudt/teacher \\
        --noise-floor 0.0156 \\
        --out runs/nudt/teacher-for-even-frames

Where the operators see less than half of what they see of the faintest labelled target, a teacher's logits are lowered
(docs/explanation/adapter.md). recipes/distill.py fits the gate to the frames it trains on; here it is fitted to others,
such as a few of another camera, or for a teacher that has none. Writes the adapter with its new gate to OUT and prints
the gate's threshold.

Frames that are evener than those trained on show a teacher what it takes for faint targets: `--noise-floor` makes it
deafer to them. It needs no label of theirs.
"""

import argparse
from pathlib import Path

from scalpel_hf import Teacher
from scalpel_hf.cli.numbers import SHARE
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import human_labelled, load_split
from scalpel_hf.evaluation.unseen import TrainedOn
from scalpel_hf.predictors.load import on_default_device
from scalpel_hf.training.frames import labelled_sample
from scalpel_hf.training.gate_fitting import fit_consensus_gate


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="with labelled frames: a folder or a Hub repository")
    parser.add_argument(
        "--split", default="train", help="whose frames with a human's mask count (default: %(default)s)"
    )
    parser.add_argument("--teacher", required=True, help="a folder or a Hub repository")
    parser.add_argument("--base-model", help="the teacher's base, if it isn't where the adapter says")
    parser.add_argument("--noise-floor", type=SHARE, help="of the operators' maps, 0.0039 in training: 1/256")
    parser.add_argument("--out", type=Path, required=True, help="folder for the adapter; may be the teacher's own")
    args = parser.parse_args(argv)
    if args.noise_floor is not None and not 0 <= args.noise_floor < 1:
        parser.error(f"--noise-floor is a share of a frame's range, at least 0 and below 1, got {args.noise_floor}")

    labelled = human_labelled(load_split(args.dataset, args.split), args.dataset)
    teacher = on_default_device(Teacher.from_pretrained(args.teacher, args.base_model))
    samples = [labelled_sample(row) for row in labelled]
    teachers = [member for member in teacher.members if isinstance(member, Teacher)]
    gates = [fit_consensus_gate(member, samples, args.noise_floor) for member in teachers]
    thresholds = [gate.threshold for gate in gates if gate.is_active]
    if not thresholds:
        raise ValueError(
            f"no gate can be fitted: {args.teacher!r} has no pixel level, or its operators see none of the targets of "
            f"{args.dataset!r}"
        )
    known = TrainedOn.load(args.teacher)
    if known is not None:
        (known + TrainedOn.of(labelled)).save(args.out)
    teacher.save_pretrained(args.out)
    fitted = ", ".join(f"{threshold:.2f}" for threshold in thresholds)
    print(f"consensus gate at {fitted} from {len(labelled)} labelled frames, written to {args.out}")


if __name__ == "__main__":
    run_program(main)
