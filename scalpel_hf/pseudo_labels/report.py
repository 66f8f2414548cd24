"""The report on a labelled data set: counts, scores, pictures and, if the true masks are known, its quality."""

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.label_sources import BY_PEOPLE
from scalpel_hf.data.masks import read_target
from scalpel_hf.data.pseudo_columns import is_above
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.utils.files import whole_folder, write_text
from scalpel_hf.utils.markdown import Markdown
from scalpel_hf.utils.reading import read_text
from scalpel_hf.utils.templates import markdown_template
from scalpel_hf.utils.visualization import GREEN, RED, YELLOW, draw_outline, gray

from .calibration import MODELS, Calibration
from .output import Labelled, read_run
from .thresholds import THRESHOLDS, ThresholdChoice

TEMPLATE = Path(__file__).with_name("report.md")
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
    Write `report/README.md` with pictures into the folder of a finished [`LabellingJob`].

    Args:
        labelled: the data set in the folder.
        truth: rows with `name` and `mask`, to show beside the labels.
        quality: from `compare_with_truth`.
        choice: from `choose_threshold`.
        cases: number of pictures of each kind: highest scores, lowest scores, random frames, frames without a label.

    Returns the report's folder.
    """
    folder = Path(folder)
    rows, chosen = _survey(labelled, cases)
    pictures = dict(case_pictures(labelled, {n for names in chosen.values() for n in names}, truth))
    files = {name: Markdown(f"{file_name(name)}.png") for name in pictures}
    calibration = Calibration.load(folder / "calibration.json")
    run = read_run(folder)
    text = markdown_template(read_text(TEMPLATE)).render(
        teacher=run["teacher"],
        rules=run["rules"],
        summary=run["summary"],
        by_people=sum(run["summary"][source] for source in BY_PEOPLE),
        choice=choice,
        iou_of=dict(zip(THRESHOLDS, choice.iou, strict=True)) if choice else {},
        histograms=[
            _histogram("Area of the objects, pixels", [a for row in rows for a in row["areas"]], AREAS),
            _histogram("Score of the objects", [s for row in rows for s in row["scores"]], SCORES),
        ],
        calibration=calibration,
        losses=_losses(calibration),
        weights=list(zip(calibration.features, calibration.weights, strict=True)),
        quality=quality,
        galleries=chosen,
        files=files,
        truth=truth is not None,
    )
    with whole_folder(folder / "report", replace=True) as part:
        for name, picture in pictures.items():
            picture.save(part / files[name], optimize=True)
        if AT_RANDOM in chosen:
            picture_grid([pictures[name] for name in chosen[AT_RANDOM]]).save(part / "grid.png", optimize=True)
        write_text(part / "README.md", text)
    return folder / "report"


def _survey(labelled: Labelled, cases: int) -> tuple[list[dict[str, Any]], dict[str, list[str]]]:
    """A summary of each frame that the teacher predicted, and the names of the frames to show, by title."""
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
        AT_RANDOM: heapq.nsmallest(cases, [r for r in rows if r["source"] == "pseudo"], key=_random_key),
        "Left without a label": heapq.nsmallest(cases, [r for r in rows if r["source"] == "none"], key=_random_key),
    }
    return rows, {title: [row["name"] for row in some] for title, some in kinds.items() if some}


def _random_key(row: dict[str, Any]) -> str:
    return hashlib.sha256(row["name"].encode()).hexdigest()


def _histogram(title: str, values: Sequence[float], starts: Sequence[float]) -> dict[str, Any]:
    counts = np.histogram(values, [*starts, np.inf])[0]
    lengths = np.ceil(BAR * counts / max(counts.max(), 1)).astype(int)
    return {"title": title, "bins": list(zip(starts, counts.tolist(), lengths.tolist(), strict=True))}


def _losses(calibration: Calibration) -> Iterable[tuple[str, float]]:
    """Description and cross-validated loss of each set of features."""
    names = {(): "the teacher's mean probability", ("probability",): "the same, calibrated"}
    for features, loss in zip(MODELS, calibration.log_loss, strict=False):
        yield names.get(features, f"with {', '.join(features[1:])}"), loss


def file_name(name: str) -> str:
    """Name of a frame's picture, a hash: a frame's own name may have characters that file names can't."""
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def case_pictures(
    labelled: Labelled, names: set[str], truth: datasets.Dataset | None
) -> Iterable[tuple[str, Image.Image]]:
    """A picture of each named frame: the frame, the soft mask, and the frame with outlines of its labels."""
    places = {name: index for index, name in enumerate(truth["name"])} if truth is not None else {}
    for row in _rows_named(labelled, names):
        frame, confidence = read_frame(row["image"]).astype(np.float32), read_frame(row["pseudo_confidence"])
        taken = np.zeros(frame.shape, bool) if row["pseudo_mask"] is None else read_target(row["pseudo_mask"])
        left_open = is_above(confidence, row["teacher"]["threshold"]) & ~taken
        outlined = np.array(gray(frame))
        if truth is not None and row["name"] in places:
            draw_outline(outlined, read_target(truth[places[row["name"]]]["mask"]), color=GREEN)
        draw_outline(outlined, taken, color=RED, distance=2)
        draw_outline(outlined, left_open, color=YELLOW, distance=2)
        soft = np.repeat(confidence[..., None], 3, axis=2)
        gap = np.full((frame.shape[0], 4, 3), 255, np.uint8)
        yield row["name"], Image.fromarray(np.concatenate([np.array(gray(frame)), gap, soft, gap, outlined], axis=1))


def _rows_named(labelled: Labelled, names: set[str]) -> Iterable[dict[str, Any]]:
    if isinstance(labelled, datasets.Dataset):
        indices = [i for i, name in enumerate(labelled["name"]) if name in names]
        return (labelled[i] for i in indices)
    return (row for row in undecoded(labelled) if row["name"] in names)


def picture_grid(pictures: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """One picture with the given ones below each other."""
    height = sum(picture.height + gap for picture in pictures) - gap
    grid = Image.new("RGB", (max(picture.width for picture in pictures), height), "white")
    y = 0
    for picture in pictures:
        grid.paste(picture, (0, y))
        y += picture.height + gap
    return grid
