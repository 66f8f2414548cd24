"""Rows and frames by what they hold."""

from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from scalpel_hf import SyntheticInfrared
from scalpel_hf.data.contents import FrameKey, hash_rows
from scalpel_hf.data.image_cells import undecoded


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    return SyntheticInfrared(size=(96, 120), seed=3).to_dataset(6)


def encoded(frame: np.ndarray, kind: str, **options: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, kind, **options)
    return buffer.getvalue()


def test_the_same_rows_wherever_they_are(rows: datasets.Dataset, tmp_path: Path) -> None:
    rows.save_to_disk(str(tmp_path / "saved"))
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    ways = [
        datasets.load_from_disk(str(tmp_path / "saved")),
        datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / "cache")),
        rows.select(list(reversed(range(6)))).select(list(reversed(range(6)))),
        rows.with_format("numpy"),
        rows.select_columns(list(reversed(rows.column_names))),
        list(undecoded(rows)),
    ]
    assert {hash_rows(way) for way in ways} == {hash_rows(rows)}


def test_whatever_changes_changes_it(rows: datasets.Dataset) -> None:
    others = [
        rows.select(range(5)),
        rows.select([1, 0, 2, 3, 4, 5]),
        rows.remove_columns("width"),
        rows.rename_column("width", "w"),
        rows.map(lambda row, i: {"name": row["name"] + "x" * (i == 5)}, with_indices=True),
        rows.map(lambda row, i: {"mask": None if i == 2 else row["mask"]}, with_indices=True, features=rows.features),
        rows.map(lambda row: {"mask": np.asarray(row["mask"])[::-1]}, features=rows.features),
    ]
    assert len({hash_rows(other) for other in [rows, *others]}) == len(others) + 1


def test_a_cell_without_bytes_is_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    cell = {"image": {"bytes": None, "path": str(tmp_path / "a.png")}}
    before = hash_rows([cell])
    assert before == hash_rows([{"image": {"bytes": b"one", "path": "b.png"}}])
    (tmp_path / "a.png").write_bytes(b"two")
    assert hash_rows([cell]) != before
    (tmp_path / "a.png").unlink()
    assert hash_rows([cell]) != before


def test_a_frame_in_other_files_has_the_same_pixels(rows: datasets.Dataset) -> None:
    frame = np.asarray(rows[0]["image"])
    keys = [
        FrameKey.of("a", image) for image in (frame, frame.astype(np.uint16), encoded(frame, "PNG"), rows[0]["image"])
    ]
    keys += [FrameKey.of("a", encoded(frame, kind)) for kind in ("TIFF", "BMP")]
    assert len(set(keys)) == 1
    assert FrameKey.of("a", frame.T).pixels != keys[0].pixels and FrameKey.of("a", frame + 1).pixels != keys[0].pixels


def test_a_frame_looks_like_itself_and_not_like_others(rows: datasets.Dataset) -> None:
    frames = [np.asarray(row["image"]) for row in rows]
    rng = np.random.default_rng(0)
    for index, frame in enumerate(frames):
        key = FrameKey.of("a", frame)
        half = np.asarray(Image.fromarray(frame).resize((60, 48), Image.Resampling.BOX))
        wide = (frame.astype(np.uint16) * 200 + rng.integers(0, 100, frame.shape)).astype(np.uint16)
        for same in (encoded(frame, "JPEG", quality=80), half, wide):
            assert key.looks_like(FrameKey.of("a", same).look)
        others = (FrameKey.of("a", other).look for i, other in enumerate(frames) if i != index)
        assert not any(key.looks_like(other) for other in others)
