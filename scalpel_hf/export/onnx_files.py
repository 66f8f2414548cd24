"""Shared by all exports: atomic writing of their files, and comparison with PyTorch."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from scalpel_hf.runtime.settings import check_files, hash_tensors
from scalpel_hf.utils.files import work_folder
from scalpel_hf.utils.reading import read_json

OPSET = 18
TOLERANCE = 1e-4


def hash_state(state: Mapping[str, Tensor]) -> str:
    """[`hash_tensors`] of a state dict, equal to that of the safetensors files it is saved in."""
    flat = (tensor.detach().cpu().contiguous().view(-1) for tensor in state.values())
    return hash_tensors(tensor.view(torch.uint8).numpy().tobytes() for tensor in flat)


def difference(x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> float:
    """Largest absolute difference of two arrays."""
    return float(np.abs(np.asarray(x) - np.asarray(y)).max())


def checked(differences: list[float]) -> float:
    """The largest difference; `ValueError` if it exceeds 1e-4, or the list is empty."""
    if not differences:
        raise ValueError("there is no frame on which to compare ONNX with torch")
    worst = float(np.max(differences))  # NaN where there is one
    if not worst <= TOLERANCE:
        raise ValueError(f"ONNX differs from torch by {worst:.2g}, more than {TOLERANCE}: do not use it")
    return worst


@contextmanager
def whole_or_not_at_all(folder: str | Path, record: str) -> Iterator[Path]:
    """
    A temporary folder; its files are moved to `folder` when the block ends without an error.

    `record` is the JSON file with the hashes of the ONNX files, see [`scalpel_hf.runtime.settings`]. It is moved last,
    so that an interrupted move is detected on loading. ONNX files that only the previous record names, such as the INT8
    file of an earlier export, are removed.
    """
    folder = Path(folder)
    with work_folder(folder / record) as work:
        yield work
        before = _recorded(folder / record)
        for file in sorted(work.iterdir(), key=lambda file: file.name == record):
            os.replace(file, folder / file.name)
        for name in before - _recorded(folder / record):
            (folder / name).unlink(missing_ok=True)


def _recorded(record: Path) -> set[str]:
    """Names of the ONNX files in a record; none if it is missing or damaged."""
    try:
        files = read_json(record)["files"]
        check_files(files)
    except (OSError, KeyError, ValueError):
        return set()
    return set(files)
