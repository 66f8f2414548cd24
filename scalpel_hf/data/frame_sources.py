"""Unlabelled frames from image files in nested folders, multi-page images, recordings, and lists of such files."""

import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value
from datasets.exceptions import DatasetGenerationError
from PIL import Image

from scalpel_hf.modeling.frame_io import IMAGE_SUFFIXES, count_pages, file_orientation, read_frame
from scalpel_hf.runtime.recordings import Damage, read_recording
from scalpel_hf.runtime.sources import numbered_pages
from scalpel_hf.utils.files import LONGEST_NAME
from scalpel_hf.utils.image_files import frame_name, sequences_of, visible_files
from scalpel_hf.utils.reading import read_text

from .image_cells import is_coloured, stored_cell
from .names import few
from .objects import encode_png
from .rows import FEATURES

RECORDING_SUFFIXES = (
    *(".3gp", ".avi", ".dv", ".flv", ".h264", ".h265", ".hevc", ".ivf", ".m4v", ".mj2", ".mjpeg", ".mkv", ".mov"),
    *(".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogv", ".ts", ".webm", ".wmv", ".y4m"),
)
RESULTS = (".scalpel-run", ".scalpel-demo", "dataset_dict.json", "state.json")  # a file in each folder of results
FALSE_COLOURS = "converted to luma, which is not the intensity of false colours: if they are, save the frames as gray"
FRAME_FEATURES = Features(
    {**FEATURES, "label_source": Value("string"), "recording": Value("string"), "orientation": Value("int32")}
)

Row = dict[str, Any]


@dataclass
class LeftOut:
    """Files and frames that aren't used: their names, by the reason; and the files whose frames have the same name."""

    reasons: dict[str, list[str]] = field(default_factory=dict)
    same_names: dict[str, tuple[Path, Path]] = field(default_factory=dict)

    def add(self, reason: str, what: str) -> None:
        """Record that `what`, a name, isn't used."""
        shown = what if what.isprintable() else repr(what)  # half of a surrogate pair can't be printed
        self.reasons.setdefault(" ".join(reason.split()), []).append(shown)

    def lines(self) -> list[str]:
        """One line for each reason, with the number of names and the first three."""
        return [f"left out {len(names)}: {few(names, 3)} ({reason})" for reason, names in self.reasons.items()]


def frames_dataset(
    root: str | Path,
    cache_dir: str | Path,
    left_out: LeftOut,
    every: int = 1,
    max_frames: int | None = None,
    without: Path | None = None,
    label_suffix: str = "",
) -> Dataset:
    """
    Collect the frames of a folder, a recording or a list of files in a data set without labels.

    Rows have `FRAME_FEATURES`: the frame at its own bit depth, no mask, and `none` as `label_source`. The column
    `recording` names the frame's sequence: a recording, an image file with several pages, or, if there are several
    sub-folders, the sub-folder. Frames of a recording are named by the file and their number, such as `clip_000012`.
    `orientation` is that of the frame's file, which has been applied to the frame. Memory does not grow with the number
    of frames.

    Args:
        root: a folder, including its sub-folders; a recording; an image file; or a text file that lists such files, one
            on each line, relative to its folder or absolute.
        cache_dir: folder for the rows, which must exist as long as the data set is used.
        left_out: gets the files and frames that can't be used, with the reasons.
        every: take every n-th frame of a recording.
        max_frames: take at most n frames of each recording.
        without: a file or folder that has labels, and is skipped.
        label_suffix: skip only the files in `without` whose name ends so.

    Raises `FileNotFoundError` if `root` doesn't exist, and `ValueError` if no frame can be used.
    """
    files = _files(Path(root), left_out, without, label_suffix)
    sequences = sequences_of(place for place, path in files if not _is_recording(path))

    def rows() -> Iterator[Row]:
        names: dict[str, Path] = {}
        for place, path in files:
            for frame in _frames(place, path, left_out, every=every, max_frames=max_frames):
                name = frame["name"]
                if name in names:
                    left_out.add("another frame has the same name", place.as_posix())
                    left_out.same_names.setdefault(name, (names[name], place))
                    continue
                names[name] = place
                row = {"mask": None, "objects": None, "label_source": "none"}
                yield row | frame | {"recording": frame["recording"] or sequences.get(place, "")}
        if not names:
            raise ValueError(f"{root}: not one frame can be used:\n  " + "\n  ".join(left_out.lines()))

    try:  # with a fingerprint, `datasets` doesn't hash the function `rows`
        made = Dataset.from_generator(
            rows, features=FRAME_FEATURES, cache_dir=str(cache_dir), fingerprint=secrets.token_hex(8)
        )
    except DatasetGenerationError as error:
        raise (error.__cause__ or error) from None
    assert isinstance(made, Dataset)  # it is another where it is streamed
    return made


def _files(root: Path, left_out: LeftOut, without: Path | None, label_suffix: str) -> list[tuple[Path, Path]]:
    """Each file of frames: where it lies in the source, after which its frames are called, and its path."""
    if root.is_dir():
        found = {path.relative_to(root): path for path in sorted(visible_files(root)[0])}
        ours = _results_in(root, found)
        for folder in sorted(ours):
            left_out.add("results of this program, not frames", f"{folder.as_posix()}/")
        places = [(place, path) for place, path in found.items() if ours.isdisjoint(place.parents)]
    elif not root.exists():
        raise FileNotFoundError(f"there is no folder or file {root}")
    elif root.suffix.lower() == ".txt":
        places = listed_files(root)
    else:
        places = [(Path(root.name), root)]
    files, labels = [], 0
    for place, path in places:
        inside = without is not None and path.resolve().is_relative_to(without.resolve())
        if inside and path.name.lower().endswith(label_suffix):
            labels += 1
            continue
        if not path.is_file():
            left_out.add("there is no such file", place.as_posix())
        elif problem := _problem_of_name(place):
            left_out.add(problem, place.as_posix())
        elif path.name.lower().endswith(IMAGE_SUFFIXES) or _is_recording(path):
            files.append((place, path))
        else:
            left_out.add("neither an image nor a recording by its name", place.as_posix())
    if not files:
        listing = "".join(f"\n  {line}" for line in left_out.lines()) or " it is empty"
        if labels:
            listing = f" the {labels} files in it are the labels ({without}): give each a folder of its own"
        raise ValueError(f"{root} has no frames:{listing}")
    return files


def _results_in(root: Path, places: Iterable[Path]) -> set[Path]:
    """The outermost sub-folders that a job or a prepared data set was written to, whose pictures are no frames."""
    folders = {folder for place in places for folder in place.parents if folder.parts}
    results = {folder for folder in folders if any((root / folder / marker).is_file() for marker in RESULTS)}
    return {folder for folder in results if results.isdisjoint(folder.parents)}


def _problem_of_name(place: Path) -> str:
    """Why a file can't name frames, in data sets and in lists with a name on each line; empty if it can."""
    name = frame_name(place)
    if any("\ud800" <= character <= "\udfff" for character in place.as_posix()):
        return "its name isn't UTF-8: rename it"
    if name != name.strip() or "\t" in name or len(name.splitlines()) > 1:
        return "its name has a line break, a tab or outer spaces: rename it"
    if len(name.encode()) > LONGEST_NAME - (len("_000000") if _is_recording(place) else 0):
        return f"the name of a frame is longer than {LONGEST_NAME} bytes, with its folders: shorten it"
    return ""


def listed_files(file: Path) -> list[tuple[Path, Path]]:
    """The files that a list names, each with its path without the common folder of all, for its name."""
    lines = [line.strip() for line in read_text(file).splitlines()]
    paths = [file.parent / line for line in lines if line and not line.startswith("#")]
    whole = [Path(os.path.abspath(path)) for path in paths]
    shared = os.path.commonpath([path.parent for path in whole]) if whole else ""
    return [(path.relative_to(shared), written) for path, written in zip(whole, paths, strict=True)]


def _is_recording(path: Path) -> bool:
    return path.name.lower().endswith(RECORDING_SUFFIXES)


def _frames(place: Path, path: Path, left_out: LeftOut, every: int, max_frames: int | None) -> Iterator[Row]:
    """The columns of each frame of a file that tell of it alone."""
    name, damage = frame_name(place), Damage()
    try:
        if not _is_recording(path) and count_pages(path) == 1:
            shape, content = read_frame(path).shape, path.read_bytes()
            cell = stored_cell({"bytes": content, "path": str(path)})
            if is_coloured(cell["bytes"]):
                left_out.add(FALSE_COLOURS, f"the colours of {place.as_posix()}")
            yield _frame(name, cell, shape, recording="", orientation=file_orientation(content))
            return
        numbered = read_recording(str(path), damage) if _is_recording(path) else numbered_pages(path, damage)
        kept = ((number, frame) for number, frame in numbered if number % every == 0)
        for number, frame in islice(kept, max_frames):
            content, suffix = _encoded(frame)
            cell = {"bytes": content, "path": f"{name}_{number:06d}{suffix}"}
            yield _frame(f"{name}_{number:06d}", cell, frame.shape, recording=place.as_posix(), orientation=1)
    except ImportError as error:
        left_out.add(str(error), place.as_posix())
    except (OSError, ValueError) as error:
        left_out.add(str(error).removeprefix(f"{path}: ").replace(str(path), "it"), place.as_posix())
    if damage:
        left_out.add(str(damage), f"frames of {place.as_posix()}")


def _frame(name: str, image: Row, shape: tuple[int, ...], recording: str, orientation: int) -> Row:
    size = {"height": shape[0], "width": shape[1]}
    return {"name": name, "image": image, **size, "recording": recording, "orientation": orientation}


def _encoded(frame: np.ndarray) -> tuple[bytes, str]:
    """A frame as the content of an image file of its own bit depth, and the file's suffix."""
    if frame.dtype in (np.uint8, np.uint16):
        return encode_png(frame), ".png"
    buffer = BytesIO()
    Image.fromarray(frame.astype(np.float32)).save(buffer, "TIFF")
    return buffer.getvalue(), ".tif"
