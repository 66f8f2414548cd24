"""Detects which kind of model a folder or repository holds, by its files."""

from enum import Enum
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from scalpel_hf.runtime.settings import CONFIG_FILE, FOLDER
from scalpel_hf.utils.reading import read_json

from .strict_loading import ADAPTER_CONFIG

HUB_ARGUMENTS = ("revision", "subfolder", "cache_dir", "token", "local_files_only")


class ModelKind(Enum):
    """The kinds of models that predict targets. The values describe them in messages."""

    TEACHER = "a teacher's adapter"  # or several, a committee
    STAND_ALONE = "a stand-alone teacher"
    SEGMENTATION = "a segmentation student"
    DETECTION = "a detection student"
    EXPORTED = "an exported student"


def kind_of(name_or_path: str | Path, **hub: Any) -> ModelKind:
    """
    The kind of model in a folder, in a repository on the Hub, or in an ONNX file.

    Args:
        name_or_path: the folder, repository, or file.
        hub: of `HUB_ARGUMENTS`, for a repository.

    Raises `ValueError` if there is no model, or its `config.json` is damaged.

    Examples:
        >>> kind_of("runs/nuaa/student")
        <ModelKind.SEGMENTATION: 'a segmentation student'>
    """
    name = str(name_or_path)
    if name.endswith(".onnx"):
        return ModelKind.EXPORTED
    if not Path(name).is_dir() and (Path(name).is_absolute() or name.count("/") > 1):
        raise ValueError(
            f"{name} holds no model: there is no such folder, and a repository on the Hub is called org/name"
        )
    if _file(name, ADAPTER_CONFIG, hub):
        return ModelKind.TEACHER
    config = _file(name, "config.json", hub)
    if config is not None:
        return _kind_of_config(name, read_json(config))
    if any(_file(name, place, hub) for place in (CONFIG_FILE, f"{FOLDER}/{CONFIG_FILE}")):
        return ModelKind.EXPORTED
    raise ValueError(
        f"{name} holds no model (no {ADAPTER_CONFIG}, config.json or {CONFIG_FILE}): name the output_dir of a finished "
        "`scalpel-hf distill` or `scalpel-hf transfer`, or a repository with what they made"
    )


def _kind_of_config(name: str, config: dict[str, Any]) -> ModelKind:
    if config.get("model_type") == "scalpel_sam":
        return ModelKind.STAND_ALONE
    architectures = config.get("architectures") or [""]
    if not isinstance(architectures, list) or not isinstance(architectures[0], str):
        raise ValueError(f"{name}: `architectures` in config.json must be a list of names, not {architectures!r}")
    detects = architectures[0].endswith("ForObjectDetection")
    return ModelKind.DETECTION if detects else ModelKind.SEGMENTATION


def _file(name: str, file: str, hub: dict[str, Any]) -> Path | None:
    """Local path of a file in a folder or repository; `None` if there is none of that name."""
    try:
        found = cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} is neither a folder nor a model that the Hub gives: {' '.join(str(error).split())}"
        ) from error
    return None if found is None else Path(found)
