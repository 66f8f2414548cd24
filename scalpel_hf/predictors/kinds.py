"""Which kind of model a folder or a repository holds, told by its files."""

from enum import Enum
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from scalpel_hf.runtime.settings import CONFIG_FILE, FOLDER
from scalpel_hf.utils.reading import read_json

from .pretrained import ADAPTER_CONFIG

HUB_ARGUMENTS = ("revision", "subfolder", "cache_dir", "token", "local_files_only")


class ModelKind(Enum):
    """The kinds of models that find targets."""

    TEACHER = "a teacher's adapter"  # or several, a committee
    STAND_ALONE = "a stand-alone teacher"
    SEGMENTATION = "a segmentation student"
    DETECTION = "a detection student"
    EXPORTED = "an exported student"


def kind_of(name_or_path: str | Path, **hub: Any) -> ModelKind:
    """
    The kind of the model in a folder, in a repository or, of an exported one, in an ONNX file.

    Args:
        hub: `HUB_ARGUMENTS` of the repository.

    Raises `ValueError` where there is none, and where `config.json` is no model's.
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
        raise ValueError(f"{name}: `architectures` of config.json must be names, and is {architectures!r}")
    detects = architectures[0].endswith("ForObjectDetection")
    return ModelKind.DETECTION if detects else ModelKind.SEGMENTATION


def _file(name: str, file: str, hub: dict[str, Any]) -> Path | None:
    """Where a file of a folder or a repository is, here; `None` where it has none of that name."""
    try:
        found = cached_file(name, file, _raise_exceptions_for_missing_entries=False, **hub)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} is neither a folder nor a model that the Hub gives: {' '.join(str(error).split())}"
        ) from error
    return None if found is None else Path(found)
