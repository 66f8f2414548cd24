"""No frame that a model was trained on is measured, by whatever name and from whatever file."""

import logging
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from scalpel_hf import SyntheticInfrared
from scalpel_hf.evaluation.comparison import frames_to_compare
from scalpel_hf.evaluation.unseen import (
    TRAINED_ON_FILE,
    TrainedOn,
    rows_to_measure,
    trained_on,
    unseen_rows,
    with_masks,
    without_copies,
)


@pytest.fixture(scope="module")
def rows() -> datasets.Dataset:
    return SyntheticInfrared(size=(48, 64), seed=3).to_dataset(6)


def renamed(rows: datasets.Dataset, *names: str) -> datasets.Dataset:
    return rows.remove_columns("name").add_column("name", list(names))


def as_jpeg(rows: datasets.Dataset) -> datasets.Dataset:
    def encode(row: dict) -> dict:
        buffer = BytesIO()
        row["image"].save(buffer, "JPEG", quality=85)
        return {"image": {"bytes": buffer.getvalue(), "path": "f.jpg"}}

    return rows.map(encode, features=rows.features)


def test_a_frame_is_known_by_its_content_and_by_its_name(rows: datasets.Dataset) -> None:
    known = TrainedOn.of(rows.select(range(3)))
    rest = rows["name"][3:]

    def left(measured: datasets.Dataset) -> list[str]:
        return unseen_rows(measured, known, "split 'test'")["name"][:]

    assert left(rows) == rest
    assert left(renamed(rows, *"abcdef")) == ["d", "e", "f"]
    assert left(as_jpeg(rows)) == rest
    others = renamed(rows.select(range(3, 6)), *rows["name"][:3])  # numbered alike, as of another camera
    assert left(others) == rows["name"][:3]
    assert left(rows.select([4, 5])) == rows["name"][4:]
    assert unseen_rows(rows, TrainedOn(), "split") is rows


def test_copies_under_other_names_are_left_out(rows: datasets.Dataset) -> None:
    said: list[str] = []
    assert without_copies(renamed(rows, *"abcdef"), of=rows.select([1, 4]), say=said.append)["name"][:] == [*"acdf"]
    assert said == ["left out 2: copies of frames that are held out, under other names"]
    assert without_copies(rows, of=rows.select([])) is rows


def test_what_is_left_out_is_said_and_nothing_left_is_an_error(
    rows: datasets.Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    known = TrainedOn.of(rows)
    with pytest.raises(ValueError, match=r"all 6 frames of split 'test' were trained on \(.*and 1 more\).* or a flag"):
        unseen_rows(rows, known, "split 'test'", "a flag")
    with caplog.at_level(logging.WARNING):
        unseen_rows(rows, TrainedOn(known.frames[:2]), "split 'test'")
    assert "2 of the 6 frames of split 'test' were trained on and are left out: " in caplog.text
    assert ", ".join(rows["name"][:2]) in caplog.text


def test_the_record_is_kept_with_the_model(rows: datasets.Dataset, tmp_path: Path, caplog) -> None:
    record = TrainedOn.of(rows.select(range(2)))
    (tmp_path / "run" / "onnx").mkdir(parents=True)
    record.save(tmp_path / "run")
    (tmp_path / "run" / "onnx" / "model.onnx").touch()
    for model in ("run", "run/onnx", "run/onnx/model.onnx"):
        assert TrainedOn.load(tmp_path / model) == record
    (tmp_path / "other").mkdir()
    with caplog.at_level(logging.WARNING):
        assert trained_on([tmp_path / "run", tmp_path / "other"]) == record
    assert f"{tmp_path / 'other'} has no record of what it was trained on" in caplog.text
    size = (tmp_path / "run" / TRAINED_ON_FILE).stat().st_size
    assert size < 250 * 2  # bytes a frame


@pytest.mark.parametrize("frames", ["3", '[["a"]]', '[["a", 1, 2, 3]]', "null", "[7]", "[", '[["a", "p", "xyz"]]'])
def test_a_damaged_record_is_named(tmp_path: Path, frames: str) -> None:
    (tmp_path / TRAINED_ON_FILE).write_text(f'{{"frames": {frames}}}')
    with pytest.raises(ValueError, match=rf"{TRAINED_ON_FILE} is damaged"):
        TrainedOn.load(tmp_path)


def test_what_cannot_be_measured_says_so(rows: datasets.Dataset, tmp_path: Path) -> None:
    hidden = rows.map(lambda _, i: {"mask": None} if i in (1, 4) else {}, with_indices=True, features=rows.features)
    with pytest.raises(
        ValueError, match=r"can't be used for evaluation: 2 of its 6 frames have no mask \(.+, .+\).* or a flag"
    ):
        with_masks(hidden, "split 'test'", "a flag")
    with pytest.raises(ValueError, match="has no column `mask` to evaluate with; a flag"):
        with_masks(rows.remove_columns("mask"), "split 'test'", "a flag")
    assert with_masks(rows, "split 'test'") is rows
    rows.save_to_disk(str(tmp_path / "flat"))
    with pytest.raises(ValueError, match=r"has no split 'test', only train: name one of these, or a flag"):
        rows_to_measure(tmp_path / "flat", "test", TrainedOn(), "a flag")
    assert rows_to_measure(tmp_path / "flat", "train", TrainedOn())["name"][:] == rows["name"][:]


def test_models_are_compared_on_frames_that_none_was_trained_on(rows: datasets.Dataset, tmp_path: Path) -> None:
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "data"))
    labelled = rows.select([5]).add_column("label_source", ["human"])
    datasets.DatasetDict({"test": labelled}).save_to_disk(str(tmp_path / "labelled"))
    for index, name in enumerate(("a", "b")):
        (tmp_path / name).mkdir()
        TrainedOn.of(rows.select([index])).save(tmp_path / name)
    models = [tmp_path / "a", tmp_path / "b"]
    data = str(tmp_path / "data")
    assert frames_to_compare(data, "test", models, None)["name"][:] == rows["name"][2:]
    assert frames_to_compare(data, "test", models, str(tmp_path / "labelled"))["name"][:] == rows["name"][2:5]


def test_an_image_of_one_value_is_a_frame_too(rows: datasets.Dataset) -> None:
    flat = Image.fromarray(np.full((5, 3), 7, np.uint8))
    data = datasets.Dataset.from_list(
        [{"name": "a", "image": flat}], features=rows.select_columns(["name", "image"]).features
    )
    assert TrainedOn.of(data).holds(TrainedOn.of(renamed(data, "b")).frames[0])


def test_a_frame_that_cannot_be_read_is_named(rows: datasets.Dataset) -> None:
    image = datasets.Features({"name": datasets.Value("string"), "image": datasets.Image()})
    data = datasets.Dataset.from_list([{"name": "f7", "image": {"bytes": b"none", "path": None}}], features=image)
    with pytest.raises(ValueError, match="the frame f7 can't be read: "):
        TrainedOn.of(data)
