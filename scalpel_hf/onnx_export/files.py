"""What both exports share: how files are written, and how answers are compared."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from torch import Tensor

OPSET = 18
TOLERANCE = 1e-4


def difference(x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> float:
    """Largest absolute difference of two arrays."""
    return float(np.abs(np.asarray(x) - np.asarray(y)).max())


def checked(differences: list[float]) -> float:
    """The largest difference; `ValueError` where it exceeds 1e-4, or there is none."""
    if not differences:
        raise ValueError("there is no frame to compare ONNX with torch on")
    worst = float(np.max(differences))  # NaN where there is one
    if not worst <= TOLERANCE:
        raise ValueError(f"ONNX differs from torch by {worst:.2g}, more than {TOLERANCE}: do not use it")
    return worst


@contextmanager
def whole_or_not_at_all(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files are moved to `folder` once all of them are written."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as work:
        yield Path(work)
        for file in Path(work).iterdir():
            os.replace(file, folder / file.name)
