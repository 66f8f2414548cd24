"""The picture of a model card: test frames with true and predicted targets."""

from collections.abc import Callable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scalpel_hf.data import load_split, objects_from_mask
from scalpel_hf.data.image_cells import undecoded
from scalpel_hf.data.masks import read_target
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.predictors.load import load_predictor
from scalpel_hf.utils.visualization import GREEN, RED, gray, mark_targets, outline

from .provenance import Provenance, read_record

ROWS, CELL, CROP = 4, 192, 96  # number of frames; side of a cell, and of the region in a close-up, in pixels


def example_pictures(folder: str | Path, provenance: Provenance) -> bytes | None:
    """
    A PNG with a row for each of up to `ROWS` test frames with a target: the frame, a close-up of its largest target
    with the true mask in green, and the same close-up with the prediction in red.

    `None` if the run has no `eval_split`, its data is missing, or no frame has a target.

    Args:
        folder: of a run.
        provenance: from [`trace`].
    """
    arguments = read_record(folder, for_others=False)["arguments"]
    if not arguments.get("eval_split") or provenance.dataset_revision is None:
        return None
    base = arguments.get("base_model")
    rows = load_split(arguments["dataset"], arguments["eval_split"])
    find = finder(folder, base if base and Path(base).is_dir() else provenance.base_model)
    grid = [_row(row, find) for row in _with_targets(rows)]
    return _png(np.concatenate(grid)) if grid else None


def finder(folder: str | Path, base: str | Path | None = None) -> Callable[[Any], np.ndarray]:
    """A function from a frame to the bool mask `(H, W)` of targets that the model in a folder predicts."""
    return partial(mark_targets, load_predictor(folder, base))


def _with_targets(rows: Any) -> list[dict[str, Any]]:
    """Up to `ROWS` rows, evenly spaced among those with a target."""
    rows = undecoded(rows)
    found = [i for i, row in enumerate(rows.select_columns(["mask"])) if row["mask"] and read_target(row["mask"]).any()]
    return (
        [rows[found[k * len(found) // ROWS]] for k in range(ROWS)] if len(found) >= ROWS else [rows[i] for i in found]
    )


def _row(row: dict[str, Any], find: Callable[[Any], np.ndarray]) -> np.ndarray:
    frame, truth = read_frame(row["image"]).astype(np.float32), read_target(row["mask"])
    objects = objects_from_mask(truth)
    x, y, width, height = objects["bbox"][int(np.argmax(objects["area"]))]
    left, top = (
        int(max(0, min(c - CROP / 2, n - CROP)))
        for c, n in zip((x + width / 2, y + height / 2), truth.T.shape, strict=True)
    )
    part = (slice(top, top + CROP), slice(left, left + CROP))
    close_ups = [outline(frame[part], mask[part], color) for mask, color in ((truth, GREEN), (find(row["image"]), RED))]
    return np.concatenate([_cell(image) for image in (gray(frame), *close_ups)], axis=1)


def _cell(image: Image.Image) -> np.ndarray:
    """A picture fitted into a white square with a margin."""
    scale = CELL / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resized = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BOX)
    cell = Image.new("RGB", (CELL + 4, CELL + 4), "white")
    cell.paste(resized, (2, 2))
    return np.asarray(cell)


def _png(values: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(values).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
