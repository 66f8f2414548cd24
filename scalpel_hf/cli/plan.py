"""Choose which frames to label next.

Examples:

    scalpel-hf plan --dataset data/nuaa-0 --base-model models/mobile-sam --budget 34 --out plan
    scalpel-hf plan --dataset data/nuaa-34 --base-model models/mobile-sam --budget 68 \\
        --teacher runs/nuaa/teacher --out plan-68

The budget is the number of labelled frames in the end, including those that have a label now. Writes
OUT/label_budget.json, for `apply_label_budget`, and OUT/plan.txt: the frames to label, most useful first, each with the
number of frames that it represents and the teacher's uncertainty. No mask is read.
"""

from pathlib import Path

import datasets

from scalpel_hf.cli.numbers import COUNT, SEED, SIDE
from scalpel_hf.cli.program import verb_parser
from scalpel_hf.data import load_split
from scalpel_hf.predictors.load import default_device, on_default_device
from scalpel_hf.predictors.sam import load_sam
from scalpel_hf.predictors.teacher import Teacher
from scalpel_hf.pseudo_labels.planner import (
    LabelPlan,
    candidates,
    check_budget,
    describe_frames,
    plan_labels,
    teacher_uncertainty,
)
from scalpel_hf.utils.files import whole_folder


def listing(plan: LabelPlan) -> str:
    lines = [f"# {len(plan.picks)} frames to label, {len(plan.budget.names)} of {plan.budget.total} then have a label"]
    for pick in plan.picks:
        unsure = [] if pick.uncertainty is None else [f"uncertainty {pick.uncertainty:.3f}"]
        lines.append("\t".join([pick.name, f"stands for {pick.stands_for}", *unsure]))
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = verb_parser("plan", __doc__)
    parser.add_argument("--dataset", required=True, help="prepared or pseudo-labelled: a folder or a Hub repository")
    parser.add_argument("--split", default="train", help="split to label (default: %(default)s)")
    parser.add_argument("--budget", required=True, type=COUNT, help="number of labelled frames in the end")
    parser.add_argument(
        "--base-model", required=True, help="Segment Anything model whose embeddings are used to compare frames"
    )
    parser.add_argument(
        "--image-size", type=SIDE, default=512, help="side of that model's input in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--teacher", help="output of `scalpel-hf distill` (default: the column `pseudo_confidence`, if any)"
    )
    parser.add_argument("--seed", type=SEED, default=0, help="for choices among equal frames (default: %(default)s)")
    parser.add_argument("--out", required=True, type=Path, help="folder to write; it must not exist")
    args = parser.parse_args(argv)

    datasets.disable_progress_bars()
    frames = load_split(args.dataset, args.split)
    rows = candidates(frames, args.seed)
    check_budget(rows, args.budget)
    sam = load_sam(args.base_model, args.image_size).to(default_device())
    teacher = None
    if args.teacher:
        teacher = on_default_device(Teacher.from_pretrained(args.teacher, args.base_model))
    with whole_folder(args.out) as part:
        features, unsure = describe_frames(rows, sam), teacher_uncertainty(rows, teacher)
        plan = plan_labels(rows, features, args.budget, uncertainty=unsure, seed=args.seed, total=len(frames))
        plan.budget.save(part / "label_budget.json")
        (part / "plan.txt").write_text(listing(plan), encoding="utf-8")
    print(listing(plan), end="")
    print(f"written to {args.out}")
