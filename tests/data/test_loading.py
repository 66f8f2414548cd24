import statistics
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Image, Sequence, Value, load_from_disk
from datasets.table import embed_table_storage
from PIL import Image as PILImage
from PIL import ImageOps

from scalpel_hf.data import (
    FEATURES,
    LAYOUTS,
    BrokenPairsError,
    apply_label_budget,
    as_irst_dataset,
    load_irst_dataset,
    read_frame,
)

GENERIC = LAYOUTS["generic"]


def png(width: int, height: int, colour_type: int, depth: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 0)) + chunk(b"IEND", b"")


@pytest.fixture
def wide_set(make_set, toy_pair):
    """One frame of each kind of file, and the values each must give."""
    root = make_set(GENERIC, [], {})
    rng = np.random.default_rng(3)
    gray = rng.integers(0, 256, (20, 24), dtype=np.uint8)
    deep = rng.integers(14000, 15000, (20, 24), dtype=np.uint16)
    deep[0, :2] = 0, 65535
    smooth = np.tile(np.linspace(40, 200, 24).astype(np.uint8), (20, 1))
    images = root / "images"
    rgb, kelvin = np.repeat(gray[:, :, None], 3, 2), deep.astype(np.float32) / 50
    files = {
        "gray.png": gray,
        "gray.BMP": gray,
        "gray2.tif": gray,
        "deep.png": deep,
        "deep2.tiff": deep,
        "rgb.png": rgb,
        "rgb2.bmp": rgb,
        "kelvin.tiff": kelvin,
    }
    for name, array in files.items():
        PILImage.fromarray(array).save(images / name.replace("gray.BMP", "gray3.BMP"))
    PILImage.fromarray(smooth).save(images / "soft.jpg", quality=95)
    for path in images.iterdir():
        PILImage.fromarray(toy_pair(0)[1]).save(root / "masks" / f"{path.stem}_mask.png")
    expected = {"gray": gray, "gray2": gray, "gray3": gray, "deep": deep, "deep2": deep, "rgb": gray, "rgb2": gray}
    return root, expected | {"kelvin": kelvin, "soft": np.asarray(PILImage.open(images / "soft.jpg"))}


def same_values(dataset, expected, mask):
    rows = {row["name"]: row for row in dataset}
    assert set(rows) == set(expected)
    for name, frame in expected.items():
        read = read_frame(rows[name]["image"])
        assert read.dtype == frame.dtype, name
        assert np.array_equal(read, frame), name
        assert rows[name]["mask"].mode == "L"
        assert np.array_equal(np.asarray(rows[name]["mask"]), mask), name


def test_every_kind_of_file_keeps_its_values_through_disk_parquet_and_embedding(wide_set, toy_pair, tmp_path):
    root, expected = wide_set
    mask = toy_pair(0)[1]
    data = load_irst_dataset("generic", root)
    same_values(data["train"], expected, mask)

    data.save_to_disk(tmp_path / "saved")
    data["train"].to_parquet(tmp_path / "data.parquet")
    embedded = embed_table_storage(data["train"].with_format("arrow")[:])
    for file in root.rglob("*.*"):
        file.unlink()  # the content must be in the data set itself
    same_values(load_from_disk(tmp_path / "saved")["train"], expected, mask)
    same_values(load_irst_dataset("hub", tmp_path / "saved", split="train"), expected, mask)
    same_values(load_irst_dataset("hub", tmp_path / "data.parquet")["train"], expected, mask)
    same_values(Dataset(embedded), expected, mask)


def test_rows(make_set, toy_pair):
    root = make_set(GENERIC, ["one", "two"], {})
    data = load_irst_dataset("generic", root)
    assert isinstance(data, DatasetDict)
    assert data["train"].features == FEATURES
    row = data["train"][1]
    frame, mask = toy_pair(1)
    assert (row["name"], row["width"], row["height"]) == ("two", 24, 20)
    y, x = np.argwhere(mask).min(axis=0)
    assert row["objects"] == {"bbox": [[x, y, 3, 2]], "area": [6], "category": [0]}
    assert data["train"].features["objects"]["category"].feature.names == ["target"]
    raw = data["train"].cast_column("image", Image(decode=False))[1]["image"]
    assert raw == {"bytes": (root / "images" / "two.png").read_bytes(), "path": "two.png"}  # byte for byte
    assert np.array_equal(read_frame(raw), frame)


def save_turned(path, frame, orientation):
    exif = PILImage.Exif()
    exif[PILImage.ExifTags.Base.Orientation] = orientation
    PILImage.fromarray(frame).save(path, exif=exif)


@pytest.fixture
def turned(make_set, toy_pair):
    """A data set of one frame whose file asks to be turned, and what it shows."""

    def make(orientation, mask_is="stored", shape=(20, 24)):
        root = make_set(GENERIC, ["one"], {})
        frame, mask = toy_pair(0, shape)
        save_turned(root / "images" / "one.png", frame, orientation)
        with PILImage.open(root / "images" / "one.png") as image:
            shown = np.asarray(ImageOps.exif_transpose(image))
        shown_mask = np.where(shown == 200, np.uint8(255), np.uint8(0))  # what the target is painted with
        assert np.count_nonzero(shown_mask) == np.count_nonzero(mask)
        PILImage.fromarray(shown_mask if mask_is == "shown" else mask).save(root / "masks" / "one.png")
        return root, shown, shown_mask

    return make


@pytest.mark.parametrize("mask_is", ["shown", "stored"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_frames_are_as_shown_and_masks_lie_on_their_targets(orientation, mask_is, turned):
    root, shown, mask = turned(orientation, mask_is)
    given = mask_is if orientation < 5 else None  # else their sizes say it
    row = load_irst_dataset("generic", root, split="train", mask_grid=given)[0]
    assert np.array_equal(np.asarray(row["image"]), shown) and np.array_equal(read_frame(row["image"]), shown)
    assert np.array_equal(np.asarray(row["mask"]), mask)
    assert (row["height"], row["width"]) == shown.shape
    assert not row["image"].getexif().get(PILImage.ExifTags.Base.Orientation)


@pytest.mark.parametrize(("orientation", "shape"), [(2, (20, 24)), (3, (20, 24)), (4, (20, 24)), (6, (20, 20))])
def test_what_a_mask_is_drawn_on_is_asked_where_its_size_does_not_say_it(orientation, shape, turned):
    root, *_ = turned(orientation, shape=shape)
    with pytest.raises(BrokenPairsError, match=rf"one \(train\): .*orientation {orientation}.* --mask-grid"):
        load_irst_dataset("generic", root)
    # A mask that asks to be turned as its frame does has been drawn on the frame as shown.
    with PILImage.open(root / "masks" / "one.png") as image:
        mask = np.asarray(image)
    save_turned(root / "masks" / "one.png", mask, orientation)
    row = load_irst_dataset("generic", root, split="train")[0]
    assert np.array_equal(np.asarray(row["mask"]) > 0, np.asarray(row["image"]) == 200)


def test_a_mask_that_fits_neither_way(turned):
    root, *_ = turned(6)
    PILImage.new("L", (21, 24)).save(root / "masks" / "one.png")
    with pytest.raises(BrokenPairsError, match="the image has 20 × 24 pixels, its mask 24 × 21"):
        load_irst_dataset("generic", root)


def other_size(root):
    PILImage.new("L", (30, 20)).save(root / "masks" / "bad.png")


def missing_mask(root):
    (root / "masks" / "bad.png").unlink()


def truncated(root):
    path = root / "images" / "bad.png"
    path.write_bytes(path.read_bytes()[:200])


def not_an_image(root):
    (root / "masks" / "bad.png").write_text("hello")


def bomb(root):
    (root / "images" / "bad.png").write_bytes(png(60000, 60000, 0, 8, b""))


def deep_colour(root):
    (root / "images" / "bad.png").write_bytes(png(24, 20, 2, 16, (b"\0" + bytes(24 * 6)) * 20))


def missing_image(root):
    (root / "images" / "bad.png").unlink()


def two_files(root):
    PILImage.new("L", (24, 20)).save(root / "images" / "bad.bmp")


def dim_mask(root):
    PILImage.new("L", (24, 20), 38).save(root / "masks" / "bad.png")


BREAKAGES = {
    other_size: r"bad \(train\): the image has 24 × 20 pixels, its mask 30 × 20",
    missing_mask: r"bad \(train\): no mask bad or bad_mask or bad_pixels0 for .*bad.png",
    truncated: r"bad \(train\): .*bad.png.*truncated",
    not_an_image: r"bad \(train\): .*masks.bad.png.*not an image",
    bomb: r"bad \(train\): .*bad.png.*too large",
    deep_colour: r"bad \(train\): .*bad.png.*16-bit gray",
    missing_image: r"bad \(train\): no such image",
    two_files: r"bad \(train\): several files: .*bad.bmp, .*bad.png",
    dim_mask: r"bad \(train\): its values are 38, but here 255 target, 0 background",
}


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.__name__)
def test_broken_pairs(breakage, make_set):
    root = make_set(GENERIC, ["good", "bad", "fine"], {"train.txt": ["good", "bad"], "test.txt": ["fine"]})
    breakage(root)
    with pytest.raises(BrokenPairsError, match=r"1 broken pair in .*set:\n  " + BREAKAGES[breakage]) as caught:
        load_irst_dataset("generic", root)
    assert "skip_broken=True" in str(caught.value)
    assert "--skip-broken" in str(caught.value)
    with pytest.warns(UserWarning, match=r"skipped 1 broken pair in .*set:\n  " + BREAKAGES[breakage]):
        data = load_irst_dataset("generic", root, skip_broken=True)
    assert {split: part["name"][:] for split, part in data.items()} == {"train": ["good"], "test": ["fine"]}
    assert load_irst_dataset("generic", root, split="test")["name"][:] == ["fine"]  # that split is whole


def test_all_broken_is_an_error_even_when_skipping(make_set):
    root = make_set(GENERIC, ["bad", "fine"], {"train.txt": ["bad"], "test.txt": ["fine"]})
    missing_mask(root)
    with pytest.warns(UserWarning), pytest.raises(BrokenPairsError, match="no usable pair is left in train"):
        load_irst_dataset("generic", root, skip_broken=True)


@pytest.fixture
def foreign(toy_pair) -> Dataset:
    n = 4
    frames, masks = zip(*(toy_pair(seed) for seed in range(n)), strict=True)
    columns = {
        "image": [PILImage.fromarray(frame) for frame in frames],
        "mask": [PILImage.fromarray(mask // 255) for mask in masks],
        "sensor": ["lwir"] * n,
    }
    return Dataset.from_dict(columns).cast_column("image", Image()).cast_column("mask", Image())


def test_a_foreign_data_set_gets_our_features_and_keeps_its_columns(foreign, toy_pair, tmp_path):
    foreign.to_parquet(tmp_path / "data.parquet")
    data = load_irst_dataset("hub", tmp_path / "data.parquet", split="train")
    assert data.column_names == [*FEATURES, "sensor"]
    assert {column: data.features[column] for column in FEATURES} == FEATURES
    assert data["name"][:] == ["000000", "000001", "000002", "000003"]
    for seed, row in enumerate(data):
        frame, mask = toy_pair(seed)
        assert np.array_equal(np.asarray(row["image"]), frame)
        assert np.array_equal(np.asarray(row["mask"]), mask)
        assert row["objects"]["area"] == [6]


def test_a_foreign_data_set_of_paths(make_set):
    root = make_set(GENERIC, ["one", "two"], {})
    files = {"image": [str(root / "images" / f"{n}.png") for n in ("one", "two")]}
    files["mask"] = [str(root / "masks" / f"{n}.png") for n in ("one", "two")]
    data = as_irst_dataset(Dataset.from_dict(files | {"name": ["one", "two"]}))
    expected = load_irst_dataset("generic", root, split="train")
    assert data["objects"][:] == expected["objects"][:]
    assert data.cast_column("image", Image(decode=False))[0] | {"mask": 0} == expected.cast_column(
        "image", Image(decode=False)
    )[0] | {"mask": 0}


def test_foreign_data_sets_that_cannot_be_used(foreign):
    with pytest.raises(ValueError, match=r"column 'mask' must hold images, here it is None; the columns are image, gt"):
        as_irst_dataset(foreign.rename_columns({"mask": "gt"}))
    with pytest.raises(ValueError, match="column 'mask' must hold images"):
        as_irst_dataset(foreign.remove_columns("mask").add_column("mask", [1, 2, 3, 4]))
    with pytest.raises(ValueError, match="names occur more than once"):
        as_irst_dataset(foreign.add_column("name", ["a", "b", "a", "c"]))
    holes = foreign.cast_column("mask", Image(decode=False))
    holes = holes.map(lambda row, i: {"mask": None if i == 2 else row["mask"]}, with_indices=True)
    with pytest.raises(BrokenPairsError, match="000002: the mask is empty"):
        as_irst_dataset(holes)
    with pytest.warns(UserWarning, match="000002"):
        assert as_irst_dataset(holes, skip_broken=True)["name"][:] == ["000000", "000001", "000003"]
    labelled = holes.add_column("label_source", ["human", "human", "none", "human"])
    assert as_irst_dataset(labelled)[2]["objects"] is None


def test_a_prepared_data_set_is_taken_as_it_is(make_set, tmp_path):
    data = load_irst_dataset("generic", make_set(GENERIC, ["one", "two", "three"], {}), split="train")
    data = apply_label_budget(data, 0.4)
    assert as_irst_dataset(data) is data
    data.save_to_disk(tmp_path / "saved")
    again = load_irst_dataset("hub", tmp_path / "saved")["train"]
    assert again.features == data.features
    assert again["label_source"][:] == data["label_source"][:]
    with pytest.raises(ValueError, match="split_list"):
        load_irst_dataset("hub", tmp_path / "saved", split_list="official-427")


def test_features_are_the_documented_ones():
    assert list(FEATURES) == ["name", "image", "mask", "objects", "width", "height"]
    assert FEATURES["objects"]["bbox"] == Sequence(Sequence(Value("float32")))
    buffer = BytesIO()
    PILImage.new("L", (4, 4)).save(buffer, "PNG")
    assert FEATURES["mask"].decode_example({"bytes": buffer.getvalue(), "path": None}).mode == "L"


def median_area(dataset: Dataset) -> float:
    return statistics.median(area for objects in dataset["objects"] for area in objects["area"])


def test_nuaa_sirst(shared_dir):
    root = shared_dir / "data" / "NUAA-SIRST"
    with pytest.raises(BrokenPairsError, match=r"1 broken pair .*\n  Misc_111 \(test\): the image has"):
        load_irst_dataset("nuaa-sirst", root)
    with pytest.warns(UserWarning, match="Misc_111"):
        data = load_irst_dataset("nuaa-sirst", root, skip_broken=True)
    assert {split: len(part) for split, part in data.items()} == {"train": 341, "test": 85}
    assert statistics.median(a for part in data.values() for o in part["objects"] for a in o["area"]) == 20
    assert len(load_irst_dataset("nuaa-sirst", root, split="train", split_list="official-427-val")) == 256
    assert len(load_irst_dataset("nuaa-sirst", root, split="train", split_list="official-320")) == 224
    assert len(load_irst_dataset("nuaa-sirst", root, split="train", split_list="dnanet-50-50")) == 213
    budget = apply_label_budget(data["train"], 0.1)
    assert budget["label_source"][:].count("human") == 34


def test_nudt_sirst(shared_dir):
    data = load_irst_dataset("nudt-sirst", shared_dir / "data" / "NUDT-SIRST")
    assert {split: len(part) for split, part in data.items()} == {"train": 663, "test": 664}
    assert median_area(data["test"]) == 20
    assert set(data["train"]["width"]) == {256}
