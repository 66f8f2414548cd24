"""Measure a teacher, a student or a pseudo-labelled data set against human masks.

    python scripts/evaluate.py --dataset data/nuaa --model runs/nuaa/student
    python scripts/evaluate.py --dataset data/nuaa --model runs/nuaa/teacher --base-model models/mobile-sam
    python scripts/evaluate.py --dataset data/nuaa --split train --pseudo-labels runs/nuaa/pseudo

Prints IoU, nIoU, Pd, Fa and F1 at the frames' own size as JSON, with the threshold and the matching radius. The kind of
model is told by its files: an adapter is a teacher, anything else a student.
"""

import argparse
import json
import sys
from pathlib import Path

from huggingface_hub import file_exists

from scalpel_hf import Student, Teacher
from scalpel_hf.data import load_prepared
from scalpel_hf.evaluation import evaluate_probabilities, evaluate_pseudo_labels


def is_adapter(name: str) -> bool:
    if Path(name).is_dir():
        return (Path(name) / "adapter_config.json").exists()
    return file_exists(name, "adapter_config.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="with all masks of the split: a folder or a Hub repository")
    parser.add_argument("--split", default="test", help="split to measure on (default: %(default)s)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="teacher or student: a folder or a Hub repository")
    what.add_argument("--pseudo-labels", help="output of scripts/pseudo_label.py")
    parser.add_argument("--base-model", help="a teacher's base, if it isn't where the adapter says")
    parser.add_argument("--flips", action="store_true", help="a teacher's answers averaged over mirror images")
    parser.add_argument("--threshold", type=float, default=0.5, help="probability of a target (default: %(default)s)")
    args = parser.parse_args()

    rows = load_prepared(args.dataset)[args.split]
    if args.pseudo_labels:
        figures = evaluate_pseudo_labels(load_prepared(args.pseudo_labels), rows)
    elif is_adapter(args.model):
        teacher = Teacher.from_pretrained(args.model, args.base_model, flips=args.flips)
        figures = evaluate_probabilities(teacher.probabilities, rows, args.threshold)
    else:
        figures = evaluate_probabilities(Student.from_pretrained(args.model).probabilities, rows, args.threshold)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
