"""Measure a teacher, a student or a pseudo-labelled data set against human masks.

Examples:

    scalpel-hf evaluate --dataset data/nuaa --model runs/nuaa/student
    scalpel-hf evaluate --dataset data/nuaa --model runs/nuaa/student/onnx/model_int8.onnx
    scalpel-hf evaluate --dataset data/nuaa --model runs/nuaa/teacher --base-model models/mobile-sam
    scalpel-hf evaluate --dataset data/nuaa --split train --pseudo-labels runs/nuaa/pseudo

Prints IoU, nIoU, Pd, Fa and F1 at the frames' own size (of a detector AP, precision, recall and F1) as JSON, with the
threshold and the matching radius. The kind of model is told by its files: an adapter is a teacher, a file that ends in
.onnx an exported student, with its runtime.json beside it, anything else a student.
"""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import file_exists

from scalpel_hf import Teacher, load_student
from scalpel_hf.cli.numbers import PROBABILITY
from scalpel_hf.cli.program import verb_parser
from scalpel_hf.data import load_split
from scalpel_hf.evaluation.evaluator import evaluate_probabilities, evaluate_pseudo_labels, evaluate_student
from scalpel_hf.evaluation.unseen import rows_to_measure, trained_on, unseen_rows
from scalpel_hf.predictors.load import holds_teacher, on_default_device


def is_adapter(name: str) -> bool:
    """Whether a model is a teacher; `ValueError` where there is none at all."""
    if Path(name).is_dir():
        return holds_teacher(Path(name))
    if Path(name).is_absolute() or name.count("/") != 1:
        raise ValueError(f"there is no folder {name!r}, and a repository on the Hub is called org/name")
    try:
        return file_exists(name, "adapter_config.json")
    except Exception as error:  # what the client's HTTP library raises has no class in common with OSError
        raise ValueError(f"{name!r} is neither a folder nor a model that the Hub gives: {error}") from error


def main(argv: list[str] | None = None) -> None:
    parser = verb_parser("evaluate", __doc__)
    parser.add_argument("--dataset", required=True, help="with all masks of the split: a folder or a Hub repository")
    parser.add_argument("--split", default="test", help="split to measure on (default: %(default)s)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="teacher or student: a folder, a Hub repository or an ONNX file")
    what.add_argument("--pseudo-labels", help="output of `scalpel-hf label`")
    parser.add_argument("--base-model", help="a teacher's base, if it isn't where the adapter says")
    parser.add_argument("--flips", action="store_true", help="a teacher's predictions averaged over mirror images")
    parser.add_argument(
        "--feature-cache-dir", type=Path, help="a teacher's frozen features, for others on the same base too"
    )
    parser.add_argument(
        "--threshold", type=PROBABILITY, default=0.5, help="probability of a target (default: %(default)s)"
    )
    args = parser.parse_args(argv)

    metrics: dict[str, Any]
    remedy = "name another by `--split`"
    if args.pseudo_labels:
        rows, labelled = load_split(args.dataset, args.split, remedy), load_split(args.pseudo_labels, args.split)
        if "pseudo_mask" not in labelled.column_names:
            raise ValueError(f"{args.pseudo_labels!r} holds no pseudo labels: make them with `scalpel-hf label`")
        pseudo = labelled.filter(lambda s: s == "pseudo", input_columns="label_source", keep_in_memory=True)
        pseudo = unseen_rows(pseudo, trained_on([args.pseudo_labels]), repr(args.pseudo_labels))
        metrics = evaluate_pseudo_labels(pseudo, rows)
        print(json.dumps(metrics, indent=2))
        return
    rows = rows_to_measure(args.dataset, args.split, trained_on([args.model]), remedy)
    if args.model.endswith(".onnx"):
        from scalpel_hf.export import evaluate_exported  # needs the extra `onnx`
        from scalpel_hf.runtime import load_exported

        student = load_exported(Path(args.model).parent, Path(args.model).name)
        metrics = evaluate_exported(student, rows, args.threshold)
    elif is_adapter(args.model):
        teacher = Teacher.from_pretrained(
            args.model, args.base_model, feature_cache_dir=args.feature_cache_dir, flips=args.flips
        )
        metrics = evaluate_probabilities(on_default_device(teacher).probabilities, rows, args.threshold)
    else:
        metrics = evaluate_student(on_default_device(load_student(args.model)), rows, args.threshold)
    print(json.dumps(metrics, indent=2))
