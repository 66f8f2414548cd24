"""A frame and its mask as a row of a data set with one set of features."""

import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image, List, NamedSplit, Value

from scalpel_hf.modeling.frame_io import file_orientation, read_frame, turn

from .image_cells import cell_content, stored_cell
from .masks import TARGET, MaskValues, read_mask
from .objects import encode_png, objects_from_mask

FEATURES = Features(
    {
        "name": Value("string"),
        "image": Image(),
        "mask": Image(mode="L"),
        "objects": {
            "bbox": List(List(Value("float32"))),
            "area": List(Value("int64")),
            "category": List(ClassLabel(names=["target"])),
        },
        "width": Value("int32"),
        "height": Value("int32"),
    }
)

Row = dict[str, Any]


class BrokenPairsError(ValueError):
    """Frames or masks are missing, unreadable, or of different sizes. The message names each of them and the reason."""


def make_row(name: str, image: Row, mask: Row | None, mask_grid: str | None, values: MaskValues) -> Row:
    """
    Make a row with [`FEATURES`].

    Args:
        name: the frame's name.
        image: the frame's undecoded cell.
        mask: the mask's undecoded cell. If it is `None`, the row's `mask` and `objects` are `None` too.
        mask_grid: `"shown"` or `"stored"`, see [`load_irst_dataset`].
        values: meaning of the mask's values.

    Raises `OSError` or `ValueError` if a file can't be read, and `ValueError` if the mask has another size, or if the
    frame has an orientation and it's unknown whether the mask has it too.
    """
    frame = read_frame(image)
    height, width = frame.shape
    row = {"name": name, "image": stored_cell(image), "mask": None, "objects": None, "width": width, "height": height}
    if mask is None:
        return row
    target = read_mask(mask, values)
    orientation = file_orientation(cell_content(image))
    if orientation != 1 and file_orientation(cell_content(mask)) == 1:  # `read_mask` has applied the mask's own
        target = on_shown_grid(target, orientation, shown=frame.shape, mask_grid=mask_grid)
    if target.shape != frame.shape:
        mask_height, mask_width = target.shape
        raise ValueError(f"the image has {width} × {height} pixels, its mask {mask_width} × {mask_height}")
    return row | {
        "mask": {"bytes": encode_png(target), "path": f"{name}.png"},
        "objects": objects_from_mask(target == TARGET),
    }


def on_shown_grid(target: np.ndarray, orientation: int, shown: tuple[int, ...], mask_grid: str | None) -> np.ndarray:
    """
    Apply a frame's orientation, other than 1, to a mask that matches the frame as it is stored.

    `shown` is the frame's shape. Raises `ValueError` if it's unknown which of both the mask matches.
    """
    if mask_grid is None and orientation in (5, 6, 7, 8) and shown[0] != shown[1]:
        mask_grid = "shown" if target.shape == shown else "stored"  # only one matches by its size
    if mask_grid is None:
        raise ValueError(
            f"its file has the orientation {orientation}, and its mask may match the frame as shown or as stored: say "
            "which, with mask_grid='shown' or 'stored', or --mask-grid"
        )
    return turn(target, orientation) if mask_grid == "stored" else target


def read_rows(read: Callable[[Any], Row], items: Iterable[Any]) -> list[Row | str]:
    """Read a row for each item, in parallel; where this fails, the result is the error's message."""

    def attempt(item: Any) -> Row | str:
        try:
            return read(item)
        except (OSError, ValueError) as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(attempt, items))


def without_broken(rows: list[Row | str], names: list[str], skip_broken: bool, where: str) -> list[int]:
    """Indices of the rows that are whole; the others are an error, or a warning with `skip_broken`."""
    broken = [f"  {name}: {row}" for name, row in zip(names, rows, strict=True) if isinstance(row, str)]
    if broken:
        listing = "\n".join(broken[:20] + ([f"  and {len(broken) - 20} more"] if len(broken) > 20 else []))
        count = f"{len(broken)} broken pair{'s' if len(broken) > 1 else ''} {where}"
        if not skip_broken:
            raise BrokenPairsError(f"{count}:\n{listing}\nTo go on without: skip_broken=True, or --skip-broken")
        warnings.warn(f"skipped {count}:\n{listing}", stacklevel=3)
    return [index for index, row in enumerate(rows) if not isinstance(row, str)]


def rows_to_dataset(rows: list[Row], split: str | NamedSplit | None = None) -> Dataset:
    """Make a data set with [`FEATURES`] of rows, as the given split."""
    columns = {column: [row[column] for row in rows] for column in FEATURES}
    return Dataset.from_dict(columns, features=FEATURES, split=NamedSplit(str(split)) if split else None)
