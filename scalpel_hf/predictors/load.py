"""Loading whatever finds targets, from a folder or the Hub, whichever kind of model it is."""

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
VIEWS = ("flips", "scales", "tile_size")  # how a teacher looks at a frame, which changes what it finds
Predictor: TypeAlias = "Segmenter | DetectionStudent | OnnxDetector"


def default_device() -> str:
    """Where programs put a model: on the GPU, where there is one, and Accelerate isn't told to use the CPU."""
    return "cuda" if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU") else "cpu"


def on_default_device(loaded: Loaded) -> Loaded:
    """A teacher or student, moved to the [`default_device`]."""
    loaded.to(default_device())
    return loaded


def load_predictor(
    name_or_path: str | Path, base: str | Path | None = None, device: str = "cpu", **kwargs: Any
) -> Predictor:
    """
    What finds targets in frames: a teacher or a committee, a stand-alone teacher, a student of either task, also one of
    transformers' models, or an exported student.

    Detectors have `detect`, all others `probabilities`.

    Args:
        name_or_path: a folder, a repository on the Hub, or an ONNX file with its runtime.json beside it.
        base: a teacher's base model, if it isn't where the adapter says.
        device: where to put it; exported ones stay on the CPU.
        kwargs: of a repository `revision`, `token`, `cache_dir` and `local_files_only`; the others are arguments of
            [`Teacher`]. Other kinds of models have no frozen features, and ignore where a teacher's are kept.

    Raises `ValueError` where there is no model, and for `flips`, `scales` or `tile_size` of one that is no teacher.

    Example:
        >>> predictor = load_predictor("runs/nuaa/student")
        >>> predictor.probabilities("frame.png").shape  # (H, W)
    """
    hub = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
    kind, path = kind_of(name_or_path, **hub), Path(name_or_path)
    if kind is not ModelKind.TEACHER and (views := [name for name in VIEWS if kwargs.get(name)]):
        raise ValueError(
            f"{name_or_path} holds {kind.value}: a teacher alone takes {', '.join(f'`{name}`' for name in views)}"
        )
    if kind is ModelKind.EXPORTED:
        from scalpel_hf.runtime import load_exported  # needs the extra `onnx`

        if path.suffix == ".onnx":
            return load_exported(path.parent, path.name)
        return load_exported(name_or_path, revision=hub.get("revision"))
    if kind is ModelKind.TEACHER:
        return Teacher.from_pretrained(name_or_path, base, **hub, **kwargs).to(device)
    return STUDENTS[kind].from_pretrained(name_or_path, **hub).to(device)


def load_trained(folder: Path, base_model: str | None = None, feature_cache_dir: Path | None = None) -> Segmenter:
    """[`load_predictor`] on the [`default_device`], of what has `probabilities`; `ValueError` for a detector."""
    found = load_predictor(folder, base_model, default_device(), feature_cache_dir=feature_cache_dir)
    if not hasattr(found, "probabilities"):
        raise ValueError(f"{folder} holds a detector: here a model is needed that gives masks")
    return cast("Segmenter", found)


def seeds_of_models(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """
    Folders by the model they are seeds of: those that differ in a last "-NUMBER" alone, in their order.

    Raises `ValueError` for a folder without a model, before any of them is measured.
    """
    models = defaultdict(list)
    for folder in folders:
        kind_of(folder)
        name, _, seed = folder.name.rpartition("-")
        models[name if name and seed.isdecimal() else folder.name].append(folder)
    return dict(models)
