"""What the readers of YOLO's and of Pascal VOC's boxes share: a file per frame, and boxes with a class."""

from pathlib import Path

from scalpel_hf.utils.reading import read_text

from .human_labels import LabelFileError

ClassBoxes = list[tuple[str, tuple[float, ...]]]  # the class of each box, as the file writes it, and the box
ClassNames = dict[str, str]  # name of a class by what the file writes, such as its number


def label_files_in(folder: Path, suffix: str) -> list[Path]:
    found = folder.rglob(f"*{suffix}") if folder.is_dir() else ()
    files = sorted(path for path in found if path.is_file() and not is_sidecar(path))
    if not files:
        raise LabelFileError(f"{folder}: there are no label files *{suffix} in it")
    return files


def is_sidecar(path: Path) -> bool:
    """Whether a file is one that GDAL writes beside each image that it reads, which holds no label."""
    return path.name.lower().endswith(".aux.xml")


def frame_of(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def target_class(used: set[str], classes: ClassNames, category: str | None, where: Path) -> str | None:
    """The class, as the files write it, that counts as target; `None` where the files use no class at all."""
    names = {key: classes.get(key, key) for key in used}
    if category is not None:
        matching = [key for key in {**classes, **names} if category in (key, classes.get(key))]
        if not matching:
            raise LabelFileError(f"{where}: no class {category!r}, there are {sorted(names.values())}")
        return matching[0]
    if len(used) > 1:
        raise LabelFileError(f"{where}: there are the classes {sorted(names.values())}: name the target by --category")
    return next(iter(used), None)


def label_text(path: Path) -> str:
    try:
        return read_text(path)
    except (OSError, ValueError) as error:
        raise LabelFileError(f"{path}: {error}") from error
