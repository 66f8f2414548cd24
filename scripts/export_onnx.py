"""Export a student or a teacher to ONNX, and check it against torch.

    python scripts/export_onnx.py runs/nuaa/student
    python scripts/export_onnx.py runs/nuaa/student --dataset data/nuaa --int8 --evaluate
    python scripts/export_onnx.py runs/nuaa/teacher --base-model models/mobile-sam --dataset data/nuaa

A student, one that segments or this project's own that detects, gives model.onnx and runtime.json, in the folder `onnx`
within its own unless `--out` says otherwise: all that `scalpel_hf.runtime` needs. With `--int8` there is
model_int8.onnx too, calibrated on frames of the data set's training split. A teacher gives encoder.onnx, decoder.onnx
and teacher.json. Graphs are compared with torch on frames of the test split, or on generated ones without `--dataset`,
and a difference above 1e-4 is an error.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import file_exists

from scalpel_hf import Detector, Student, SyntheticInfrared, Teacher, load_student
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import load_split
from scalpel_hf.evaluation import evaluate_student
from scalpel_hf.modeling.frames import read_frame
from scalpel_hf.onnx_export import (
    check_detector,
    check_student,
    check_teacher,
    evaluate_exported,
    export_detector,
    export_student,
    export_teacher,
    quantize_student,
)
from scalpel_hf.runtime.student import FOLDER, OnnxDetector, OnnxStudent

FRAMES = 8  # to compare on
GENERATED = [((256, 256), 8), ((240, 321), 16), ((97, 60), 16)]  # size, bits


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="student or teacher: a folder or a Hub repository")
    parser.add_argument("--base-model", help="a teacher's base, if it isn't where the adapter says")
    parser.add_argument("--out", type=Path, help="folder for the files (default: `onnx` in the model's folder)")
    parser.add_argument("--dataset", help="made by scripts/prepare.py: a folder or a Hub repository")
    parser.add_argument("--split", default="test", help="split to compare and evaluate on (default: %(default)s)")
    student = parser.add_argument_group("students")
    sides = ["inside", "outside"]
    student.add_argument("--normalization", choices=sides, default="inside", help="of the graph (default: %(default)s)")
    student.add_argument("--thresholding", choices=sides, default="inside", help="of the graph (default: %(default)s)")
    student.add_argument("--threshold", type=float, default=0.5, help="probability of a target (default: %(default)s)")
    student.add_argument("--int8", action="store_true", help="quantise too; needs `--dataset`")
    student.add_argument("--calibration-split", default="train", help="split to calibrate on (default: %(default)s)")
    student.add_argument("--calibration-frames", type=int, default=100, help="how many of it (default: %(default)s)")
    student.add_argument("--float-convs", type=int, default=0, help="convolutions that INT8 harms most, left in float")
    student.add_argument("--evaluate", action="store_true", help="print a table of figures on the split")
    args = parser.parse_args(argv)
    if (args.int8 or args.evaluate) and not args.dataset:
        raise ValueError("`--int8` calibrates on frames of a `--dataset`, and `--evaluate` measures on it: name one")
    if args.out is None and not Path(args.model).is_dir():
        raise ValueError(f"{args.model} is not a folder: say with `--out` where its ONNX files go")

    out = args.out or Path(args.model) / FOLDER
    rows = load_split(args.dataset, args.split) if args.dataset else None
    frames = spread(rows, FRAMES) if rows is not None else generated_frames()
    if is_adapter(args.model):
        teacher = Teacher.from_pretrained(args.model, args.base_model)
        export_teacher(teacher, out, args.threshold)
        print(f"{out}: within {check_teacher(teacher, out, frames):.1g} of torch on {len(frames)} frames")
        return
    model = load_student(args.model)
    normalize, threshold = args.normalization == "inside", args.threshold
    exported: OnnxStudent | OnnxDetector
    if isinstance(model, Student):
        exported = export_student(model, out, normalize, args.thresholding == "inside", threshold)
        worst = check_student(model, exported, frames)
    else:
        exported = export_detector(model, out, normalize, threshold)
        worst = check_detector(model, exported, frames)
    print(f"{out}: opset {exported.config.opset}, within {worst:.1g} of torch on {len(frames)} frames")
    models: dict[str, Student | Detector | OnnxStudent | OnnxDetector] = {"torch": model, "ONNX": exported}
    if args.int8:
        calibration = spread(load_split(args.dataset, args.calibration_split), args.calibration_frames)
        models["ONNX, INT8"] = quantize_student(out, calibration, args.float_convs)
    if args.evaluate:
        print_table(models, rows, threshold)


def is_adapter(name: str) -> bool:
    if Path(name).is_dir():
        return (Path(name) / "adapter_config.json").exists()
    return file_exists(name, "adapter_config.json")


def spread(rows: Any, count: int) -> list[np.ndarray]:
    """Frames of so many rows, at equal distances."""
    indices = np.unique(np.linspace(0, len(rows) - 1, count).round().astype(int))
    return [read_frame(row["image"]) for row in rows.select(indices)]


def generated_frames() -> list[np.ndarray]:
    return [SyntheticInfrared(size=size, bit_depth=bits).frame(0)["image"] for size, bits in GENERATED]


SEGMENTATION = {"IoU %": "iou", "nIoU %": "niou", "Pd %": "pd", "Fa 1e-6": "fa"}
DETECTION = {"AP50 %": "ap50", "AP50-95 %": "ap50_95", "precision %": "precision", "recall %": "recall", "F1 %": "f1"}


def print_table(
    models: dict[str, Student | Detector | OnnxStudent | OnnxDetector], rows: Any, threshold: float
) -> None:
    columns = SEGMENTATION if isinstance(models["torch"], Student) else DETECTION
    print("\n| | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for name, model in models.items():
        if isinstance(model, Student | Detector):
            figures = evaluate_student(model, rows, threshold)
        else:
            figures = evaluate_exported(model, rows, threshold)
        cells = [f"{figures[key] * (100 if '%' in title else 1):.1f}" for title, key in columns.items()]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    run_program(main)
