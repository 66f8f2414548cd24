"""Export a student or a teacher to ONNX, and check it against torch.

Examples:

    scalpel-hf export runs/nuaa/student
    scalpel-hf export runs/nuaa/student --dataset data/nuaa --int8 --evaluate
    scalpel-hf export runs/nuaa/one-teacher --base-model models/mobile-sam --dataset data/nuaa

A student becomes model.onnx and runtime.json, which are all that `scalpel_hf.runtime` needs. They are written to the
subfolder `onnx` of its folder, or to `--out`. Students are segmentation models, or this project's own detector.
`--int8` adds model_int8.onnx, calibrated on frames of the training split. A teacher, not a committee, becomes
encoder.onnx, decoder.onnx and teacher.json. The exported graphs are compared with torch on frames of the test split, or
on synthetic frames without `--dataset`; a difference above 1e-4 is an error.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from scalpel_hf import DetectionStudent, SegmentationStudent, SyntheticInfrared, Teacher, load_student
from scalpel_hf.cli.numbers import COUNT, PROBABILITY
from scalpel_hf.cli.program import verb_parser
from scalpel_hf.data import load_split
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.evaluation.box_metrics import judged_by_boxes
from scalpel_hf.evaluation.evaluator import evaluate_predictor
from scalpel_hf.evaluation.unseen import rows_to_measure, trained_on
from scalpel_hf.export import (
    check_detector,
    check_student,
    check_teacher,
    export_detector,
    export_student,
    export_teacher,
    quantize_student,
)
from scalpel_hf.export.onnx_files import whole_or_not_at_all
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.predictors.kinds import ModelKind, kind_of
from scalpel_hf.runtime.onnx_models import OnnxDetector, OnnxStudent, load_exported
from scalpel_hf.runtime.session import ERRORS_ONLY
from scalpel_hf.runtime.settings import CONFIG_FILE, FOLDER, INT8_FILE, TEACHER_FILE
from scalpel_hf.utils.files import check_can_be_made

FRAMES = 8  # on which ONNX and torch are compared
GENERATED = [((256, 256), 8), ((240, 321), 16), ((97, 60), 16)]  # size (H, W) and bits of synthetic frames


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = verb_parser("export", __doc__)
    parser.add_argument("model", help="student or teacher: a folder or a Hub repository")
    parser.add_argument("--base-model", help="a teacher's base model, if not the one in its configuration")
    parser.add_argument("--out", type=Path, help="folder for the files (default: `onnx` in the model's folder)")
    parser.add_argument("--dataset", help="made by `scalpel-hf prepare`: a folder or a Hub repository")
    parser.add_argument("--split", default="test", help="split to compare and evaluate on (default: %(default)s)")
    student = parser.add_argument_group("students")
    sides = ["inside", "outside"]
    student.add_argument(
        "--normalization", choices=sides, default="inside", help="inside or outside of the graph (default: %(default)s)"
    )
    student.add_argument(
        "--thresholding", choices=sides, default="inside", help="inside or outside of the graph (default: %(default)s)"
    )
    student.add_argument(
        "--threshold", type=PROBABILITY, default=0.5, help="probability of a target (default: %(default)s)"
    )
    student.add_argument("--int8", action="store_true", help="quantise too; needs `--dataset`")
    student.add_argument("--calibration-split", default="train", help="split to calibrate on (default: %(default)s)")
    student.add_argument(
        "--calibration-frames", type=COUNT, default=100, help="frames to calibrate on (default: %(default)s)"
    )
    student.add_argument("--evaluate", action="store_true", help="print a table of metrics on the split")
    args = parser.parse_args(argv)
    if (args.int8 or args.evaluate) and not args.dataset:
        raise ValueError("`--int8` calibrates on frames of a `--dataset`, and `--evaluate` measures on it: name one")
    if args.out is None and not Path(args.model).is_dir():
        raise ValueError(f"{args.model} is not a folder: say with `--out` where its ONNX files go")
    if not 1 <= args.calibration_frames <= 10_000:
        raise ValueError(f"`--calibration-frames` is from 1 to 10000, got {args.calibration_frames}")
    if not 0 < args.threshold < 1:
        raise ValueError(f"`--threshold` is a probability between 0 and 1, got {args.threshold}")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    # These loggers warn of operators that no model here uses, and of an unused initializer.
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    onnxruntime.set_default_logger_severity(ERRORS_ONLY)
    out = args.out or Path(args.model) / FOLDER
    check_can_be_made(out, "--out")
    rows = load_split(args.dataset, args.split) if args.dataset else None
    measured = rows_to_measure(args.dataset, args.split, trained_on([args.model])) if args.evaluate else None
    frames = spread(rows, FRAMES) if rows is not None else generated_frames()
    if kind_of(args.model) is ModelKind.TEACHER:
        if args.int8 or args.evaluate or "outside" in (args.normalization, args.thresholding):
            raise ValueError(
                f"{args.model} is a teacher: `--int8`, `--evaluate`, `--normalization` and `--thresholding` are for "
                "students, leave them out"
            )
        teacher = Teacher.from_pretrained(args.model, args.base_model)
        with whole_or_not_at_all(out, TEACHER_FILE) as work:
            export_teacher(teacher, work, args.threshold)
            worst = check_teacher(teacher, work, frames)
        print(f"{out}: within {worst:.1g} of torch on {len(frames)} frames")
        return
    calibration = spread(load_split(args.dataset, args.calibration_split), args.calibration_frames) if args.int8 else []
    model = load_student(args.model)
    # An earlier export is replaced only when the new one is checked and complete, its INT8 file included.
    with whole_or_not_at_all(out, CONFIG_FILE) as work:
        worst = export_checked(model, work, frames=frames, args=args)
        if args.int8:
            quantize_student(work, calibration)
    exported = load_exported(out)
    print(f"{out}: opset {exported.config.opset}, within {worst:.1g} of torch on {len(frames)} frames")
    models: dict[str, SegmentationStudent | DetectionStudent | OnnxStudent | OnnxDetector] = {
        "torch": model,
        "ONNX": exported,
    }
    if args.int8:
        models["ONNX, INT8"] = load_exported(out, INT8_FILE)
    if args.evaluate:
        print_table(models, measured, args.threshold)


def export_checked(
    model: SegmentationStudent | DetectionStudent, folder: Path, frames: list[np.ndarray], args: argparse.Namespace
) -> float:
    """Export a student to a folder; returns the largest difference between ONNX and torch on the frames."""
    normalize = args.normalization == "inside"
    if isinstance(model, SegmentationStudent):
        exported = export_student(
            model, folder, normalize, apply_threshold=args.thresholding == "inside", threshold=args.threshold
        )
        return check_student(model, exported, frames)
    exported_detector = export_detector(model, folder, normalize=normalize, threshold=args.threshold)
    return check_detector(model, exported_detector, frames)


def spread(rows: Any, count: int) -> list[np.ndarray]:
    """The frames of `count` rows, spread evenly over all rows."""
    indices = np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))
    return [read_frame(row["image"]) for row in undecoded(rows.select(indices))]


def generated_frames() -> list[np.ndarray]:
    return [SyntheticInfrared(size=size, bit_depth=bits).frame(0)["image"] for size, bits in GENERATED]


SEGMENTATION = {"IoU %": "iou", "nIoU %": "niou", "Pd %": "pd", "Fa 1e-6": "fa"}
DETECTION = {"AP50 %": "ap50", "AP50-95 %": "ap50_95", "precision %": "precision", "recall %": "recall", "F1 %": "f1"}
BY_BOXES = {"F1 %": "f1", "Pd %": "pd", "false alarms a frame": "false_alarms_per_frame"}


def print_table(
    models: dict[str, SegmentationStudent | DetectionStudent | OnnxStudent | OnnxDetector], rows: Any, threshold: float
) -> None:
    columns = SEGMENTATION if isinstance(models["torch"], SegmentationStudent) else DETECTION
    columns = BY_BOXES if judged_by_boxes(rows) else columns
    print("\n| | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for name, model in models.items():
        metrics = evaluate_predictor(model, rows, threshold)
        cells = [
            f"{metrics[key] * 100:.1f}" if "%" in title else f"{metrics[key]:.2f}" for title, key in columns.items()
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
