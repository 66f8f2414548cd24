"""Evaluate a teacher, a student or pseudo labels with people's masks.

Examples:

    scalpel-hf evaluate --dataset data/nuaa --model runs/nuaa/student
    scalpel-hf evaluate --dataset data/nuaa --model runs/nuaa/student/onnx/model_int8.onnx
    scalpel-hf evaluate --dataset data/nuaa --model runs/nuaa/teacher --base-model models/mobile-sam
    scalpel-hf evaluate --dataset data/nuaa --split train --pseudo-labels runs/nuaa/pseudo

Prints IoU, nIoU, Pd, Fa and F1 at the frames' own size as JSON; for a detector AP, precision, recall and F1. The kind
of model is detected by its files. An exported student may also be given as its ONNX file, with runtime.json in the same
folder.
"""

import json
from pathlib import Path

from scalpel_hf.cli.numbers import PROBABILITY
from scalpel_hf.cli.program import verb_parser
from scalpel_hf.data import load_split
from scalpel_hf.data.prepared import check_pseudo_labels
from scalpel_hf.evaluation.evaluator import evaluate_predictor, evaluate_pseudo_labels
from scalpel_hf.evaluation.unseen import rows_to_measure, trained_on, unseen_rows
from scalpel_hf.predictors.load import default_device, load_predictor

THRESHOLD = 0.5


def main(argv: list[str] | None = None) -> None:
    parser = verb_parser("evaluate", __doc__)
    parser.add_argument("--dataset", required=True, help="with masks for the whole split: a folder or a Hub repository")
    parser.add_argument("--split", default="test", help="split to evaluate on (default: %(default)s)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="teacher or student: a folder, a Hub repository or an ONNX file")
    what.add_argument("--pseudo-labels", help="output of `scalpel-hf label`")
    parser.add_argument("--base-model", help="a teacher's base model, if not the one in its configuration")
    parser.add_argument("--flips", action="store_true", help="average a teacher's predictions over mirror images")
    parser.add_argument(
        "--feature-cache-dir",
        type=Path,
        help="folder to cache a teacher's frozen features, also for others on the same base",
    )
    parser.add_argument(
        "--threshold", type=PROBABILITY, default=THRESHOLD, help="probability of a target (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.pseudo_labels and (args.base_model or args.flips or args.feature_cache_dir or args.threshold != THRESHOLD):
        parser.error("--base-model, --flips, --feature-cache-dir and --threshold are for --model")

    remedy = "name another by `--split`"
    if args.pseudo_labels:
        rows, labelled = load_split(args.dataset, args.split, remedy), load_split(args.pseudo_labels, args.split)
        check_pseudo_labels(labelled, args.pseudo_labels)
        pseudo = labelled.filter(lambda s: s == "pseudo", input_columns="label_source", keep_in_memory=True)
        pseudo = unseen_rows(pseudo, trained_on([args.pseudo_labels]), repr(args.pseudo_labels))
        print(json.dumps(evaluate_pseudo_labels(pseudo, rows), indent=2))
        return
    rows = rows_to_measure(args.dataset, args.split, known=trained_on([args.model]), remedy=remedy)
    model = load_predictor(
        args.model, args.base_model, default_device(), feature_cache_dir=args.feature_cache_dir, flips=args.flips
    )
    print(json.dumps(evaluate_predictor(model, rows, args.threshold), indent=2))
