"""Data sets that are damaged, or lack what every program needs: one line that names the folder or split."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from scalpel_hf.data import SyntheticInfrared, load_irst_dataset, load_prepared, load_split
from scalpel_hf.data.objects import encode_png

SHAPES = [
    "",
    "null",
    "[]",
    "{}",
    '"text"',
    "7",
    "{",
    "\x00",
    "[" * 100_000,
    '{"splits": 3}',
    '{"splits": [1]}',
    '{"a": 1, "a": 2}',
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    train = SyntheticInfrared(size=(64, 80)).to_dataset(2)
    datasets.DatasetDict({"train": train}).save_to_disk(str(tmp_path / "set"))
    return tmp_path / "set"


@pytest.mark.parametrize("content", SHAPES, ids=range(len(SHAPES)))
@pytest.mark.parametrize("file", ["dataset_dict.json", "train/state.json", "train/dataset_info.json"])
def test_every_file_of_a_wrong_shape_is_a_line_that_names_the_data_set(folder: Path, file: str, content: str) -> None:
    path = folder / file
    try:
        json.loads(path.read_text())
        path.write_text(content)
        loaded = load_split(folder, "train")
    except (ValueError, OSError) as error:
        assert str(folder) in str(error)
    else:  # what `datasets` doesn't need to know
        assert file == "train/dataset_info.json" and loaded["name"][:] == ["synthetic-000000", "synthetic-000001"]


@pytest.mark.parametrize("kept", [0, 1, 7, 100, 0.5, 0.99])
def test_a_file_that_is_cut_off(folder: Path, kept: float) -> None:
    (arrow,) = folder.rglob("*.arrow")
    content = arrow.read_bytes()
    arrow.write_bytes(content[: int(kept if kept >= 1 else kept * len(content))])
    with pytest.raises((ValueError, OSError)) as caught:
        load_prepared(folder)
    assert str(folder) in str(caught.value)


def test_parquet_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data.parquet").write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(ValueError, match=r"data\.parquet can't be loaded"):
        load_irst_dataset("hub", tmp_path / "data.parquet")


def test_what_every_program_needs(tmp_path: Path) -> None:
    image = {"bytes": encode_png(np.zeros((4, 5), np.uint8)), "path": None}
    features = datasets.Features(
        {"name": datasets.Value("string"), "image": datasets.Image(), "mask": datasets.Image()}
    )

    def split_of(names: list[str | None], without: str = "") -> datasets.Dataset:
        columns = {"name": names, "image": [image] * len(names), "mask": [image, None][: len(names)]}
        made = datasets.Dataset.from_dict(columns, features=features)
        (made.remove_columns(without) if without else made).save_to_disk(
            str(tmp_path / f"{len(list(tmp_path.iterdir()))}")
        )
        return load_split(tmp_path / f"{len(list(tmp_path.iterdir())) - 1}", "train")

    assert split_of(["a", "b"])["label_source"][:] == ["human", "none"]
    assert split_of(["a", "b"], without="mask")["label_source"][:] == ["none", "none"]
    for names, problem in (
        ([], "there are no rows in"),
        (["a", None], "without a name"),
        (["a", "a"], "more than once"),
    ):
        with pytest.raises(ValueError, match=problem):
            split_of(names)
    for column in ("name", "image"):
        with pytest.raises(ValueError, match=f"lacks the columns {column}"):
            split_of(["a", "b"], without=column)
