"""The report that a job ends with: one HTML file with metrics, example frames and what to do next."""

import base64
import io
from pathlib import Path
from typing import Any

import datasets
import jinja2
import numpy as np
import torch
from PIL import Image

from scalpel_hf.app.certainty import rank
from scalpel_hf.data import load_prepared, read_target
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.evaluation.comparison import bootstrap_differences, bootstrap_pairs, count_frames, mean_metrics
from scalpel_hf.modeling.configuration_experts import OPERATOR_SCALES
from scalpel_hf.modeling.image_processing_infrared import normalize_frame, read_frame
from scalpel_hf.modeling.moe import PriorPyramid
from scalpel_hf.predictors.load import load_trained
from scalpel_hf.runtime.onnx_models import OnnxStudent, load_exported
from scalpel_hf.runtime.settings import FOLDER, INT8_FILE
from scalpel_hf.utils.files import read_json, write_text
from scalpel_hf.utils.visualization import GREEN, RED, gray, level, outline

from .run_data import FOLDS, LEAST_MASKS, describe, fold_folder
from .stages import Stage, times_of

TEMPLATE = Path(__file__).with_name("run_report.html")
MODELS = {
    "teacher": "teacher",
    "student": "student, labels and pseudo labels",
    "student-labels-alone": "student, labels alone",
}
METRICS = {"IoU %": 100, "nIoU %": 100, "Pd %": 100, "Fa 1e-6": 1}  # in the order of `mean_metrics`
EXAMPLES, UNSURE = 3, 6
LEAST_FRAMES = 10  # on which two models are told apart: draws of fewer all look alike
INTERVAL = (2.5, 97.5)  # percentiles


def write_report(out: Path, stages: list[Stage]) -> Path:
    """Write `report.html` into a job's folder in which all stages are done."""
    data, pseudo = load_prepared(out / "data"), load_prepared(out / "pseudo")["train"]
    student = load_trained(out / "student")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    measured = _metrics(out, data["test"]) if "test" in data else None
    summary = read_json(out / "pseudo" / "summary.json")
    times = times_of(out)
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=out.name,
        contents=describe(out / "data").splitlines(),
        metric_names=list(METRICS),
        measured=measured,
        crossed=_cross_validated(out),
        examples=_examples(student, data["test"]) if "test" in data else [],
        summary=summary,
        unsure=_unsure(pseudo, out / "pseudo"),
        advice=_advice(out, data, summary, measured),
        student=out / "student",
        times=[(stage.name, f"{times.get(stage.name, 0):.0f}") for stage in stages],
        commands=[" ".join(["scalpel-hf", *stage.command]) for stage in stages],
    )
    path = out / "report.html"
    write_text(path, text)
    return path


def _metrics(out: Path, rows: datasets.Dataset) -> dict[str, Any]:
    """Each model's metrics with their intervals, and whether the pseudo labels helped."""
    models = {folder: load_trained(out / folder) for folder in MODELS}
    counts = {folder: count_frames(model.probabilities, rows)[0][None] for folder, model in models.items()}
    table = [(name, _cells(counts[folder])) for folder, name in MODELS.items()]
    in_8_bits = count_frames(_in_8_bits(out / "student").probabilities, rows)[0][None]
    table.insert(2, ("the same in 8 bits", _cells(in_8_bits)))
    low, high = np.percentile(
        bootstrap_differences(counts["student"], counts["student-labels-alone"]), INTERVAL, axis=0
    )
    verdict = "ahead of" if low[0] > 0 else "behind" if high[0] < 0 else "not told apart from"
    if len(rows) < LEAST_FRAMES:
        verdict = f"not to be compared on {len(rows)} frames with"
    student = counts["student"][0].sum(0)
    return {
        "table": table,
        "frames": len(rows),
        "targets": int(student[2]),
        "found": int(student[3]),
        "verdict": f"With pseudo labels the student is {verdict} the one of the labels alone: a difference in IoU of "
        f"{100 * low[0]:.1f} to {100 * high[0]:.1f} points.",
    }


def _in_8_bits(student: Path) -> OnnxStudent:
    exported = load_exported(student / FOLDER, INT8_FILE)
    assert isinstance(exported, OnnxStudent)  # what the job trains
    return exported


def _cells(counts: np.ndarray) -> list[str]:
    """Each metric with its interval, of `(1, frames, 6)` of [`count_frames`]."""
    drawn = np.percentile(bootstrap_pairs(counts, counts)[0], INTERVAL, axis=0)
    return [
        f"{scale * value:.1f} ({scale * low:.1f} to {scale * high:.1f})"
        for value, low, high, scale in zip(mean_metrics(counts), *drawn, METRICS.values(), strict=True)
    ]


def _cross_validated(out: Path) -> dict[str, Any] | None:
    """Metrics over all frames with a mask, each measured by the student that has not seen it; `None` of no folds."""
    folders = [folder for folder in (fold_folder(out, number) for number in range(FOLDS)) if folder.exists()]
    if not folders:
        return None
    seen = [
        count_frames(load_trained(folder / "student").probabilities, load_prepared(folder / "data")["test"])[0]
        for folder in folders
    ]
    counts = np.concatenate(seen)[None]
    frames, targets = counts.shape[1], int(counts[0, :, 2].sum())
    return {"cells": _cells(counts), "folds": len(folders), "frames": frames, "targets": targets}


def _examples(student: Any, rows: datasets.Dataset) -> list[dict[str, Any]]:
    """Frames of which all targets are found, of which some is missed, and with a false alarm: a few of each."""
    kinds: dict[str, list[dict[str, Any]]] = {"found": [], "missed": [], "false alarm": []}
    for row in undecoded(rows):
        frame, truth = read_frame(row["image"]).astype(np.float32), read_target(row["mask"])
        probability = student.probabilities(row["image"])
        kind = _kind(probability, row)
        if kind is None or len(kinds[kind]) == EXAMPLES:
            continue
        pictures = {
            "frame": gray(frame),
            "truth": outline(frame, truth, GREEN),
            "the student's answer": outline(frame, probability > 0.5, RED),
            **_operator_maps(frame),
        }
        kinds[kind].append({"name": row["name"], "note": kind, "pictures": _embedded(pictures)})
    return [example for examples in kinds.values() for example in examples]


def _kind(probability: np.ndarray, row: dict[str, Any]) -> str | None:
    """What a prediction for a frame is an example of; `None` where there is nothing to find, and nothing found."""
    counts, _ = count_frames(lambda _: probability, [row])
    targets, detected, false = (int(counts[0, place]) for place in (2, 3, 4))
    return "missed" if detected < targets else "false alarm" if false else "found" if targets else None


def _operator_maps(frame: np.ndarray) -> dict[str, Image.Image]:
    """Each operator's strongest scale at every pixel, at the classical parameters."""
    pyramid = PriorPyramid({name: list(scales) for name, scales in OPERATOR_SCALES.items()})
    with torch.no_grad():
        maps, _ = pyramid(normalize_frame(torch.from_numpy(frame))[None, None])
    return {
        name.replace("_", " "): gray(scales[0].amax(0).clamp(min=0).numpy())
        for name, scales in zip(pyramid.num_maps, maps, strict=True)
    }


def _unsure(pseudo: datasets.Dataset, folder: Path) -> list[dict[str, Any]]:
    """The frames of whose labels the teacher is least sure."""
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


def _advice(
    out: Path, data: datasets.DatasetDict, summary: dict[str, Any], measured: dict[str, Any] | None
) -> list[tuple[str, str]]:
    """What to do next, and the command for it."""
    advice = [
        (
            "Look through the labels that the teacher is least sure of: each decision then counts as a person's.",
            f"scalpel-hf review {out / 'pseudo'}",
        )
    ]
    if measured is None:
        text = (
            f"Label more frames: from {LEAST_MASKS} masks on some are held out, and the student has figures of its own."
        )
        advice.append((text, ""))
    elif measured["targets"] < 30:
        advice.append((f"Label more frames: {measured['targets']} held-out targets leave the figures wide open.", ""))
    if summary.get("none", 0) > summary.get("pseudo", 0):
        advice.append(
            (
                f"The teacher left {summary['none']} frames without a label, more than it labelled: label some.",
                "",
            )
        )
    advice.append(("Use the student.", f"scalpel-hf predict {out / 'student'} FRAMES --out boxes.jsonl"))
    return advice


def _embedded(pictures: dict[str, Image.Image]) -> list[tuple[str, str]]:
    """Pictures as they stand in a page, by caption."""
    found = []
    for caption, picture in pictures.items():
        buffer = io.BytesIO()
        picture.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
        found.append((caption, base64.b64encode(buffer.getvalue()).decode()))
    return found
