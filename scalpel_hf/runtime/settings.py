"""runtime.json: the settings with which an exported student is run, and the hashes of its ONNX files."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scalpel_hf.utils.files import write_json
from scalpel_hf.utils.reading import check_is_file, read_json

from .preprocessing import NORMALIZATIONS, check_percentiles

CONFIG_FILE = "runtime.json"
TEACHER_FILE = "teacher.json"  # the same for an exported teacher
MODEL_FILE = "model.onnx"
INT8_FILE = "model_int8.onnx"
FOLDER = "onnx"  # folder for these files in a student's own folder or repository
TASKS = ("segmentation", "detection")


@dataclass(frozen=True)
class RuntimeConfig:
    """
    The settings with which an exported student is run. They are saved as runtime.json beside the ONNX files.

    Args:
        normalization, percentiles: of the frames; see [`normalize_frame`].
        normalization_inside: whether the graph normalises the frames, so that it takes them as they were read.
        threshold: probability above which a pixel is target.
        threshold_inside: whether the graph returns `probabilities` and `mask` instead of `logits`.
        opset: of the ONNX graph.
        id2label: names of the classes.
        task: `segmentation`, or `detection` for a graph that returns `scores` and `boxes`.
        files: SHA-256 of each ONNX file that belongs to these settings, by the file's name.
        weights: [`hash_tensors`] of the exported model; empty where it isn't known.
        exact_tiles: whether tiles give the whole frame's result; older files don't say it, and are taken at their best.

    Raises `ValueError` where a value has another type or is out of range.
    """

    normalization: str
    percentiles: tuple[float, ...]
    normalization_inside: bool
    threshold: float
    threshold_inside: bool
    opset: int
    id2label: dict[str, str]
    task: str
    files: dict[str, str]
    weights: str = ""
    exact_tiles: bool = True

    def __post_init__(self) -> None:
        _check(self.normalization in NORMALIZATIONS, f"`normalization` is one of {', '.join(NORMALIZATIONS)}", self)
        check_percentiles(self.percentiles)
        for name in ("normalization_inside", "threshold_inside", "exact_tiles"):
            _check(isinstance(getattr(self, name), bool), f"`{name}` is true or false", self)
        _check(is_number(self.threshold) and 0 < self.threshold < 1, "`threshold` is between 0 and 1", self)
        _check(type(self.opset) is int and self.opset > 0, "`opset` is a positive integer", self)
        _check(_is_text_to_text(self.id2label), "`id2label` gives a name for each class", self)
        _check(self.task in TASKS, f"`task` is one of {', '.join(TASKS)}", self)
        check_files(self.files)
        _check(isinstance(self.weights, str), "`weights` is text", self)
        object.__setattr__(self, "percentiles", tuple(self.percentiles))

    @classmethod
    def read(cls, path: Path) -> "RuntimeConfig":
        """Read runtime.json. Raises `ValueError`, which names the file, where the content is invalid."""
        content = read_json(path)
        try:
            return cls(**content)
        except (TypeError, ValueError) as error:
            remedy = "export the student again with `scalpel-hf export`"
            raise ValueError(f"{path} is no configuration of an exported student: {error}; {remedy}") from error

    def write(self, folder: Path) -> None:
        """Write runtime.json to a folder."""
        write_json(folder / CONFIG_FILE, asdict(self))


def check_files(files: Any) -> None:
    """Raise `ValueError` unless `files` has a text for each name, and the names are plain: paths are made of them."""
    plain = _is_text_to_text(files) and all(Path(name).name == name and "\\" not in name for name in files)
    if not plain:
        raise ValueError(f"`files` gives the SHA-256 of each ONNX file in its own folder, got {files!r:.200}")


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each ONNX file in a folder, by the file's name."""
    return {path.name: _sha256(path) for path in sorted(folder.glob("*.onnx"))}


def check_belongs(path: Path, files: Mapping[str, str], record: str) -> None:
    """
    Raise `ValueError` where an ONNX file has another hash than the record of its export.

    Args:
        path: of the ONNX file.
        files: the hashes in the record.
        record: the record's name, such as runtime.json, for the message.
    """
    if files.get(path.name) != _sha256(path):
        problem = "is another" if path.name in files else "is not among those"
        raise ValueError(
            f"{path} {problem} than {record} beside it was written with, left by another export: export the model "
            "again with `scalpel-hf export`"
        )


def belonging_files(folder: Path) -> list[Path]:
    """
    The paths of runtime.json and teacher.json in a folder, where they exist, and of the ONNX files in their records.

    Raises `ValueError` where an ONNX file is not the one of the record, or where the export was made from other weights
    than the model's folder, the parent of this one, holds now; `FileNotFoundError` where a file is missing.
    """
    found = set()
    for record in (folder / CONFIG_FILE, folder / TEACHER_FILE):
        if not record.is_file():
            continue
        try:
            content = read_json(record)
            files = content.get("files")
            check_files(files)
        except ValueError as error:
            raise ValueError(f"{record}: {error}; export the model again with `scalpel-hf export`") from error
        for name in files:
            check_belongs(folder / name, files, record.name)
        check_weights(record, content.get("weights"))
        found |= {record, *(folder / name for name in files)}
    return sorted(found)


def hash_tensors(contents: Iterable[bytes]) -> str:
    """
    A hash of a model's weights that depends neither on the tensors' names nor on how they are divided into files.

    Args:
        contents: the bytes of each tensor; equal tensors count once.
    """
    digests = sorted({hashlib.sha256(content).digest() for content in contents})
    return hashlib.sha256(b"".join(digests)).hexdigest()


def check_weights(record: Path, weights: Any) -> None:
    """
    Raise `ValueError` where an export was made from other weights than those in the model's folder.

    Args:
        record: path of runtime.json or teacher.json; checked only in a folder `onnx` inside of a model's folder.
        weights: the hash in the record, see [`hash_tensors`].
    """
    if record.parent.name != FOLDER:
        return
    around = record.parent.absolute().parent
    files = sorted(around.glob("model*.safetensors")) or sorted(around.glob("adapter_model.safetensors"))
    try:
        there = hash_tensors(content for file in files for content in _tensors(file))
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{files[0]} can't be read to see whether {record} is of it: {error}") from error
    if files and weights != there:
        raise ValueError(
            f"{record} was exported from other weights than those in {files[0]}: export the model again with "
            f"`scalpel-hf export`, or remove {record.parent}"
        )


def _tensors(file: Path) -> Iterator[bytes]:
    """Yields the bytes of each tensor in a safetensors file: the length of a header, the header, and the tensors."""
    check_is_file(file)
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                start, stop = entry["data_offsets"]
                opened.seek(8 + length + start)
                yield opened.read(stop - start)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _sha256(path: Path) -> str:
    check_is_file(path)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _is_text_to_text(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for item in value.items() for text in item)


def _check(fits: bool, rule: str, config: RuntimeConfig) -> None:
    if not fits:
        name = rule.split("`")[1]
        raise ValueError(f"{rule}, got {getattr(config, name)!r:.200}")
