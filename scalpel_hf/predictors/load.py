"""Loads a model of any kind that predicts targets, from a folder or the Hub."""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, cast

import torch
from accelerate.utils import parse_flag_from_env

from .kinds import HUB_ARGUMENTS, ModelKind, kind_of
from .student import STUDENTS, DetectionStudent, SegmentationStudent, StandAloneTeacher
from .teacher import Teacher

if TYPE_CHECKING:
    from scalpel_hf.runtime import OnnxDetector, OnnxStudent

Loaded = TypeVar("Loaded", bound=Teacher | StandAloneTeacher | SegmentationStudent | DetectionStudent)
Segmenter: TypeAlias = "Teacher | StandAloneTeacher | SegmentationStudent | OnnxStudent"
VIEWS = ("flips", "scales", "tile_size")  # settings of a teacher that change its predictions
CACHE = ("feature_cache_dir", "feature_cache_dtype", "feature_cache_bytes")  # settings that don't
Predictor: TypeAlias = "Segmenter | DetectionStudent | OnnxDetector"


def default_device() -> str:
    """The device of the programs: the GPU if there is one, unless Accelerate's `ACCELERATE_USE_CPU` is set."""
    return "cuda" if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU") else "cpu"


def on_default_device(loaded: Loaded) -> Loaded:
    """Move a teacher or student to the [`default_device`], and return it."""
    loaded.to(default_device())
    return loaded


def load_predictor(
    name_or_path: str | Path, base: str | Path | None = None, device: str = "cpu", **kwargs: Any
) -> Predictor:
    """
    Load a model that predicts targets: a teacher or committee, a stand-alone teacher, a segmentation or detection
    student (this project's or any of transformers' for the task), or a student exported to ONNX.

    The result has `detect(frame)` if it is a detector, `probabilities(frame)` otherwise.

    Args:
        name_or_path: a folder, a repository on the Hub, or an ONNX file with its runtime.json in the same folder.
        base: folder or repository of a teacher's base model, if not the one in the adapter's configuration.
        device: for the model; exported students stay on the CPU.
        kwargs: `revision`, `token`, `cache_dir` and `local_files_only` of a repository; all others are arguments of
            [`Teacher.from_pretrained`]. For other models, those of the feature cache have no effect.

    Raises `ValueError` if there is no model, and if another model than a teacher is given a teacher's arguments or
    unknown ones.

    Examples:
        >>> predictor = load_predictor("runs/nuaa/student")
        >>> predictor.probabilities("frame.png").shape
        (64, 96)
    """
    hub = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
    kind, path = kind_of(name_or_path, **hub), Path(name_or_path)
    refused = [name for name, value in kwargs.items() if name not in CACHE and (value or name not in VIEWS)]
    if kind is not ModelKind.TEACHER and refused:
        raise ValueError(
            f"{name_or_path} holds {kind.value}, which takes no {', '.join(f'`{name}`' for name in refused)}"
        )
    if kind is ModelKind.EXPORTED:
        from scalpel_hf.runtime import load_exported  # needs the extra `onnx`

        if path.suffix == ".onnx":
            return load_exported(path.parent, path.name)
        return load_exported(name_or_path, hub={key: hub[key] for key in hub if key != "subfolder"})
    if kind is ModelKind.TEACHER:
        return Teacher.from_pretrained(name_or_path, base, **hub, **kwargs).to(device)
    return STUDENTS[kind].from_pretrained(name_or_path, **hub).to(device)


def load_trained(folder: Path, base_model: str | None = None, feature_cache_dir: Path | None = None) -> Segmenter:
    """[`load_predictor`] on the [`default_device`] for models with `probabilities`; `ValueError` for a detector."""
    found = load_predictor(folder, base_model, default_device(), feature_cache_dir=feature_cache_dir)
    if not hasattr(found, "probabilities"):
        raise ValueError(f"{folder} holds a detector, but a model that predicts masks is needed")
    return cast("Segmenter", found)


def seeds_of_models(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """
    Group folders of one model trained with several seeds: they lie in the same folder, and their names differ only in
    the "-NUMBER" at the end.

    Returns the folders, in their order, by the common name, with as many of the folders above as tell it from others.
    Raises `ValueError` for a folder without a model.
    """
    models = defaultdict(list)
    for folder in folders:
        kind_of(folder)
        whole = Path(os.path.abspath(folder))
        name, _, seed = whole.name.rpartition("-")
        models[whole.with_name(name) if name and seed.isdecimal() else whole].append(folder)
    return {_end_of(model, models): seeds for model, seeds in models.items()}


def _end_of(path: Path, paths: Iterable[Path]) -> str:
    """The shortest end of a path that no other of the paths has."""
    ends = (path.parts[start:] for start in range(len(path.parts) - 1, -1, -1))
    return str(Path(*next(end for end in ends if sum(other.parts[-len(end) :] == end for other in paths) == 1)))
