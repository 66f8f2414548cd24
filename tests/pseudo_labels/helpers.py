"""A teacher that costs nothing, and data sets for it."""

import io
import os
import signal
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from scalpel_hf import SyntheticInfrared, apply_label_budget


class FakeTeacher:
    """The frame's brightness as probability; counts what it is asked."""

    def __init__(self, gain: float = 1.0, die_at: int | None = None):
        self.gain, self.die_at, self.calls = gain, die_at, 0

    def probabilities(self, frame: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        frame = frame.astype(np.float32)
        return self.gain * (frame - frame.min()) / max(frame.max() - frame.min(), 1)

    def fingerprint(self) -> str:
        return f"fake-{self.gain}"


def camera() -> SyntheticInfrared:
    return SyntheticInfrared(size=(32, 40), n_targets=(0, 2), extent=(1, 4), seed=3)


def budgeted(n: int = 10) -> datasets.Dataset:
    return apply_label_budget(camera().to_dataset(n), 0.3)


def on_disk(dataset: datasets.Dataset, folder: Path) -> datasets.Dataset:
    dataset.save_to_disk(str(folder))
    return datasets.load_from_disk(str(folder))


def raw(dataset: datasets.Dataset, column: str) -> list:
    return dataset.select_columns([column]).with_format("arrow")[:].column(column).to_pylist()


def raw_equal(a: datasets.Dataset, b: datasets.Dataset) -> bool:
    return a.column_names == b.column_names and all(raw(a, c) == raw(b, c) for c in a.column_names)


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def with_image(dataset: datasets.Dataset, index: int, content: bytes) -> datasets.Dataset:
    cells = raw(dataset, "image")
    cells[index] = {"bytes": content, "path": None}
    return dataset.remove_columns("image").add_column("image", cells, feature=datasets.Image())


def frames_dataset(frames: list[np.ndarray], sources: list[str] | None = None) -> datasets.Dataset:
    """Unlabelled rows of these frames, of 8 or 16 bits."""
    cells = [{"bytes": png(frame), "path": None} for frame in frames]
    rows = {"name": [f"f{i}" for i in range(len(frames))], "image": cells, "mask": [None] * len(frames)}
    rows["label_source"] = sources or ["none"] * len(frames)
    features = {"name": datasets.Value("string"), "image": datasets.Image(), "mask": datasets.Image()}
    return datasets.Dataset.from_dict(rows, datasets.Features({**features, "label_source": datasets.Value("string")}))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path in it."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
