"""Writes the report at the end of a job: one HTML file with metrics, example frames and next steps."""

import base64
import io
import shlex
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from scalpel_hf.app.certainty import rank
from scalpel_hf.data import load_prepared, read_target
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.evaluation.box_metrics import truth_of
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.training.run_record import METRICS_FILE
from scalpel_hf.utils.files import write_text
from scalpel_hf.utils.reading import read_json, read_text
from scalpel_hf.utils.templates import html_template
from scalpel_hf.utils.visualization import GREEN, RED, fill_boxes, gray, level, mark_targets, operator_maps, outline

from .run_data import (
    ALONE,
    LEAST_LABELS,
    describe,
    labels_of_one_recording,
    no_pseudo_labels,
    students_of,
    task_of,
)
from .run_figures import LEAST, Criterion, Figures, criterion_of, load_model
from .stages import Stage, times_of

TEMPLATE = Path(__file__).with_name("run_report.html")
EXAMPLES, UNSURE = 3, 6  # frames of each kind, and frames of which the teacher is unsure
REMEDY = "Label more frames that show a target, or train longer in a new --out, by a larger --preset or --max-steps."


def write_report(out: Path, stages: list[Stage], figures: Figures | None) -> Path:
    """
    Write `report.html` into the folder of a finished job; returns its path.

    Args:
        out: the job's folder.
        stages: of the job.
        figures: from [`measure`].
    """
    data, pseudo = load_prepared(out / "data"), load_prepared(out / "pseudo")["train"]
    student, task = load_model(out / "student"), task_of(out / "data")
    summary, students = read_json(out / "pseudo" / "summary.json"), students_of(out)
    times = times_of(out)
    text = html_template(read_text(TEMPLATE)).render(
        name=out.name,
        contents=describe(out / "data").splitlines(),
        figures=figures,
        examples=_examples(student, criterion_of(task, [data["test"]]), data["test"]) if "test" in data else [],
        summary=summary,
        unsure=_unsure(pseudo, out / "pseudo"),
        advice=_advice(out, summary, figures),
        student=out / "student",
        task=task,
        problem=no_pseudo_labels(out),
        taught_alone=students["student"] == ALONE,
        other=[out / name for name in students if name != "student"],
        machine=_machine(read_json(out / "teacher" / METRICS_FILE)),
        times=[(stage.name, f"{times.get(stage.name, 0):.0f}") for stage in stages],
        commands=["scalpel-hf " + shlex.join(stage.command) for stage in stages],
    )
    path = out / "report.html"
    write_text(path, text)
    return path


def _examples(student: Any, criterion: Criterion, rows: datasets.Dataset) -> list[dict[str, Any]]:
    """A few frames of each kind: all targets found, a target missed, a false alarm."""
    kinds: dict[str, list[dict[str, Any]]] = {"found": [], "missed": [], "false alarm": []}
    counts = criterion.count(student, rows)[:, criterion.columns]
    for row, (targets, detected, false) in zip(undecoded(rows), counts, strict=True):
        kind = _kind(targets, detected, false)
        if kind is None or len(kinds[kind]) == EXAMPLES:
            continue
        frame = read_frame(row["image"]).astype(np.float32)
        pictures = {
            "frame": gray(frame),
            "truth": outline(frame, _truth(row, frame.shape), GREEN),
            "the student's answer": outline(frame, mark_targets(student, row["image"]), RED),
            **operator_maps(frame),
        }
        kinds[kind].append({"name": row["name"], "note": kind, "pictures": _embedded(pictures)})
    return [example for examples in kinds.values() for example in examples]


def _truth(row: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """`(H, W)` bool: a person's mask, or the pixels of a person's boxes."""
    if row["mask"] is not None:
        return read_target(row["mask"])
    return fill_boxes(truth_of(row), shape)


def _kind(targets: int, detected: int, false: int) -> str | None:
    """What a frame with these counts is an example of; `None` without targets and false alarms."""
    return "missed" if detected < targets else "false alarm" if false else "found" if targets else None


def _unsure(pseudo: datasets.Dataset, folder: Path) -> list[dict[str, Any]]:
    """The frames whose labels the teacher is least sure of, with their pictures."""
    found = []
    for index, certainty in rank(pseudo, folder)[:UNSURE]:
        row = undecoded(pseudo)[index]
        if row["pseudo_confidence"] is None:
            continue
        frame = read_frame(row["image"]).astype(np.float32)
        taken = read_target(row["pseudo_mask"]) if row["pseudo_mask"] else np.zeros(frame.shape, bool)
        pictures = {
            "frame": gray(frame),
            "its pseudo label": outline(frame, taken, RED),
            "the teacher's probability": level(read_frame(row["pseudo_confidence"]) / 255),
        }
        found.append({"name": row["name"], "note": f"certainty {certainty:.2f}", "pictures": _embedded(pictures)})
    return found


def _machine(record: dict[str, Any]) -> str:
    machine = record["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    device = machine["accelerator"] or f"{machine['cpus']} CPUs, {machine['cpu_capability']}"
    return f"{device}; Python {machine['python']}, {packages}."


def _advice(out: Path, summary: dict[str, Any], figures: Figures | None) -> list[tuple[str, str]]:
    """Next steps, each with its command; an empty one where there is none."""
    advice: list[tuple[str, str]] = []
    if "problem" in summary:
        advice.append((REMEDY, ""))
    advice.append(
        (
            "Look through the labels that the teacher is least sure of: each decision then counts as a person's.",
            f"scalpel-hf review {out / 'pseudo'}",
        )
    )
    if labels_of_one_recording(load_prepared(out / "data")["train"]) and figures is None:
        advice.append(("Label frames of another recording: then some are held out, and the student has figures.", ""))
    elif figures is None or figures.folds:
        text = f"Label more frames: from {LEAST_LABELS} on some are held out, and the student has figures of its own."
        advice.append((text, ""))
    elif not figures.drawn:
        advice.append(
            (f"Label more frames, or more recordings: from {LEAST} held out on, the figures have intervals.", "")
        )
    elif figures.targets < 30:
        advice.append((f"Label more frames: {figures.targets} held-out targets leave the figures wide open.", ""))
    if not no_pseudo_labels(out) and summary.get("none", 0) > summary.get("pseudo", 0):
        advice.append(
            (
                f"The teacher left {summary['none']} frames without a label, more than it labelled: label some.",
                "",
            )
        )
    advice.append(("Use the student.", f"scalpel-hf predict {out / 'student'} FRAMES --out boxes.jsonl"))
    return advice


def _embedded(pictures: dict[str, Image.Image]) -> list[tuple[str, str]]:
    """Captions with the pictures as base64 of PNG files, for use in a page."""
    found = []
    for caption, picture in pictures.items():
        buffer = io.BytesIO()
        picture.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
        found.append((caption, base64.b64encode(buffer.getvalue()).decode()))
    return found
