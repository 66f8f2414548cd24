"""Push what was loaded from a run's folder, as `scalpel-hf push` pushes the folder."""

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
    [`push_run`] of the folder that a teacher, a committee or a student was loaded from; returns the commit's URL.

    Raises `ValueError` where it came from elsewhere, or has other weights by now: the card's figures would not be its.
    """
    folder = loaded.folder
    if folder is None:
        raise ValueError(
            "only what was loaded from the folder of a run can be pushed, with the figures in its metrics.json: "
            "save it in one, and push that with `scalpel-hf push`"
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}, which this was loaded from, is gone: it has the figures for the card")
    changed = _changed_file(loaded, folder)
    if changed:
        raise ValueError(
            f"this is not what was loaded from {folder} any more ({changed} differs), and the figures in its "
            "metrics.json are not of it: train it by a recipe, or push the folder with `scalpel-hf push`"
        )
    return push_run(folder, repo_id, base_model_id, private, pictures)


def _changed_file(loaded: Any, folder: Path) -> str | None:
    """A file of weights, or how it prepares frames, that it would be saved in and that differs in the folder."""
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
    now, before = read_json(file), read_json(other)
    return all(now[key] == before[key] for key in now.keys() & before.keys())  # versions may have others besides
