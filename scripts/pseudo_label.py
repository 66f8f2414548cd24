"""Label the frames that no human has labelled, with a trained teacher.

    python scripts/pseudo_label.py --dataset data/nuaa-10pct --teacher runs/nuaa/teacher --out runs/nuaa/pseudo

Run again after a kill to go on from the last finished shard. Human labels are never touched. With `--truth`, the data
set with all its masks, the pseudo labels are measured against what was hidden; nothing is chosen by that.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from scalpel_hf.data import load_split
from scalpel_hf.evaluation import evaluate_pseudo_labels
from scalpel_hf.hub import push_dataset
from scalpel_hf.pseudo_labels import label_in_shards, summarize
from scalpel_hf.teacher import Teacher


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="made by scripts/prepare.py: a folder or a Hub repository")
    parser.add_argument("--split", default="train", help="split to label (default: %(default)s)")
    parser.add_argument("--teacher", required=True, help="output of recipes/distill.py: a folder or a Hub repository")
    parser.add_argument("--base-model", help="the teacher's base, if it isn't where the adapter says")
    parser.add_argument("--out", required=True, type=Path, help="folder for the labelled data set")
    parser.add_argument("--threshold", type=float, default=0.5, help="probability of a target (default: %(default)s)")
    parser.add_argument("--flips", action="store_true", help="average over the frame's mirror images (4 times slower)")
    parser.add_argument("--cache-dir", type=Path, help="where the teacher's training kept its frozen prefix")
    parser.add_argument("--shard-size", type=int, default=64, help="frames between commits (default: %(default)s)")
    parser.add_argument("--truth", help="the same data set with all masks, to measure the pseudo labels")
    parser.add_argument("--push-to-hub", metavar="ORG/NAME", help="data set repository to push the result to")
    args = parser.parse_args(argv)

    teacher = Teacher.from_pretrained(args.teacher, args.base_model, cache_dir=args.cache_dir, flips=args.flips)
    rows = load_split(args.dataset, args.split)
    labelled = label_in_shards(rows, teacher, args.out, args.threshold, args.teacher, args.shard_size)
    summary = summarize(labelled)
    if args.truth:
        summary["quality"] = evaluate_pseudo_labels(labelled, load_split(args.truth, args.split))
    part = args.out / "summary.json.part"
    part.write_text(json.dumps(summary, indent=2) + "\n")
    os.replace(part, args.out / "summary.json")
    print(json.dumps(summary, indent=2))
    if args.push_to_hub:
        print(push_dataset(labelled, args.push_to_hub, args.split))


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
