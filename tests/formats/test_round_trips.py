"""Every format that is written, by every importer, on random masks with pixels that a human left open."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from scalpel_hf.data import IGNORED, load_irst_dataset, read_mask
from scalpel_hf.data.objects import encode_png, objects_from_mask
from scalpel_hf.formats import (
    HumanLabel,
    LossyExportWarning,
    import_human_labels,
    read_coco,
    read_label_studio,
    read_masks,
    write_coco,
    write_imagefolder,
    write_label_studio,
    write_masks,
    write_parquet,
    write_voc,
)

from .small_sets import labelled, raw, row

SHAPE = (7, 9)
LABELS = st.lists(hnp.arrays(np.uint8, SHAPE, elements=st.sampled_from([0, IGNORED, 255])), min_size=1, max_size=3)
FEW = settings(deadline=None, max_examples=5)


def human_set(masks: list[np.ndarray]) -> datasets.Dataset:
    """Rows f0, f1, … with these masks."""
    rows = [row(f"f{i}", mask == 255, "human") for i, mask in enumerate(masks)]
    for cells, mask in zip(rows, masks, strict=True):
        cells["mask"] = {"bytes": encode_png(mask), "path": None}
    return labelled(*rows)


def unlabelled(count: int) -> datasets.Dataset:
    rows = [row(f"f{i}", np.zeros(SHAPE, bool), "human") for i in range(count)]
    return labelled(*(cells | {"mask": None, "objects": None, "label_source": "none"} for cells in rows))


def imported(labels: Iterable[HumanLabel], count: int) -> list[np.ndarray]:
    result = import_human_labels(unlabelled(count), labels, keep_in_memory=True)
    read = [read_mask(cell) for cell in raw(result, "mask")]
    assert raw(result, "objects") == [objects_from_mask(mask == 255) for mask in read]
    return read


def loaded(layout: str, root: Path) -> list[np.ndarray]:
    return [read_mask(cell) for cell in raw(load_irst_dataset(layout, root, say=str)["train"], "mask")]


def same(read: list[np.ndarray], masks: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(read, masks, strict=True))


@given(LABELS)
@FEW
def test_coco(masks: list[np.ndarray]) -> None:
    pytest.importorskip("pycocotools")
    with TemporaryDirectory() as folder:
        write_coco(human_set(masks), Path(folder) / "out")
        assert same(imported(read_coco(Path(folder) / "out" / "annotations.json"), len(masks)), masks)


@given(LABELS)
@FEW
def test_label_studio(masks: list[np.ndarray]) -> None:
    with TemporaryDirectory() as folder:
        write_label_studio(human_set(masks), Path(folder) / "out")
        assert same(imported(read_label_studio(Path(folder) / "out" / "tasks.json"), len(masks)), masks)


@given(LABELS)
@FEW
def test_voc(masks: list[np.ndarray]) -> None:
    with TemporaryDirectory() as folder:
        write_voc(human_set(masks), Path(folder) / "out")
        classes = Path(folder) / "out" / "SegmentationClass"
        assert same(imported(read_masks(classes, say=str), len(masks)), masks)
        assert same(loaded("voc", Path(folder) / "out"), masks)


@given(LABELS)
@FEW
def test_png_masks_lose_what_is_open_and_say_so(masks: list[np.ndarray]) -> None:
    kept = [np.where(mask == 255, mask, 0) for mask in masks]
    with TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_masks(human_set(masks), Path(folder) / "out")
        assert any(w.category is LossyExportWarning for w in caught) == any((m == IGNORED).any() for m in masks)
        assert same(imported(read_masks(Path(folder) / "out" / "masks"), len(masks)), kept)
        assert same(loaded("generic", Path(folder) / "out"), kept)


@given(LABELS)
@FEW
def test_parquet_and_imagefolder(masks: list[np.ndarray]) -> None:
    with TemporaryDirectory() as folder:
        for write, name in ((write_parquet, "data.parquet"), (write_imagefolder, "")):
            out = Path(folder) / write.__name__
            write(human_set(masks), out)
            assert same(loaded("hub", out / name), masks)
