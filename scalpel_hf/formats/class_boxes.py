"""What the readers of YOLO's and of Pascal VOC's boxes share: a file per frame, and boxes with a class."""

from pathlib import Path

from scalpel_hf.utils.image_files import visible_files
from scalpel_hf.utils.reading import read_text

from .human_labels import LabelFileError

ClassBoxes = list[tuple[str, tuple[float, ...]]]  # the class of each box, as the file writes it, and the box
ClassNames = dict[str, str]  # name of a class by what the file writes, such as its number


def label_files_in(folder: Path, suffix: str) -> list[Path]:
    found = visible_files(folder)[0] if folder.is_dir() else []
    files = sorted(path for path in found if path.is_file() and path.name.endswith(suffix) and not is_sidecar(path))
    if not files:
        raise LabelFileError(f"{folder}: there are no label files *{suffix} in it")
    return files


def is_sidecar(path: Path) -> bool:
    """Whether a file is one that GDAL writes beside each image that it reads, which holds no label."""
    return path.name.lower().endswith(".aux.xml")


def frame_of(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def target_classes(used: set[str], classes: ClassNames, category: str | None, where: Path) -> set[str]:
    """The classes, as the files write them, that count as target: several if their names are the same."""
    names = {key: classes.get(key, key) for key in used}
    if category is not None:
        by_name = {key for key, name in classes.items() if name == category}
        by_number = {category} & {*classes, *used}
        if by_name and by_number - by_name:
            raise LabelFileError(f"{where}: {category!r} is the name of one class and the number of another: rename it")
        if used and not by_name | by_number:
            raise LabelFileError(f"{where}: no class {category!r}, there are {sorted(names.values())}")
        return by_name or by_number
    if len({*names.values()}) > 1:
        raise LabelFileError(f"{where}: there are the classes {sorted(names.values())}: name the target by --category")
    return used


def label_text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        raise LabelFileError(f"{path}: {error}") from error
