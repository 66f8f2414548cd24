"""Streams, whose length nobody knows, into parquet files."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest

from scalpel_hf import training_mask
from scalpel_hf.pseudo_labels import PSEUDO_FEATURES, LabellingJob, add_pseudo_labels, label_in_shards
from tests.pseudo_labels.helpers import FakeTeacher, budgeted, raw, raw_equal, tree
from tests.pseudo_labels.test_shards import SILENT, Stops


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("stream") / "frames.parquet")
    budgeted().to_parquet(path, batch_size=3)
    return path


def stream_of(path: str) -> datasets.IterableDataset:
    return datasets.load_dataset("parquet", data_files=path, split="train", streaming=True)


def loaded(out: Path, tmp_path: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))


def test_a_stream_becomes_parquet_files_that_load_either_way(parquet: str, tmp_path: Path) -> None:
    out, lines, teacher = tmp_path / "out", [], FakeTeacher()
    streamed = label_in_shards(stream_of(parquet), teacher, out, name="t", shard_size=4, report=lines.append)
    assert teacher.calls == 7 and "images/s, 10" in lines[-1] and "to go" not in lines[-1]
    files = [f"data/train-0000{i}-of-00003.parquet" for i in range(3)]
    assert [name for name in tree(out) if name.endswith(".parquet")] == files

    expected = add_pseudo_labels(budgeted(), FakeTeacher(), name="t")
    again = loaded(out, tmp_path)
    assert raw_equal(again, expected)
    stream = datasets.load_dataset(str(out), split="train", streaming=True)
    assert again.features == stream.features == streamed.features == expected.features
    for a, b in zip(stream, expected, strict=True):
        assert a["name"] == b["name"] and a["pseudo_objects"] == b["pseudo_objects"] and a["teacher"] == b["teacher"]
        np.testing.assert_array_equal(training_mask(a), training_mask(b))


def test_a_stream_stopped_and_resumed_by_other_workers_gives_the_same_bytes(parquet: str, tmp_path: Path) -> None:
    settings = {"shard_size": 2, "calibration": "labelled", **SILENT}
    label_in_shards(stream_of(parquet), FakeTeacher(), tmp_path / "one", **settings)
    with pytest.raises(RuntimeError, match="stopped"):
        label_in_shards(stream_of(parquet), Stops(), tmp_path / "two", **settings)
    calls = 0
    for worker in (1, 0):
        teacher = FakeTeacher()
        LabellingJob(stream_of(parquet), teacher, tmp_path / "two", **settings).predict(worker, 2)
        calls += teacher.calls
    assert calls == 10 - 4  # two shards of two were finished, the third was not
    LabellingJob(stream_of(parquet), FakeTeacher(), tmp_path / "two", **settings).finalize()
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_frames_without_names_or_labels(tmp_path: Path) -> None:
    frames = [np.asarray(row["image"]) for row in budgeted(5)]

    def make() -> Iterator[dict]:
        for frame in frames:
            yield {"image": frame, "camera": "left"}

    features = datasets.Features({"image": datasets.Image(), "camera": datasets.Value("string")})
    stream = datasets.IterableDataset.from_generator(make, features=features)
    label_in_shards(stream, FakeTeacher(), tmp_path / "out", shard_size=2, **SILENT)
    again = loaded(tmp_path / "out", tmp_path)
    assert (tmp_path / "out" / "data" / "train-00000-of-00003.parquet").exists()
    assert set(again.column_names) == {"name", "label_source", "image", "camera", *PSEUDO_FEATURES}
    assert again["name"][:] == [f"00000{i}" for i in range(5)] and set(again["label_source"]) == {"pseudo"}
    for row, frame in zip(again, frames, strict=True):
        np.testing.assert_array_equal(np.asarray(row["image"]), frame)

    untold = datasets.IterableDataset.from_generator(make)
    with pytest.raises(ValueError, match="the stream's features are unknown"):
        label_in_shards(untold, FakeTeacher(), tmp_path / "untold")


def test_an_empty_stream_and_one_that_has_changed(parquet: str, tmp_path: Path) -> None:
    def nothing() -> Iterator[dict]:
        yield from ()

    features = stream_of(parquet).features
    with pytest.raises(ValueError, match="no rows"):
        label_in_shards(
            datasets.IterableDataset.from_generator(nothing, features=features), FakeTeacher(), tmp_path / "a"
        )
    with pytest.raises(RuntimeError, match="stopped"):
        label_in_shards(stream_of(parquet), Stops(), tmp_path / "b", shard_size=2, **SILENT)
    other = label_in_shards(stream_of(parquet).skip(1), FakeTeacher(), tmp_path / "b", shard_size=2, **SILENT)
    assert [row["name"] for row in other] == [row["name"] for row in stream_of(parquet).skip(1)]


def test_another_stream_into_the_same_folder_is_another_data_set(parquet: str, tmp_path: Path) -> None:
    """Finished, or killed and gone on with from other frames of the same names: never rows of both."""
    settings = {"shard_size": 2, **SILENT}
    others = str(tmp_path / "others.parquet")
    rows = budgeted()
    turned = rows.map(lambda row: {"image": np.asarray(row["image"])[::-1]}, features=rows.features)
    turned.to_parquet(others)
    expected = label_in_shards(stream_of(others), FakeTeacher(), tmp_path / "expected", **settings)

    label_in_shards(stream_of(parquet), FakeTeacher(), tmp_path / "out", **settings)
    same = FakeTeacher()
    label_in_shards(stream_of(parquet), same, tmp_path / "out", **settings)
    assert same.calls == 0
    again = label_in_shards(stream_of(others), FakeTeacher(), tmp_path / "out", **settings)
    with pytest.raises(RuntimeError, match="stopped"):
        label_in_shards(stream_of(parquet), Stops(), tmp_path / "killed", **settings)
    gone_on = label_in_shards(stream_of(others), FakeTeacher(), tmp_path / "killed", **settings)
    assert len(list(expected)) == len(rows)
    for a, b, c in zip(expected, again, gone_on, strict=True):
        assert str(a) == str(b) == str(c) or a["pseudo_objects"] == b["pseudo_objects"] == c["pseudo_objects"]
    assert tree(tmp_path / "out") == tree(tmp_path / "killed") == tree(tmp_path / "expected")


def test_a_stream_is_read_as_it_is_labelled(parquet: str, tmp_path: Path) -> None:
    """No more than a shard is read ahead: the source may be larger than memory and disk."""
    read: list[int] = []
    asked: list[int] = []

    class Watches(FakeTeacher):
        def probabilities(self, frame: np.ndarray) -> np.ndarray:
            asked.append(len(read))
            return super().probabilities(frame)

    rows = budgeted(12)
    cells = [{"image": cell} for cell in raw(rows, "image")]

    def make() -> Iterator[dict]:
        for index, cell in enumerate(cells):
            read.append(index)
            yield cell

    stream = datasets.IterableDataset.from_generator(make, features=datasets.Features({"image": datasets.Image()}))
    label_in_shards(stream, Watches(), tmp_path / "out", shard_size=3, **SILENT)
    assert asked == [3] * 3 + [6] * 3 + [9] * 3 + [12] * 3


def test_a_name_that_comes_again_stops_the_labelling(tmp_path: Path) -> None:
    twice = datasets.concatenate_datasets([budgeted(), budgeted().select([4])])
    twice.to_parquet(tmp_path / "twice.parquet")
    teacher = FakeTeacher()
    with pytest.raises(ValueError, match=rf"the name '{budgeted()[4]['name']}' occurs twice in the stream.* row 10: "):
        label_in_shards(stream_of(str(tmp_path / "twice.parquet")), teacher, tmp_path / "out", shard_size=4)
    assert not (tmp_path / "out" / "data").exists()
