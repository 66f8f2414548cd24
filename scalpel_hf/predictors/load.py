"""What the recipes leave in folders: which kind of model, loaded and on its device, which folders are seeds of one."""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import torch
from accelerate.utils import parse_flag_from_env

from .student import DetectionStudent, SegmentationStudent
from .teacher import Teacher

Loaded = TypeVar("Loaded", bound=Teacher | SegmentationStudent | DetectionStudent)


def default_device() -> str:
    """Where programs put a model: on the GPU, where there is one, and Accelerate isn't told to use the CPU."""
    return "cuda" if torch.cuda.is_available() and not parse_flag_from_env("ACCELERATE_USE_CPU") else "cpu"


def on_default_device(loaded: Loaded) -> Loaded:
    """A teacher or student, moved to the [`default_device`]."""
    loaded.to(default_device())
    return loaded


def holds_teacher(folder: Path) -> bool:
    """Whether a folder's model is a teacher and no student; `ValueError` where there is none."""
    for name in ("adapter_config.json", "config.json"):
        if (folder / name).exists():
            return name == "adapter_config.json"
    raise ValueError(
        f"{folder} holds no model (no adapter_config.json or config.json): name the output_dir of a finished "
        "`scalpel-hf distill` or `scalpel-hf transfer`"
    )


def load_trained(
    folder: Path, base_model: str | None = None, feature_cache_dir: Path | None = None
) -> Teacher | SegmentationStudent:
    """The teacher or the student in a folder, on the [`default_device`]."""
    if holds_teacher(folder):
        return on_default_device(Teacher.from_pretrained(folder, base_model, feature_cache_dir=feature_cache_dir))
    return on_default_device(SegmentationStudent.from_pretrained(folder))


def seeds_of_models(folders: Iterable[Path]) -> dict[str, list[Path]]:
    """
    Folders by the model they are seeds of: those that differ in a last "-NUMBER" alone, in their order.

    Raises `ValueError` for a folder without a model, before any of them is measured.
    """
    models = defaultdict(list)
    for folder in folders:
        holds_teacher(folder)
        name, _, seed = folder.name.rpartition("-")
        models[name if name and seed.isdecimal() else folder.name].append(folder)
    return dict(models)
