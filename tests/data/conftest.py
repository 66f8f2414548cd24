from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from scalpel_hf.data.layouts import Layout


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path_factory, monkeypatch):
    """`load_dataset` keeps what it read under the file's path: keep that out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf-cache"))


def draw_pair(seed: int, shape: tuple[int, int] = (20, 24)) -> tuple[np.ndarray, np.ndarray]:
    """A frame, uint8, and its mask of one target of 2 × 3 pixels at a place of its own."""
    rng = np.random.default_rng(seed)
    frame = rng.integers(20, 90, shape, dtype=np.uint8)
    mask = np.zeros(shape, np.uint8)
    y, x = rng.integers(shape[0] - 3), rng.integers(shape[1] - 3)
    mask[y : y + 2, x : x + 3] = 255
    frame[mask > 0] = 200
    return frame, mask


@pytest.fixture(scope="session")
def toy_pair() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return draw_pair


@pytest.fixture
def make_set(tmp_path) -> Callable[..., Path]:
    """Write `names` in the folders of a layout's first candidates, and split lists as given."""

    def make(layout: Layout, names: list[str], lists: dict[str, list[str]], root: Path = tmp_path / "set") -> Path:
        images, masks = root / layout.images[0], root / layout.masks[0]
        for folder in (images, masks):
            folder.mkdir(parents=True, exist_ok=True)
        for seed, name in enumerate(names):
            frame, mask = draw_pair(seed)
            Image.fromarray(frame).save(images / f"{name}.png")
            Image.fromarray(mask).save(masks / f"{name}{layout.mask_suffixes[0]}.png")
        for path, listed in lists.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text("\n".join(listed) + "\n")
        return root

    return make
