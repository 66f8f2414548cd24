"""Finds the image files in a folder; decides by their names which files are frames or masks."""

import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePath

from scalpel_hf.modeling.frame_io import IMAGE_SUFFIXES


class LinkedWarning(UserWarning):
    """Files of a folder are links to files outside of it; the message counts them and names one."""


class PassedOverWarning(UserWarning):
    """Files or folders beside a folder's images are not read; the message counts them."""


def find_images(folder: str | Path) -> list[Path]:
    """
    The image files of a folder and its sub-folders, in the order of their paths.

    A file is an image if its name ends in one of `IMAGE_SUFFIXES`, in upper or lower case. Hidden files and folders are
    skipped without a warning, such as the `._f0.png` that macOS writes beside `f0.png`. A [`PassedOverWarning`] counts
    the other files, and links to folders that are read anyway.

    Raises `FileNotFoundError` where there is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    images: list[Path] = []
    others: list[Path] = []
    files, again = visible_files(folder)
    for file in sorted(files):
        (images if file.name.lower().endswith(IMAGE_SUFFIXES) else others).append(file)
    kinds = Counter(f"*{file.suffix.lower()}" if file.suffix else "without a suffix" for file in others)
    listing = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    if not images:
        there = f"only other files ({listing})" if others else "no files"
        raise FileNotFoundError(f"{folder} has no images (*{', *'.join(IMAGE_SUFFIXES)}): there are {there} in it")
    if again:
        message = (
            f"{folder}: {len(again)} folders in it are links to others that are read anyway, and skipped ({again[0]})"
        )
        warnings.warn(message, PassedOverWarning, stacklevel=2)
    if others:
        message = f"{folder}: {len(images)} images, and {len(others)} other files that are not read ({listing})"
        warnings.warn(message, PassedOverWarning, stacklevel=2)
    return images


def frame_name(path: PurePath) -> str:
    """
    The name of the frame in an image file, from the file's path relative to the folder of images.

    Examples:
        >>> frame_name(PurePath("night/0042.png"))
        'night_0042'
    """
    return unicodedata.normalize("NFC", "_".join(path.with_suffix("").parts))


def sequences_of(places: Iterable[PurePath]) -> dict[PurePath, str]:
    """
    The sequence of each file, from the paths relative to the folder of images: the sub-folder, if there are several.

    Examples:
        >>> list(sequences_of([PurePath("night/a.png"), PurePath("day/a.png"), PurePath("a.png")]).values())
        ['night', 'day', '']
    """
    folders = {place: place.parent for place in places}
    several = len({*folders.values()} - {PurePath()}) > 1
    return {place: folder.as_posix() if several and folder.parts else "" for place, folder in folders.items()}


def _raise(error: OSError) -> None:
    raise error  # else `os.walk` would skip a folder that can't be read


def visible_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """
    The files in a folder and its sub-folders that aren't hidden, and the links to folders that are read anyway.

    Links are followed, because people collect frames by them. In a folder from somebody else, links may lead to the
    user's own files, which would be read, exported and published: a [`LinkedWarning`] counts those that lead outside.
    """
    files, again, seen = [], [], set()
    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        place = os.stat(parent)
        if (place.st_dev, place.st_ino) in seen:  # a link in a circle, or a second one to the same folder
            folders.clear()
            again.append(Path(parent))
            continue
        seen.add((place.st_dev, place.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    _warn_of_links_outside(folder, files)
    return files, again


def _warn_of_links_outside(folder: Path, files: list[Path]) -> None:
    home = os.path.realpath(folder)
    places = ((file, os.path.realpath(file)) for file in sorted(files))
    outside = [(file, place) for file, place in places if os.path.commonpath([home, place]) != home]
    if outside:
        file, place = outside[0]
        message = (
            f"{folder}: {len(outside)} of its {len(files)} files are links to files outside of it, and read like the "
            f"others ({file.relative_to(folder)} is {place}): if the folder comes from others, remove what isn't theirs"
        )
        warnings.warn(message, LinkedWarning, stacklevel=3)
