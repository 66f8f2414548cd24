"""Push what was loaded from a run's folder, as `scalpel-hf push` pushes the folder."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .upload import push_run


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
    changed = _changed_weights(loaded, folder)
    if changed:
        raise ValueError(
            f"this is not what was loaded from {folder} any more ({changed} differs), and the figures in its "
            "metrics.json are not of it: train it by a recipe, or push the folder with `scalpel-hf push`"
        )
    return push_run(folder, repo_id, base_model_id, private, pictures)


def _changed_weights(loaded: Any, folder: Path) -> str | None:
    """A file of weights that it would be saved in, and that differs from the one in the folder."""
    with tempfile.TemporaryDirectory() as now:
        loaded.save_pretrained(now)
        for file in sorted(Path(now).rglob("*.safetensors")):
            name = file.relative_to(now)
            if not (folder / name).is_file():
                return str(name)
            saved, before = load_file(file), load_file(folder / name)
            if saved.keys() != before.keys() or any(not torch.equal(saved[key], before[key]) for key in saved):
                return str(name)
    return None
