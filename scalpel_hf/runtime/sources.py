"""Reads frames one at a time from image files, folders, multi-page TIFFs, videos and cameras."""

import warnings
from collections.abc import Iterator
from pathlib import Path, PurePath

import numpy as np

from scalpel_hf.modeling.frame_io import IMAGE_SUFFIXES, count_pages, read_frame, read_pages
from scalpel_hf.utils.image_files import find_images, frame_name

from .recordings import Damage, read_recording


class DamagedSourceWarning(UserWarning):
    """Some frames of a source could not be read and were left out; the message counts them."""


def read_stream(source: str, damage: Damage | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """
    Name and pixels `(H, W)` of each frame of a source, at the source's own depth: nothing is scaled or clipped.

    Frames have the names that `scalpel-hf prepare` knows them by: an image its file's, frame 40 of `flight.mp4`
    `flight_000040`, as page 40 of `flight.tiff`; a stream's are `#40`.

    Args:
        source: an image, or a folder of images, with its sub-folders, in the order of their paths, multi-page ones
            included; a video file; a stream's address (`rtsp://...`, `http://...`); a camera (`/dev/video0`). The last
            three need PyAV (`pip install "scalpel-hf[video]"`).
        damage: gets what could not be read and was left out; without it, a [`DamagedSourceWarning`] says it at the end.

    Raises:
        FileNotFoundError: where there is no such file, or no image in the folder.
        ImportError: for a video without PyAV.
        OSError, ValueError: where nothing in it can be read, or a stream breaks off.
    """
    found = Damage() if damage is None else damage
    count = 0
    for name, frame in _frames(source, found):
        yield name, frame
        count += 1
    if found and not count:
        raise OSError(f"{source} has no frame that can be read: {found}")
    if found and damage is None:
        warnings.warn(f"{source}: {found}", DamagedSourceWarning, stacklevel=2)


def _frames(source: str, damage: Damage) -> Iterator[tuple[str, np.ndarray]]:
    path = Path(source)
    if "://" in source:
        yield from ((f"#{number}", frame) for number, frame in read_recording(source, damage))
    elif path.is_dir():
        yield from _read_folder(path, damage)
    elif not path.exists():
        raise FileNotFoundError(f"{source} is neither a file, a folder nor a stream's address")
    elif path.name.lower().endswith(IMAGE_SUFFIXES):
        yield from _read_pages(path, damage)
    else:
        name = frame_name(PurePath(path.name))
        yield from ((f"{name}_{number:06d}", frame) for number, frame in read_recording(source, damage))


def _read_folder(folder: Path, damage: Damage) -> Iterator[tuple[str, np.ndarray]]:
    for file in find_images(folder):
        place = file.relative_to(folder)
        try:
            if count_pages(file) == 1:
                yield place.as_posix(), read_frame(file)
            else:
                for number, frame in numbered_pages(file, damage, problem=f"{file}: "):
                    yield f"{frame_name(place)}_{number:06d}", frame
        except (OSError, ValueError) as error:
            damage.skip(error)


def _read_pages(path: Path, damage: Damage) -> Iterator[tuple[str, np.ndarray]]:
    count = 0
    try:
        of_several = count_pages(path) > 1
        name = frame_name(PurePath(path.name))
        for number, frame in numbered_pages(path, damage):
            yield f"{name}_{number:06d}" if of_several else path.name, frame
            count += 1
    except (OSError, ValueError) as error:
        if not count:
            raise
        damage.stop(error)


def numbered_pages(path: Path, damage: Damage, problem: str = "") -> Iterator[tuple[int, np.ndarray]]:
    """
    Number and pixels `(H, W)` of each page of an image file.

    Pages that can't be read are counted in `damage`, with what is wrong after `problem`.
    """
    before = damage.skipped
    for count, frame in enumerate(read_pages(path, skip=lambda error: damage.skip(f"{problem}{error}"))):
        yield count + damage.skipped - before, frame
