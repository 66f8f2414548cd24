"""A contact sheet: held-out frames with their labels and the model's predictions, to watch a training by."""

from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from accelerate import Accelerator
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from scalpel_hf.data import load_split, objects_from_mask
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.objects import EIGHT_CONNECTED
from scalpel_hf.evaluation.box_metrics import (
    RADIUS,
    as_corners,
    as_detector,
    centres_inside,
    judged_by_boxes,
    truth_of,
)
from scalpel_hf.evaluation.evaluator import predictions_and_masks
from scalpel_hf.evaluation.irstd_metrics import components, match
from scalpel_hf.evaluation.unseen import with_labels
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.utils.files import write_bytes
from scalpel_hf.utils.visualization import BLUE, GREEN, RED, YELLOW, draw_outline, fill_boxes, gray

SHEET_FILE = "contact_sheet.png"
FRAMES, COLUMNS, SIDE, TEXT, GAP = 12, 3, 224, 13, 6  # most frames, columns; pixels of a frame, a line of text, a gap
THRESHOLD = 0.5  # the same as in evaluations during training
LEGEND = (("label, found", GREEN), ("label, missed", YELLOW), ("prediction", BLUE), ("false alarm", RED))


class Comparison(NamedTuple):
    """
    A frame's labels and predictions, compared.

    Args:
        masks: `(H, W)` each, of found labels, missed labels, right predictions and false alarms.
        found, missed, false: numbers of found labels, missed labels and false alarms.
    """

    masks: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
    found: int
    missed: int
    false: int


def contact_sheet(model: Any, rows: datasets.Dataset, step: int) -> Image.Image:
    """
    A picture of up to `FRAMES` labelled rows, evenly spaced: each frame, and beside it the frame with its labels and
    predictions outlined in the colours of `LEGEND`.

    Predictions are right by the same rule as in evaluations: for a segmenter and masks, the centroids of prediction and
    target are within 3 pixels; otherwise the centre of the predicted box lies in the target's box.

    Args:
        model: with `probabilities`, or a detector with `detect`.
        rows: with `image` and a person's `mask`, or `objects` and `label_source`.
        step: of the training, for the heading.
    """
    chosen = rows.select(np.linspace(0, len(rows) - 1, min(FRAMES, len(rows))).round().astype(int))
    comparisons = compare_by_boxes(model, chosen) if judged_by_boxes(rows) else compare_by_masks(model, chosen)
    cells = [_cell(row, comparison) for row, comparison in zip(undecoded(chosen), comparisons, strict=True)]
    lines = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    width, height = max(len(line) for line in lines) * (cells[0].width + GAP), TEXT + 2 * GAP
    sheet = Image.new("RGB", (max(width, 480), height + len(lines) * (cells[0].height + GAP)), "white")
    _head(ImageDraw.Draw(sheet), step)
    for y, line in enumerate(lines):
        for x, cell in enumerate(line):
            sheet.paste(cell, (x * (cell.width + GAP), height + y * (cell.height + GAP)))
    return sheet


def frames_to_watch(dataset: str, split: str, held_out: datasets.Dataset | None) -> datasets.Dataset | None:
    """Labelled frames for contact sheets: the held-out ones if there are any, else a split's; else `None`."""
    if held_out:
        return held_out
    remedy = "`--watch-split ''` to look at none"
    return with_labels(load_split(dataset, split, remedy), f"split {split!r} of {dataset!r}", remedy) if split else None


def keep_sheet(accelerator: Accelerator, folder: str | Path, sheet: Image.Image, step: int) -> None:
    """Write a sheet to a run's folder in place of the last one, and to TensorBoard or Trackio, which stay local."""
    buffer = BytesIO()
    sheet.save(buffer, "PNG", compress_level=1)
    write_bytes(Path(folder) / SHEET_FILE, buffer.getvalue())
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            tracker.log_images({"held out": np.asarray(sheet)[None]}, step=step, dataformats="NHWC")
        elif tracker.name == "trackio":
            import trackio

            tracker.log({"held out": trackio.Image(sheet)}, step=step)


def compare_by_masks(model: Any, rows: datasets.Dataset) -> Iterator[Comparison]:
    by_pixels = hasattr(model, "probabilities")
    ask = model.probabilities if by_pixels else partial(model.detect, threshold=THRESHOLD)
    for prediction, mask in predictions_and_masks(ask, rows):
        if by_pixels:
            yield _by_pixels(prediction > THRESHOLD, mask)
        else:
            yield _by_boxes(prediction[1], as_corners(objects_from_mask(mask)["bbox"]), mask.shape)


def compare_by_boxes(model: Any, rows: datasets.Dataset) -> Iterator[Comparison]:
    by_pixels = hasattr(model, "probabilities")
    ask = as_detector(model.probabilities, THRESHOLD) if by_pixels else partial(model.detect, threshold=THRESHOLD)
    for row in undecoded(rows):
        yield _by_boxes(ask(row["image"])[1], truth_of(row), read_frame(row["image"]).shape)


def _by_pixels(prediction: np.ndarray, mask: np.ndarray) -> Comparison:
    taken = match(components(mask)[0], components(prediction)[0], RADIUS)
    labels, predictions = (ndimage.label(of, structure=EIGHT_CONNECTED)[0] for of in (mask, prediction))
    found, right = np.isin(labels, 1 + np.flatnonzero(taken >= 0)), np.isin(predictions, 1 + taken[taken >= 0])
    masks = (found, mask & ~found, right, prediction & ~right)
    found_labels = int((taken >= 0).sum())
    return Comparison(masks, found=found_labels, missed=int((taken < 0).sum()), false=predictions.max() - found_labels)


def _by_boxes(boxes: np.ndarray, truth: np.ndarray, shape: tuple[int, ...]) -> Comparison:
    inside = centres_inside(boxes, truth)
    found, right = inside.any(0), inside.any(1)
    parts = (truth[found], truth[~found], boxes[right], boxes[~right])
    filled = [fill_boxes(part, shape) for part in parts]
    masks = (filled[0], filled[1], filled[2], filled[3])
    return Comparison(masks, found=len(parts[0]), missed=len(parts[1]), false=len(parts[3]))


def _cell(row: dict[str, Any], comparison: Comparison) -> Image.Image:
    """A frame, plain and with outlines, fitted into squares, above its name and counts."""
    plain = gray(read_frame(row["image"]).astype(np.float32))
    scale = SIDE / max(plain.size)
    size = (max(1, round(plain.width * scale)), max(1, round(plain.height * scale)))
    plain = plain.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
    outlined = np.array(plain)
    for distance, mask, (_, color) in zip((3, 3, 1, 1), comparison.masks, LEGEND, strict=True):
        # Outlines are drawn after resizing, so that their lines are one pixel wide.
        shown = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX)) > 0
        draw_outline(outlined, shown, color=color, distance=distance)
    cell = Image.new("RGB", (2 * SIDE, SIDE + TEXT + GAP), "white")
    cell.paste(plain, (0, 0))
    cell.paste(Image.fromarray(outlined), (SIDE, 0))
    targets = comparison.found + comparison.missed
    found = f"{comparison.found} of {targets} found" if targets else "no target"
    text = f"{found}, {comparison.false} false: {row['name']}"
    ImageDraw.Draw(cell).text((0, SIDE + 1), text, fill="black", font=ImageFont.load_default(TEXT))
    return cell


def _head(pen: ImageDraw.ImageDraw, step: int) -> None:
    font, x = ImageFont.load_default(TEXT), 0.0
    for text, color in ((f"step {step}", (0, 0, 0)), *LEGEND):
        if x:
            pen.rectangle((x, GAP, x + TEXT, GAP + TEXT), fill=color)
            x += TEXT + GAP
        pen.text((x, GAP), text, fill="black", font=font)
        x += pen.textlength(text, font) + 4 * GAP
