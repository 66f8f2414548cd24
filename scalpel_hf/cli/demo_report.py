"""The demo's report: one HTML file with metrics, pictures, times and commands, which needs nothing beside it."""

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from scalpel_hf.adapter import record_router
from scalpel_hf.data import load_split, objects_from_mask, read_target
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.evaluation import IRSTDMetrics
from scalpel_hf.modeling.image_processing_infrared import read_frame
from scalpel_hf.predictors.student import SegmentationStudent
from scalpel_hf.predictors.teacher import Teacher
from scalpel_hf.utils.files import write_text
from scalpel_hf.utils.visualization import EXPERT_COLORS, GREEN, RED, Color, gray, level, outline, strongest_expert

STUDENTS = {
    "student-10pct": "student, 10 % alone",
    "student-pseudo": "student, 10 % + pseudo labels",
    "student-100pct": "student, 100 %",
}
MODELS = {"teacher": "teacher, 10 % of the labels", **STUDENTS}
METRICS = {"iou": ("IoU %", 100), "niou": ("nIoU %", 100), "pd": ("Pd %", 100), "fa": ("Fa 1e-6", 1)}
FRAMES, PSEUDO_FRAMES = 6, 4

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>scalpel-hf demo</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 68rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2; font-weight: 600 } h2 { margin-top: 2.5rem }
table { border-collapse: collapse; margin: 1rem 0 } th { font-weight: 600 }
td, th { padding: .3rem 1rem .3rem 0; border-bottom: 1px solid #ddd; text-align: right; vertical-align: top }
td:first-child, th:first-child { text-align: left }
.frame { margin: 1.5rem 0 } .frame > b { display: block; margin-bottom: .3rem }
.row { display: grid; grid-template-columns: repeat(4, 1fr); gap: .8rem }
figure { margin: 0 } figcaption { font-size: .85rem; color: #555 }
img { width: 100%; display: block; image-rendering: pixelated }
.box { display: inline-block; width: .8em; height: .8em; margin-right: .3em }
pre { background: #f6f6f6; padding: .5rem .8rem; margin: .2rem 0 1rem; white-space: pre-wrap; font-size: .85rem }
.note { color: #555; font-size: .9rem }
@media (max-width: 40rem) { .row { grid-template-columns: repeat(2, 1fr) } }
</style></head><body>
<h1>scalpel-hf on synthetic frames</h1>
<p>A teacher learns from a tenth of the masks, labels the other frames, and a small student learns from both. The frames
are of this project's own generator, and the Segment Anything model under the teacher has <b>random weights</b>: the
teacher lives on its operators and its branch alone. What the method does with real frames and real weights stands in
docs/results.md.</p>
"""

Table = dict[str, dict[str, float]]
Pictures = dict[str, Image.Image]  # by caption


def results(out: Path) -> Table:
    """The models' metrics on the test frames, by model."""
    return {name: _read(out / folder / "metrics.json")["metrics"]["test"] for folder, name in MODELS.items()}


def row_of(metrics: Mapping[str, float]) -> list[str]:
    return [f"{scale * metrics[key]:.1f}" for key, (_, scale) in METRICS.items()]


def write_report(out: Path, stages: list[tuple[str, str, float]]) -> Path:
    """
    Write `report.html` into a folder in which all of the demo's stages are done.

    Args:
        stages: name, command and wall time in seconds of each.
    """
    hidden = load_split(out / "data", "train")
    pseudo = load_split(out / "pseudo", "train")
    test = load_split(out / "data", "test")
    teacher = Teacher.from_pretrained(out / "teacher", out / "sam")
    students = {name: SegmentationStudent.from_pretrained(out / folder) for folder, name in STUDENTS.items()}
    summary = _read(out / "pseudo" / "summary.json")
    found, shares = _test_pictures(test.select(range(min(FRAMES, len(test)))), teacher, students)
    parts = [
        _metrics(results(out), summary),
        _router(shares),
        f"<h2>Test frames</h2><p>The first {len(found)} of {len(test)}, not picked. {_line(GREEN)} truth, "
        f"{_line(RED)} prediction at threshold 0.5, with the targets found and the false alarms.</p>{_gallery(found)}",
        _pseudo_labels(summary, _pseudo_pictures(pseudo, hidden)),
        _commands(stages),
        _machine(_read(out / "teacher" / "metrics.json")),
    ]
    path = out / "report.html"
    write_text(path, HEAD + "\n".join(parts) + "\n")
    return path


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _test_pictures(
    rows: datasets.Dataset, teacher: Teacher, students: Mapping[str, SegmentationStudent]
) -> tuple[dict[str, Pictures], dict[str, tuple[float, float]]]:
    """Pictures of each frame, and each expert's mean weight on target pixels and elsewhere in all of them."""
    found: dict[str, Pictures] = {}
    on: dict[str, list[np.ndarray]] = {name: [] for name in EXPERT_COLORS}
    off: dict[str, list[np.ndarray]] = {name: [] for name in EXPERT_COLORS}
    for row in undecoded(rows):
        frame, truth = read_frame(row["image"]).astype(np.float32), read_target(row["mask"])
        pictures = {"frame": gray(frame), f"truth: {_targets(truth)}": outline(frame, truth, GREEN)}
        with record_router() as records:
            predictions = {"teacher": teacher.probabilities(row["image"]) > 0.5}
        weights = dict(
            zip(teacher.model.active_peft_config.scales, records[0]["router_weights"][0].numpy(force=True), strict=True)
        )
        pictures["the operators' prior, as routed"] = gray(records[0]["prior"][0, 0].numpy(force=True))
        pictures["the strongest expert"] = strongest_expert(weights)
        for name, weight in {**weights, "none": 1 - sum(weights.values())}.items():
            on[name].append(weight[truth])
            off[name].append(weight[~truth])
        predictions |= {name: student.probabilities(row["image"]) > 0.5 for name, student in students.items()}
        for name, prediction in predictions.items():
            pictures[f"{name}: {_found(prediction, truth)}"] = outline(frame, prediction, RED)
        found[row["name"]] = pictures
    return found, {name: (_mean(on[name]), _mean(off[name])) for name in EXPERT_COLORS if on[name]}


def _pseudo_pictures(pseudo: datasets.Dataset, hidden: datasets.Dataset) -> dict[str, Pictures]:
    place = {name: index for index, name in enumerate(hidden["name"])}
    found: dict[str, Pictures] = {}
    labelled = [i for i, source in enumerate(pseudo["label_source"]) if source == "pseudo"][:PSEUDO_FRAMES]
    for row in undecoded(pseudo.select(labelled)):
        frame, prediction = read_frame(row["image"]).astype(np.float32), read_target(row["pseudo_mask"])
        truth = read_target(hidden[place[row["name"]]]["mask"])
        found[row["name"]] = {
            "frame": gray(frame),
            f"hidden truth: {_targets(truth)}": outline(frame, truth, GREEN),
            f"pseudo label: {_found(prediction, truth)}": outline(frame, prediction, RED),
            "the teacher's probability": level(read_frame(row["pseudo_confidence"]) / 255),
        }
    return found


def _mean(parts: list[np.ndarray]) -> float:
    values = np.concatenate(parts)
    return float(values.mean()) if values.size else float("nan")


def _targets(mask: np.ndarray) -> str:
    count = len(objects_from_mask(mask)["area"])
    return f"{count} target{'' if count == 1 else 's'}" if count else "no target"


def _found(prediction: np.ndarray, truth: np.ndarray) -> str:
    """How many targets a prediction finds and how many false alarms it gives, by the rule of Pd and Fa."""
    metrics = IRSTDMetrics()
    metrics.update(prediction.astype(np.float32), truth)
    counts = metrics.compute()
    false = len(objects_from_mask(prediction)["area"]) - int(counts["n_detected"])
    alarms = f"{false} false alarm{'' if false == 1 else 's'}"
    return f"{counts['n_detected']:.0f} of {counts['n_targets']:.0f}, {alarms}" if truth.any() else alarms


def _metrics(table: Table, summary: Mapping[str, Any]) -> str:
    rows = [[name, *row_of(metrics)] for name, metrics in table.items()]
    rows.append([f"pseudo labels, on the {summary['pseudo']} hidden frames", *row_of(summary["quality"])])
    alone, pseudo, everything = (table[name]["iou"] for name in STUDENTS.values())
    shares = (
        f"Of the IoU of the student with all masks, the one with 10 % alone reaches {100 * alone / everything:.0f} %, "
        f"the one with pseudo labels {100 * pseudo / everything:.0f} %."
        if everything
        else "The student with all masks finds nothing: it was trained for too few steps."
    )
    return f"""<h2>Metrics</h2>{_table(["", *(title for title, _ in METRICS.values())], rows)}<p>{shares}</p>
<p class="note">{table[STUDENTS["student-100pct"]]["n_images"]} test frames at their own size, threshold 0.5, targets
matched within 3 pixels, one seed: differences of a few points say nothing. IoU is pooled over all pixels, nIoU averaged
over frames; Pd is the share of targets found, Fa the share of pixels in false alarms. By the field's rule a frame
without a target counts 0 in nIoU, which therefore stays below the share of frames that have one.</p>"""


def _router(shares: Mapping[str, tuple[float, float]]) -> str:
    rows = [
        [f"{_box(EXPERT_COLORS[name])}{name.replace('_', ' ')}", *(f"{100 * share:.0f} %" for share in pair)]
        for name, pair in shares.items()
    ]
    return f"""<h2>Which expert where</h2>
<p>The teacher's router gives each of its white-box operators a weight at every pixel, and one to none of them. Mean
weights on the frames below, and the colours of the pictures “the strongest expert”:</p>
{_table(["expert", "on targets", "elsewhere"], rows)}"""


def _pseudo_labels(summary: Mapping[str, Any], found: Mapping[str, Pictures]) -> str:
    return f"""<h2>Pseudo labels</h2>
<p>{summary["human"]} frames kept their human masks; the teacher labelled the {summary["pseudo"]} others:
{summary["empty"]} without a target, {summary["one"]} with one, {summary["many"]} with more. Against the masks that were
hidden from it: IoU {100 * summary["quality"]["iou"]:.1f} %, {summary["quality"]["n_detected"]} of
{summary["quality"]["n_targets"]} targets found.</p>
<p>The first {len(found)} of these frames, not picked. {_line(GREEN)} hidden truth, {_line(RED)} pseudo label.</p>
{_gallery(found)}"""


def _commands(stages: Iterable[tuple[str, str, float]]) -> str:
    stages = list(stages)
    rows = [[html.escape(name), f"{seconds:.0f}"] for name, _, seconds in stages]
    rows.append(["together", f"{sum(seconds for *_, seconds in stages):.0f}"])
    lines = "\n".join(f"# {html.escape(name)}\n{html.escape(command)}\n" for name, command, _ in stages)
    return f"""<h2>Times and commands</h2>{_table(["stage", "wall time, s"], rows)}
<p>With frames of your own the commands are the same: the README's section “The job on your frames”.</p>
<pre>{lines}</pre>"""


def _machine(record: Mapping[str, Any]) -> str:
    machine = record["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    device = machine["accelerator"] or f"{machine['cpus']} CPUs, {machine['cpu_capability']}"
    commit = f", commit {record['commit'][:12]}" if record["commit"] else ""
    text = html.escape(f"{device}; Python {machine['python']}, {packages}{commit}.")
    return f'<p class="note">{text}</p></body></html>'


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{cells}</table>"


def _gallery(found: Mapping[str, Pictures]) -> str:
    return "".join(
        f'<div class="frame"><b>{html.escape(name)}</b>'
        f'<div class="row">{"".join(map(_figure, pictures.items()))}</div></div>'
        for name, pictures in found.items()
    )


def _figure(captioned: tuple[str, Image.Image]) -> str:
    caption, picture = captioned
    buffer = io.BytesIO()
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'


def _box(color: Color) -> str:
    return f'<span class="box" style="background: rgb{color}"></span>'


def _line(color: Color) -> str:
    return f'<span class="box" style="border: 2px solid rgb{color}; box-sizing: border-box"></span>'
