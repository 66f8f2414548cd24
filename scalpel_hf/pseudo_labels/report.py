"""The report on a labelled data set: counts, scores, pictures, and its quality where the truth is known."""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image
from scipy import ndimage

from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.label_sources import BY_PEOPLE
from scalpel_hf.data.masks import read_target
from scalpel_hf.hub.markdown import code, escape
from scalpel_hf.modeling.image_processing_infrared import read_frame
from scalpel_hf.utils.files import whole_folder, write_text
from scalpel_hf.utils.visualization import GREEN, RED, gray

from .calibration import MODELS, Calibration
from .columns import is_above
from .output import Labelled, read_run
from .thresholds import THRESHOLDS, ThresholdChoice

AREAS = (1, 2, 3, 5, 9, 17, 33, 65, 129, 257)  # first area of each bin, in pixels
SCORES = tuple(i / 10 for i in range(10))
AT_RANDOM = "At random"
BAR = 30  # longest bar of a histogram, in characters


def write_report(
    folder: str | Path,
    labelled: Labelled,
    truth: datasets.Dataset | None = None,
    quality: dict[str, Any] | None = None,
    choice: ThresholdChoice | None = None,
    cases: int = 6,
) -> Path:
    """
    Write `report/README.md` and its pictures into the folder of a finished [`LabellingJob`]; returns the report's
    folder.

    Args:
        truth: rows with `name` and `mask`, to show beside the labels.
        quality: what `compare_with_truth` found.
        choice: how the threshold was chosen.
        cases: pictures of each kind: the best scores, the worst, frames drawn at random, and frames left without a
            label.
    """
    folder = Path(folder)
    rows, chosen = _survey(labelled, cases)
    pictures = dict(case_pictures(labelled, {n for names in chosen.values() for n in names}, truth))
    run = read_run(folder)
    text = [
        _head(run, choice),
        _histogram("Area of the objects, pixels", [a for row in rows for a in row["areas"]], AREAS),
        _histogram("Score of the objects", [s for row in rows for s in row["scores"]], SCORES),
        _calibration(Calibration.load(folder / "calibration.json")),
        _quality(quality) if quality else "",
        *(_gallery(title, names, truth is not None) for title, names in chosen.items()),
    ]
    with whole_folder(folder / "report", replace=True) as part:
        for name, picture in pictures.items():
            picture.save(part / f"{file_name(name)}.png", optimize=True)
        if AT_RANDOM in chosen:
            picture_grid([pictures[name] for name in chosen[AT_RANDOM]]).save(part / "grid.png", optimize=True)
        write_text(part / "README.md", "\n".join(text))
    return folder / "report"


def _survey(labelled: Labelled, cases: int) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """Areas and scores of each frame's objects, and the names of the frames to show."""
    rows = []
    for row in labelled.select_columns(["name", "label_source", "pseudo_objects", "teacher"]):
        if row["label_source"] != "human" and row["teacher"] is not None:
            objects = row["pseudo_objects"] or {"area": [], "score": []}
            source, worst = row["label_source"], min(objects["score"], default=None)
            rows.append(
                {
                    "name": row["name"],
                    "source": source,
                    "worst": worst,
                    "areas": objects["area"],
                    "scores": objects["score"],
                }
            )
    found = [row for row in rows if row["scores"]]
    kinds = {
        "Highest scores": heapq.nlargest(cases, found, key=lambda row: (row["worst"], row["name"])),
        "Lowest scores": heapq.nsmallest(cases, found, key=lambda row: (row["worst"], row["name"])),
        AT_RANDOM: heapq.nsmallest(cases, [r for r in rows if r["source"] == "pseudo"], key=_draw),
        "Left without a label": heapq.nsmallest(cases, [r for r in rows if r["source"] == "none"], key=_draw),
    }
    return rows, {title: [row["name"] for row in some] for title, some in kinds.items() if some}


def _draw(row: dict[str, Any]) -> str:
    return hashlib.sha256(row["name"].encode()).hexdigest()


def _head(run: dict[str, Any], choice: ThresholdChoice | None) -> str:
    teacher, rules, summary = run["teacher"], run["rules"], run["summary"]
    skipped = "\n".join(f"- {escape(name)}" for name in summary["skipped"])
    revision = f", revision {code(teacher['revision'])}" if teacher["revision"] else ""
    most = "" if rules["max_area"] is None else f", {rules['max_area']} px or less"
    made_by = code(teacher["repo"] or "a teacher without a name")
    return f"""# Pseudo labels

Made by {made_by}{revision}, weights and settings {code(teacher["fingerprint"])},
with scalpel-hf {escape(teacher["version"])}.

| frames | |
|---|---|
| labelled by people | {sum(summary[source] for source in BY_PEOPLE)} |
| pseudo-labelled | {summary["pseudo"]} |
| of these without an object | {summary["empty"]} |
| with one | {summary["one"]} |
| with more | {summary["many"]} |
| left without a label, because the teacher wasn't sure that they are empty | {summary["unsure"]} |
| skipped, because they could not be labelled | {len(summary["skipped"])} |

{skipped + chr(10) if skipped else ""}
Threshold {rules["threshold"]:g}{_choice(choice)}. An object is accepted with a score of {rules["min_score"]:g} or
more, {rules["min_area"]} px or more{most}, and an agreement between the views of {rules["min_agreement"]:g} or more;
what else exceeds the threshold is ignored. A frame without an object is labelled as empty from a probability of
{rules["min_empty"]:g} on.
"""


def _choice(choice: ThresholdChoice | None) -> str:
    if choice is None:
        return ""
    at = dict(zip(THRESHOLDS, choice.iou, strict=True))
    return (
        f", which has the best IoU on the labelled frames ({100 * at[choice.threshold]:.1f} %, against "
        f"{100 * at[0.5]:.1f} % at 0.5; {100 * choice.left_out_iou:.1f} % where each frame is measured at the "
        "threshold that the others choose)"
    )


def _histogram(title: str, values: Sequence[float], starts: Sequence[float]) -> str:
    counts = np.histogram(values, [*starts, np.inf])[0]
    lines = [f"## {title}\n", "| from | objects | |", "|---|---|---|"]
    for start, count in zip(starts, counts, strict=True):
        lines.append(f"| {start:g} | {count} | {'█' * int(np.ceil(BAR * count / max(counts.max(), 1)))} |")
    return "\n".join(lines) + "\n"


def _calibration(calibration: Calibration) -> str:
    fitted = asdict(calibration)
    if not fitted["frames"]:
        return (
            "## Scores\n\nAn object's score is the teacher's mean probability inside it; no labelled frame was used.\n"
        )
    names = {(): "the teacher's mean probability as it is", ("probability",): "the same, corrected"}
    losses = "\n".join(
        f"| {names.get(features, 'with ' + ', '.join(features[1:]))} | {loss:.3f} |"
        for features, loss in zip(MODELS, fitted["log_loss"], strict=False)
    )
    weights = ", ".join(f"{name} {w:+.2f}" for name, w in zip(calibration.features, calibration.weights, strict=True))
    return f"""## Scores

An object's score is the probability that it is a target, learnt on {fitted["frames"]} labelled frames with
{fitted["candidates"]} candidates, {fitted["true"]} of them targets. Logarithmic loss on labelled frames left out of the
fit (lower is better; the first line that the next doesn't improve on is used):

| evidence | loss |
|---|---|
{losses}

Used: {weights or "the teacher's mean probability as it is"}; bias {calibration.bias:+.2f}.

The teacher was trained on these frames and is surer there than elsewhere. So the scores of other frames are shifted
by {calibration.offset:+.2f} (logit), after which they sum to as many targets a frame. Of the labelled frames in which
the teacher finds nothing {calibration.empty_right} are empty and {calibration.empty_wrong} are not: a frame in which it
finds nothing is taken to be empty with a probability of {calibration.trust_in_empty:.2f}.
"""


def _quality(quality: dict[str, Any]) -> str:
    lines = [
        f"| {b['from']:g} to {b['to']:g} | {b['objects']} | {b['score']:.2f} | {b['true'] / b['objects']:.2f} |"
        for b in quality["scores"]
        if b["objects"]
    ]
    head = ""
    if "iou" in quality:
        head = f"""On {quality["n_images"]} pseudo-labelled frames: IoU {100 * quality["iou"]:.1f} %, nIoU
{100 * quality["niou"]:.1f} %, Pd {100 * quality["pd"]:.1f} %, Fa {quality["fa"]:.1f} 1e-6, ignored pixels counted as
background.
"""
    return f"""## Against the hidden masks

Nothing was chosen by these metrics.

{head}
| | all | true |
|---|---|---|
| objects labelled as target | {quality["objects"]} | {quality["true_objects"]} |
| objects ignored | {quality["ignored"]} | {quality["true_ignored"]} |
| frames labelled as empty | {quality["empty_right"] + quality["empty_wrong"]} | {quality["empty_right"]} |
| frames left without a label that are empty | {quality["unsure_empty"] + quality["unsure_with_target"]} | \
{quality["unsure_empty"]} |

Of the targets in pseudo-labelled frames {quality["targets_found"]} are labelled, {quality["targets_open"]} ignored,
{quality["targets_missed"]} missed.

| score | objects | mean score | share true |
|---|---|---|---|
{chr(10).join(lines)}
"""


def _gallery(title: str, names: list[str], truth: bool) -> str:
    lines = "Each: the frame, the teacher's probability, and what became of it: red labelled, yellow ignored"
    pictures = "\n\n".join(f"{escape(name)}\n\n![{escape(name)}]({file_name(name)}.png)" for name in names)
    return f"## {title}\n\n{lines}{', green the hidden truth' if truth else ''}.\n\n{pictures}\n"


YELLOW = (250, 210, 40)


def file_name(name: str) -> str:
    """For a frame's picture: names may hold what files' names can't."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def case_pictures(
    labelled: Labelled, names: set[str], truth: datasets.Dataset | None
) -> Iterable[tuple[str, Image.Image]]:
    """Of each frame of those names the frame, its soft mask, and the frame with its labels outlined."""
    places = {name: index for index, name in enumerate(truth["name"])} if truth is not None else {}
    for row in _rows_named(labelled, names):
        frame, confidence = read_frame(row["image"]).astype(np.float32), read_frame(row["pseudo_confidence"])
        taken = np.zeros(frame.shape, bool) if row["pseudo_mask"] is None else read_target(row["pseudo_mask"])
        left_open = is_above(confidence, row["teacher"]["threshold"]) & ~taken
        outlined = np.array(gray(frame))
        if truth is not None and row["name"] in places:
            _outline(outlined, read_target(truth[places[row["name"]]]["mask"]), GREEN, 1)
        _outline(outlined, taken, RED, 2)
        _outline(outlined, left_open, YELLOW, 2)
        soft = np.repeat(confidence[..., None], 3, axis=2)
        gap = np.full((frame.shape[0], 4, 3), 255, np.uint8)
        yield row["name"], Image.fromarray(np.concatenate([np.array(gray(frame)), gap, soft, gap, outlined], axis=1))


def _rows_named(labelled: Labelled, names: set[str]) -> Iterable[dict[str, Any]]:
    if isinstance(labelled, datasets.Dataset):
        indices = [i for i, name in enumerate(labelled["name"]) if name in names]
        return (labelled[i] for i in indices)
    return (row for row in undecoded(labelled) if row["name"] in names)


def picture_grid(pictures: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Pictures below one another."""
    height = sum(picture.height + gap for picture in pictures) - gap
    grid = Image.new("RGB", (max(picture.width for picture in pictures), height), "white")
    y = 0
    for picture in pictures:
        grid.paste(picture, (0, y))
        y += picture.height + gap
    return grid


def _outline(picture: np.ndarray, mask: np.ndarray, color: tuple[int, int, int], distance: int) -> None:
    far, near = (ndimage.binary_dilation(mask, np.ones((3, 3)), iterations=d) for d in (distance + 1, distance))
    picture[far & ~near] = color
