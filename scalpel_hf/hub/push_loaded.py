"""Pushes a loaded model by pushing the run's folder that it was loaded from."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from scalpel_hf.utils.reading import read_json

from .upload import push_run

PROCESSOR = "preprocessor_config.json"


def push_loaded(
    loaded: Any, repo_id: str, base_model_id: str | None = None, private: bool | None = None, pictures: bool = True
) -> str:
    """
    [`push_run`] for the folder that a teacher, committee or student was loaded from; returns the commit's URL.

    Raises `ValueError` if it wasn't loaded from a folder, or its weights have changed since: the metrics in the card
    would be those of another model.
    """
    folder = loaded.folder
    if folder is None:
        raise ValueError(
            "only models that were loaded from a run's folder can be pushed, since the card needs its metrics.json: "
            "save the model in such a folder, and push that with `scalpel-hf push`"
        )
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}, from which this model was loaded, is missing: the card needs its metrics.json"
        )
    changed = _changed_file(loaded, folder)
    if changed:
        raise ValueError(
            f"the model has changed since it was loaded from {folder} ({changed} differs), so the metrics in its "
            "metrics.json are of another model: train it by a recipe, or push the folder with `scalpel-hf push`"
        )
    return push_run(folder, repo_id, base_model_id, private=private, pictures=pictures)


def _changed_file(loaded: Any, folder: Path) -> str | None:
    """Name of the first file of weights or processor that would now be saved differently; `None` if there is none."""
    with tempfile.TemporaryDirectory() as now:
        loaded.save_pretrained(now)
        for file in sorted(Path(now).rglob("*")):
            name = file.relative_to(now)
            same = _same_weights if file.suffix == ".safetensors" else _same_json if file.name == PROCESSOR else None
            if same and not ((folder / name).is_file() and same(file, folder / name)):
                return str(name)
    return None


def _same_weights(file: Path, other: Path) -> bool:
    now, before = load_file(file), load_file(other)
    return now.keys() == before.keys() and all(torch.equal(now[key], before[key]) for key in now)


def _same_json(file: Path, other: Path) -> bool:
    """Whether two JSON files have equal values. Keys that only one has, such as a new version's, don't count."""
    now, before = read_json(file), read_json(other)
    return all(now[key] == before[key] for key in now.keys() & before.keys())
