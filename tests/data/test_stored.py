"""Data sets that someone else has made lead nowhere: no name out of its folder, no cell to a file of this machine."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from scalpel_hf.data import as_irst_dataset, load_irst_dataset, load_prepared
from scalpel_hf.data.objects import encode_png
from scalpel_hf.data.rows import FEATURES
from scalpel_hf.data.stored import load_stored, stream_stored
from scalpel_hf.formats import write_imagefolder
from scalpel_hf.utils.files import safe_name
from scalpel_hf.utils.image_files import LinkedWarning

FRAME = encode_png(np.full((6, 8), 90, np.uint8))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("hf-cache"))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "private" / "secret.png"
    path.parent.mkdir()
    path.write_bytes(FRAME)
    return path


def rows(cell: dict[str, Any], **columns: list) -> tuple[dict[str, list], datasets.Features]:
    """Two rows, of which the second's image is the cell."""
    good = {"bytes": FRAME, "path": "a.png"}
    content: dict[str, list] = {column: [None, None] for column in FEATURES}
    content |= {"name": ["a", "b"], "image": [good, cell], "width": [8, 8], "height": [6, 6]}
    content |= {"mask": [good, good], "label_source": ["none", "none"], **columns}
    return content, datasets.Features({**FEATURES, "label_source": datasets.Value("string")})


def in_arrow(folder: Path, cell: dict[str, Any]) -> Path:
    """As `save_to_disk` leaves it, but that the cell is as its author wants it."""
    content, features = rows({"bytes": FRAME, "path": "b.png"})
    datasets.Dataset.from_dict(content, features).save_to_disk(str(folder))
    content["image"][1] = cell
    encoded = [features.encode_example({key: values[i] for key, values in content.items()}) for i in range(2)]
    table = pa.Table.from_pylist(encoded, features.arrow_schema)
    (file,) = folder.glob("*.arrow")
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return folder


def in_parquet(folder: Path, cell: dict[str, Any]) -> Path:
    content, features = rows(cell)
    (folder / "data").mkdir(parents=True)
    encoded = [features.encode_example({key: values[i] for key, values in content.items()}) for i in range(2)]
    table = pa.Table.from_pylist(encoded, features.arrow_schema)
    pa.parquet.write_table(table, folder / "data" / "train-00000-of-00001.parquet")
    return folder


def of_splits(folder: Path, cell: dict[str, Any]) -> Path:
    folder.mkdir()
    (folder / "dataset_dict.json").write_text('{"splits": ["train"]}')
    in_arrow(folder / "train", cell)
    return folder


def one_file(folder: Path, cell: dict[str, Any]) -> Path:
    return in_parquet(folder, cell) / "data" / "train-00000-of-00001.parquet"


MAKERS = [in_arrow, in_parquet, of_splits, one_file]


@pytest.mark.parametrize("make", MAKERS)
def test_a_cell_that_holds_a_path_is_refused(make: Callable, tmp_path: Path, secret: Path) -> None:
    for number, path in enumerate((str(secret), "../private/secret.png", f"file://{secret}", "https://example.org/x")):
        name = make(tmp_path / f"theirs{number}", {"bytes": None, "path": path})
        with pytest.raises(ValueError, match=r"theirs.*the column 'image' has cells with a path"):
            load_stored(name)
        with pytest.raises(ValueError, match="the column 'image' has cells with a path"):
            load_irst_dataset("hub", name)
        if make is not one_file:
            with pytest.raises(ValueError, match="the column 'image' has cells with a path"):
                load_prepared(name)


@pytest.mark.parametrize("make", MAKERS)
def test_one_that_holds_bytes_is_as_it_was(make: Callable, tmp_path: Path) -> None:
    loaded = load_stored(make(tmp_path / "theirs", {"bytes": FRAME, "path": "/etc/elsewhere.png"}))
    loaded = loaded["train"] if isinstance(loaded, datasets.DatasetDict) else loaded
    assert loaded["name"][:] == ["a", "b"] and np.asarray(loaded[1]["image"]).tolist() == [[90] * 8] * 6


def test_a_stream_ends_where_such_a_cell_comes(tmp_path: Path, secret: Path) -> None:
    stream = stream_stored(in_parquet(tmp_path / "theirs", {"bytes": None, "path": str(secret)}), "train")
    assert isinstance(stream, datasets.IterableDataset) and isinstance(stream.features["image"], datasets.Image)
    iterator = iter(stream.decode(False))
    assert next(iterator)["name"] == "a"
    with pytest.raises(ValueError, match="the column 'image' has cells with a path"):
        next(iterator)
    whole = stream_stored(in_parquet(tmp_path / "fine", {"bytes": FRAME, "path": "x.png"}), "train")
    assert [np.asarray(row["image"]).max() for row in whole] == [90, 90] and whole.column_names[:2] == ["name", "image"]


def test_deep_inside_too(tmp_path: Path, secret: Path) -> None:
    cell = {"bytes": None, "path": str(secret)}
    deep = pa.table({"name": ["a"], "extra": [{"views": [[{"bytes": FRAME, "path": None}, cell]]}]})
    pa.parquet.write_table(deep, tmp_path / "deep.parquet")
    with pytest.raises(ValueError, match="the column 'extra' has cells with a path"):
        load_stored(tmp_path / "deep.parquet")
    (tmp_path / "x" / "data").mkdir(parents=True)
    pa.parquet.write_table(deep, tmp_path / "x" / "data" / "train-0.parquet")
    stream = stream_stored(tmp_path / "x", "train")
    if stream.features is not None:
        with pytest.raises(ValueError, match="the column 'extra' has cells with a path"):
            list(stream)


def test_a_column_of_paths_is_refused_where_others_made_it(tmp_path: Path, secret: Path) -> None:
    secret.write_bytes(encode_png(np.full((6, 8), 255, np.uint8)))
    theirs = datasets.Dataset.from_dict({"image": [str(secret)], "mask": [str(secret)]})
    theirs.to_parquet(str(tmp_path / "theirs.parquet"))
    with pytest.raises(ValueError, match=r"theirs.parquet: the column 'image' holds text"):
        load_irst_dataset("hub", tmp_path / "theirs.parquet")
    assert len(as_irst_dataset(theirs)) == 1  # in Python, by whoever has made it


def test_a_folder_of_ones_own_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "mine" / "train").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 8), 7, np.uint8)).save(tmp_path / "mine" / "train" / f"{name}.png")
    loaded = load_stored(tmp_path / "mine")
    assert [np.asarray(row["image"]).max() for row in loaded["train"]] == [7, 7]
    stream = stream_stored(tmp_path / "mine", "train")
    assert [np.asarray(row["image"]).max() for row in stream] == [7, 7]
    (tmp_path / "mine" / "train" / "c.png").symlink_to(tmp_path / "else.png")
    (tmp_path / "else.png").write_bytes(FRAME)
    for load in (load_stored, lambda name: stream_stored(name, "train")):
        with pytest.warns(LinkedWarning, match="1 of its 3 files are links"):
            load(tmp_path / "mine")
    outside = "../../private.png"
    (tmp_path / "private.png").write_bytes(FRAME)
    (tmp_path / "mine" / "train" / "metadata.jsonl").write_text(json.dumps({"file_name": outside}) + "\n")
    with pytest.raises(ValueError, match=r"mine can't be loaded .*Invalid metadata file_name"):  # as `datasets` says
        load_stored(tmp_path / "mine")


def test_what_one_makes_of_files_and_stores_holds_them(tmp_path: Path, secret: Path) -> None:
    mine = datasets.Dataset.from_dict({"image": [str(secret)]}).cast_column("image", datasets.Image())
    mine.save_to_disk(str(tmp_path / "mine"))
    secret.unlink()
    assert np.asarray(load_stored(tmp_path / "mine")[0]["image"]).max() == 90


@pytest.mark.parametrize("split", ["../outside", "/tmp/outside", "..", "", None, 3, "a\nb"])
def test_splits_that_lead_elsewhere(tmp_path: Path, split: Any) -> None:
    folder = of_splits(tmp_path / "theirs", {"bytes": FRAME, "path": None})
    in_arrow(tmp_path / "outside", {"bytes": FRAME, "path": None})
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": ["train", split]}))
    with pytest.raises(ValueError, match=r"dataset_dict.json: the split .* can't be a file's name"):
        load_prepared(folder)


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        (
            "state.json",
            {"_data_files": [{"filename": "../outside/data-00000-of-00001.arrow"}]},
            "can't be a file's name",
        ),
        ("state.json", {"_data_files": [{"filename": "/etc/hostname"}]}, "can't be a file's name"),
        ("state.json", {"_data_files": [{}]}, "can't be a file's name"),
        ("state.json", {"_data_files": ["x"]}, "names no files"),
        ("state.json", {}, "names no files"),
        ("state.json", [], "state.json must hold"),
        ("dataset_info.json", {"features": 3}, "isn't as `save_to_disk` writes"),
    ],
)
def test_folders_of_a_wrong_shape(tmp_path: Path, file: str, content: Any, match: str) -> None:
    folder = in_arrow(tmp_path / "theirs", {"bytes": FRAME, "path": None})
    before = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**before, **content} if content else content))
    with pytest.raises(ValueError, match=match):
        load_stored(folder)


def test_a_folder_that_was_not_copied_whole(tmp_path: Path) -> None:
    folder = in_arrow(tmp_path / "mine", {"bytes": FRAME, "path": None})
    parent = tmp_path / "splits"
    shutil.copytree(folder, parent / "train")
    (parent / "dataset_dict.json").write_text('{"splits": ["train"]}')
    (parent / "train" / "state.json").unlink()
    with pytest.raises(ValueError, match=r"splits is damaged, or was not copied whole: there is no .*state\.json"):
        load_stored(parent)


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"splits": "train"}', '{"splits": []}', "{", "\ufeff" + '{"splits": [3]}']
)
def test_split_lists_of_a_wrong_shape(tmp_path: Path, content: str) -> None:
    (tmp_path / "dataset_dict.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"dataset_dict.json"):
        load_stored(tmp_path)


@pytest.mark.parametrize(
    "column", ["../../escaped", "/tmp/escaped", "a\\b", "..", "metadata.parquet", "x" * 300, "a\tb"]
)
def test_columns_that_lead_elsewhere(tmp_path: Path, column: str) -> None:
    content, features = rows({"bytes": FRAME, "path": None})
    theirs = datasets.Dataset.from_dict(content, features).add_column(column, content["mask"], feature=datasets.Image())
    with pytest.raises(ValueError, match=r"the column .* can't be a (file's name|folder)"):
        write_imagefolder(theirs, tmp_path / "deep" / "er" / "out")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["a", "frame 1", "é", "a.b", "..a", "2024-01-01 10:00", "x" * 200, "-", "日本"])
def test_names_that_are_files(name: str) -> None:
    assert safe_name(name, "the name") == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", " ", "...", "a/b", "a\\b", "a\0", "a\n", "\x1b[0m", "\ud800", "é" * 101, None, 3, ["a"]]
)
def test_names_that_are_none(name: Any) -> None:
    with pytest.raises(ValueError, match=r"the name .* can't be a file's name"):
        safe_name(name, "the name")


def test_what_can_not_be_streamed_is_named(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"name": ["a"]}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match=r"split 'train' of '.*saved' can't be streamed .*without `--streaming`"):
        stream_stored(tmp_path / "saved", "train")
    folder = in_parquet(tmp_path / "fine", {"bytes": FRAME, "path": "x.png"})
    with pytest.raises(ValueError, match=r"split 'nope' of '.*' can't be streamed .*name another split"):
        stream_stored(folder, "nope")
