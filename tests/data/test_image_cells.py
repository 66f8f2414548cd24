"""A frame is the same before and after every step that stores it, whatever its file, and without its file."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from scalpel_hf import formats
from scalpel_hf.data import load_irst_dataset
from scalpel_hf.data.image_cells import stored_cell, undecoded
from scalpel_hf.evaluation.evaluator import predictions_and_masks
from scalpel_hf.formats.human_labels import HumanLabel, import_human_labels
from scalpel_hf.modeling.frame_io import is_plain_file, read_frame
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor
from scalpel_hf.pseudo_labels import add_pseudo_labels, label_in_shards
from scalpel_hf.training.knowledge_transfer import StudentSamples
from tests.modeling.test_frame_io import KINDS, saved
from tests.pseudo_labels.helpers import FakeTeacher

FILES = {f"{kind}-{turn}": (kind, turn) for kind in KINDS for turn in range(1, 9)}
Frames = dict[str, np.ndarray]


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Path, Frames]:
    """A file of every kind in every orientation, with masks of the frames as shown, and what each file shows."""
    images, frames = tmp_path / "set" / "images", {}
    images.mkdir(parents=True)
    (tmp_path / "set" / "masks").mkdir()
    for name, (kind, turn) in FILES.items():
        path = images / f"{name}.{KINDS[kind][1].lower()}"
        path.write_bytes(saved(kind, turn))
        frames[name] = read_frame(path)
        mask = np.zeros(frames[name].shape, np.uint8)
        mask[0, 0] = 255
        Image.fromarray(mask).save(tmp_path / "set" / "masks" / f"{name}.png")
    return tmp_path / "set", frames


def of_paths(root: Path) -> datasets.Dataset:
    """An image folder as `datasets` makes it, of paths."""
    paths = sorted((root / "images").iterdir())
    columns = {
        "name": [path.stem for path in paths],
        "image": [str(path) for path in paths],
        "mask": [None] * len(paths),
        "label_source": ["none"] * len(paths),
    }
    image = datasets.Image()
    text = datasets.Value("string")
    features = datasets.Features({"name": text, "image": image, "mask": image, "label_source": text})
    return datasets.Dataset.from_dict(columns, features)


def prepared(root: Path, tmp_path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_irst_dataset("generic", root, split="train", mask_grid="shown")


def labelled(root: Path, tmp_path: Path) -> Any:
    return add_pseudo_labels(of_paths(root), FakeTeacher(), keep_in_memory=True)


def in_shards(root: Path, tmp_path: Path) -> Any:
    return label_in_shards(of_paths(root), FakeTeacher(), tmp_path / "out", report=lambda _: None)


def streamed(root: Path, tmp_path: Path) -> Any:
    stream = datasets.load_dataset("imagefolder", data_dir=str(root / "images"), split="train", streaming=True)
    names = [path.stem for path in sorted((root / "images").iterdir())]
    label_in_shards(stream, FakeTeacher(), tmp_path / "out", report=lambda _: None)
    result = datasets.load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    return result.remove_columns("name").add_column("name", names)


def as_parquet(root: Path, tmp_path: Path) -> Any:
    formats.write_parquet(of_paths(root), tmp_path / "out")
    files = str(tmp_path / "out" / "data.parquet")
    return datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))


def exported_and_prepared(root: Path, tmp_path: Path) -> Any:
    formats.write_masks(prepared(root, tmp_path).add_column("label_source", ["human"] * len(FILES)), tmp_path / "out")
    return load_irst_dataset("generic", tmp_path / "out", split="train")


def imagefolder(root: Path, tmp_path: Path) -> Any:
    formats.write_imagefolder(prepared(root, tmp_path), tmp_path / "out")
    return datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")
    )


def imported(root: Path, tmp_path: Path) -> Any:
    rows = prepared(root, tmp_path).add_column("label_source", ["none"] * len(FILES))
    name = rows["name"][0]
    label = HumanLabel(name, np.zeros((rows["height"][0], rows["width"][0]), bool), "here")
    return import_human_labels(rows, [label], keep_in_memory=True)


STEPS = [prepared, labelled, in_shards, streamed, as_parquet, exported_and_prepared, imagefolder, imported]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_frames_stay_what_they_are(
    step: Callable[[Path, Path], Any], folder: tuple[Path, Frames], tmp_path: Path
) -> None:
    root, frames = folder
    rows = step(root, tmp_path)
    shutil.rmtree(root)  # or moved, or overwritten with other frames
    assert sorted(rows["name"]) == sorted(frames)
    for decoded, raw in zip(rows, undecoded(rows), strict=True):
        expected = frames[raw["name"]]
        np.testing.assert_array_equal(read_frame(raw["image"]), expected)
        np.testing.assert_array_equal(read_frame(decoded["image"]), expected)
        if raw["image"]["bytes"] is not None:  # `datasets` keeps an imagefolder's paths
            assert is_plain_file(raw["image"]["bytes"])  # for whoever knows nothing of orientations
        if raw.get("pseudo_confidence"):
            assert read_frame(raw["pseudo_confidence"]).shape == expected.shape
            answer = FakeTeacher().probabilities(expected)
            np.testing.assert_array_equal(read_frame(raw["pseudo_confidence"]), np.rint(answer * 255))
        if step in (prepared, exported_and_prepared):
            assert read_frame(raw["mask"])[0, 0] == 255 and read_frame(raw["mask"]).shape == expected.shape


def test_cells_that_need_no_change_keep_their_bytes(tmp_path: Path) -> None:
    for kind in KINDS:
        content = saved(kind, 1)
        assert stored_cell({"bytes": content, "path": "a/b.any"}) == {"bytes": content, "path": "b.any"}
        (tmp_path / "f.any").write_bytes(content)
        cell = stored_cell({"bytes": None, "path": str(tmp_path / "f.any")})
        assert cell == {"bytes": content, "path": "f.any"}
    for broken in (b"", b"no image", saved("png", 6)[:60]):
        assert stored_cell({"bytes": broken, "path": None}) == {"bytes": broken, "path": None}


def test_cells_that_lead_nowhere(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        stored_cell({"bytes": None, "path": str(tmp_path / "gone.png")})
    with pytest.raises(ValueError, match="neither bytes nor a path"):
        stored_cell({"bytes": None, "path": None})
    rows = datasets.Dataset.from_dict({"name": ["a"], "image": [{"bytes": None, "path": str(tmp_path / "gone.png")}]})
    rows = rows.cast_column("image", datasets.Image())
    with pytest.raises(OSError, match=r"image of a: .*gone\.png"):
        formats.write_parquet(rows, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_colours_and_palettes_of_turned_pictures_stay(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in (
        Image.fromarray(colour),
        Image.fromarray(colour).quantize(8),
        Image.fromarray(colour).convert("RGBA"),
    ):
        image.save(tmp_path / "f.png", exif=exif)
        cell = stored_cell({"bytes": None, "path": str(tmp_path / "f.png")})
        with Image.open(tmp_path / "f.png") as before:
            expected = np.rot90(np.asarray(before.convert("RGBA")), -1)
        (tmp_path / "g.png").write_bytes(cell["bytes"])
        with Image.open(tmp_path / "g.png") as after:
            assert after.mode == image.mode and not after.getexif()
            np.testing.assert_array_equal(np.asarray(after.convert("RGBA")), expected)


def test_nobody_but_the_reader_decodes_a_data_sets_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """An EPS file in a data set from elsewhere, for which Pillow would start Ghostscript."""

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", never)
    content = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 12\n%%EndComments\nshowpage\n%%EOF\n"
    mask = np.full((12, 20), 255, np.uint8)
    png = formats.mask_files.encode_png(mask)
    rows = datasets.Dataset.from_dict(
        {
            "name": ["a"],
            "image": [{"bytes": content, "path": "a.png"}],
            "mask": [{"bytes": png, "path": "a.png"}],
            "label_source": ["human"],
        }
    )
    rows = rows.cast_column("image", datasets.Image()).cast_column("mask", datasets.Image())
    takers: list[Callable[[], Any]] = [
        lambda: list(predictions_and_masks(lambda frame: read_frame(frame) > 0, rows)),
        lambda: StudentSamples(rows, InfraredImageProcessor(), 8, 0)[0],
        lambda: add_pseudo_labels(
            rows.remove_columns("label_source").add_column("label_source", ["none"]), FakeTeacher()
        ),
    ]
    for take in takers:
        with pytest.raises((OSError, ValueError), match=r"a\.png: .*not an image of the kinds"):
            take()
