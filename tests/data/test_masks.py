"""What the values of masks mean: for one mask, for a data set, as stated, and what is refused."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Image, load_from_disk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image as PILImage

from scalpel_hf.cli import prepare
from scalpel_hf.data import (
    IGNORED,
    LAYOUTS,
    BrokenPairsError,
    MaskValues,
    MaskValuesError,
    as_irst_dataset,
    load_irst_dataset,
    load_split,
    read_mask,
    read_row_mask,
)
from scalpel_hf.data.masks import decide_mask_values
from scalpel_hf.data.objects import encode_png
from scalpel_hf.evaluation.evaluator import evaluate_detections, evaluate_probabilities
from scalpel_hf.formats import read_masks, write_coco
from scalpel_hf.formats.voc import PALETTE
from scalpel_hf.pseudo_labels import training_mask
from scalpel_hf.training.frames import labelled_sample

CLASSES = np.zeros((9, 12), np.uint8)  # 0 background, 1 target, 2 ignored
CLASSES[2:4, 3:6] = 1
CLASSES[6:8, 8:11] = 2
EXPECTED = np.array([0, 255, IGNORED], np.uint8)[CLASSES]
labels = hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2))


def coded(*values: int, classes: np.ndarray = CLASSES, dtype: type = np.uint8) -> np.ndarray:
    return np.array(values, dtype)[classes]


def palette_png(places: np.ndarray, palette: list[int] = PALETTE) -> bytes:
    image = PILImage.fromarray(places)
    image.putpalette(palette)
    return file(image)


def file(image: PILImage.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    image = image if isinstance(image, PILImage.Image) else PILImage.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgba(colour: np.ndarray, alpha: np.ndarray) -> bytes:
    return file(np.dstack([colour] * 3 + [alpha]))


def write(folder: Path, *files: bytes) -> Path:
    """A generic data set whose masks are these files."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, content in enumerate(files):
        height, width = np.asarray(PILImage.open(BytesIO(content))).shape[:2]
        (folder / "images" / f"f{number}.png").write_bytes(encode_png(np.full((height, width), 9, np.uint8)))
        (folder / "masks" / f"f{number}.png").write_bytes(content)
    return folder


def loaded(folder: Path, **options: object) -> list[np.ndarray]:
    return [np.asarray(row["mask"]) for row in load_irst_dataset("generic", folder, split="train", **options)]


# One mask


@given(labels)
@settings(deadline=None)
def test_what_is_prepared_and_vocs_palette_read_as_they_are_meant(classes: np.ndarray) -> None:
    expected = coded(0, 255, IGNORED, classes=classes)
    assert np.array_equal(read_mask(encode_png(expected)), expected)
    assert np.array_equal(read_mask(palette_png(coded(0, 1, 255, classes=classes))), expected)


TARGET_ONLY = np.where(CLASSES == 1, 255, 0).astype(np.uint8)
BLACK, WHITE = np.zeros_like(CLASSES), np.full_like(CLASSES, 255)


@pytest.mark.parametrize(
    "content",
    [
        rgba(BLACK, TARGET_ONLY),
        rgba(WHITE, TARGET_ONLY),
        rgba(TARGET_ONLY, WHITE),
        rgba(TARGET_ONLY, TARGET_ONLY),
        file(np.dstack([BLACK, TARGET_ONLY])),
        file(np.dstack([TARGET_ONLY, BLACK, BLACK])),
        palette_png(TARGET_ONLY // 255, [0, 0, 0, 255, 0, 0]),
        file(PILImage.fromarray(TARGET_ONLY).convert("1")),
        file(np.dstack([BLACK] * 3 + [TARGET_ONLY]), "WEBP", lossless=True),
        file(np.dstack([WHITE] * 3 + [TARGET_ONLY]), "WEBP", quality=30),
        file(TARGET_ONLY // 255, "TIFF"),
        file(TARGET_ONLY.astype(np.uint16) * 257, "PNG"),
        file(TARGET_ONLY.astype(np.float32) / 255, "TIFF"),
    ],
    ids=[
        "alpha",
        "white-alpha",
        "opaque",
        "both",
        "LA",
        "red",
        "places",
        "1",
        "webp",
        "lossy",
        "tiff-01",
        "16",
        "float",
    ],
)
def test_where_the_mask_is(content: bytes) -> None:
    assert np.array_equal(read_mask(content), TARGET_ONLY)
    assert np.array_equal(read_mask(PILImage.open(BytesIO(content))), TARGET_ONLY)


@pytest.mark.parametrize(
    "content",
    [
        file(coded(0, 64, 255)),
        file(coded(0, 255, 64)),
        file(coded(0, 1, 255)),
        file(coded(0, 128, 255)),
        file(coded(0, 1, 2)),
        palette_png(coded(0, 1, 2)),
        palette_png(coded(0, 1, 1), [255, 0, 0, 0, 255, 0]),
        rgba(coded(0, 255, 0), coded(255, 0, 255)),
        rgba(coded(0, 255, 0), BLACK),
        file(np.dstack([coded(0, 255, 0), coded(0, 0, 255), BLACK])),
        file(coded(0, 0.2, 0.7, dtype=np.float32), "TIFF"),
    ],
    ids=["064", "640", "gray-voc", "trimap", "012", "voc-2", "red-first", "contradiction", "unseen", "rg", "soft"],
)
def test_a_guess_is_refused_with_the_remedy(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"--mask-values|store") as caught:
        read_mask(content)
    assert "\n" not in str(caught.value)


def test_empty_masks_of_every_kind_are_empty() -> None:
    for content in (file(BLACK), palette_png(BLACK), rgba(WHITE, BLACK), rgba(BLACK, WHITE), file(BLACK, "JPEG")):
        assert not read_mask(content).any()


@given(labels, st.permutations([0, 3, 64, 127, 200, 255]))
@settings(deadline=None)
def test_what_is_stated_counts(classes: np.ndarray, values: list[int]) -> None:
    background, target, ignored = values[:3]
    stated = MaskValues.stated([target], [str(ignored)])
    content = encode_png(coded(background, target, ignored, classes=classes))
    assert np.array_equal(read_mask(content, stated), coded(0, 255, IGNORED, classes=classes))


def test_stating() -> None:
    red = MaskValues.stated(["#ff0000"], ["#00ff00"])
    content = file(np.dstack([coded(0, 255, 0), coded(0, 0, 255), BLACK]))
    assert np.array_equal(read_mask(content, red), EXPECTED)
    assert np.array_equal(read_mask(file(coded(0, 200, 90)), MaskValues.stated([">127"])), TARGET_ONLY)
    assert MaskValues.stated(None) is None
    for target, ignored, problem in (
        (["white"], None, "'white' isn't a mask value"),
        (["nan"], None, "isn't a mask value"),
        ([">"], None, "isn't a mask value"),
        ([">127", "3"], None, "stands alone"),
        ([255, 3], [3], "mask values 3 can't be both"),
    ):
        with pytest.raises(ValueError, match=problem):
            MaskValues.stated(target, ignored)


# A data set


def test_masks_that_are_void_alone_are_so_because_of_the_others(tmp_path: Path) -> None:
    void = np.where(CLASSES == 2, 255, 0).astype(np.uint8)
    folder = write(tmp_path, palette_png(coded(0, 1, 255)), palette_png(void), palette_png(BLACK))
    with pytest.warns(
        UserWarning, match=r"3 masks, as their values say: 1 \(places in the palette\) target, .*255 nei"
    ):
        read = loaded(folder)
    assert np.array_equal(read[0], EXPECTED) and not read[2].any()
    assert np.array_equal(read[1], np.where(void, IGNORED, 0))


def test_gray_masks_of_0_1_255_are_read_when_the_ignored_value_is_stated(tmp_path: Path) -> None:
    folder = write(
        tmp_path, file(coded(0, 1, 255)), file(coded(0, 0, 255)), file(coded(0, 1, 0)), file(coded(0, 1, 255))
    )
    with pytest.raises(
        MaskValuesError, match=r"the masks' values 0, 1, 255 .*f0 \(train\): 0, 1, 255; f1 .*--ignore-value"
    ):
        loaded(folder)
    lines: list[str] = []
    read = loaded(folder, mask_values=MaskValues.stated(None, [255]), say=lines.append)
    assert np.array_equal(read[0], EXPECTED)
    assert np.array_equal(read[1], coded(0, 0, IGNORED))
    assert lines == ["4 masks, as stated: 1 target, 0 background, 255 neither"]


def test_a_mask_unlike_the_others_is_a_broken_pair(tmp_path: Path) -> None:
    plain, other = file(TARGET_ONLY), file(TARGET_ONLY // 255)
    folder = write(tmp_path, plain, plain, other)
    with pytest.raises(BrokenPairsError, match=r"f2 \(train\): its values are 0, 1, but here 255 target, 0 background"):
        loaded(folder)
    with pytest.warns(UserWarning, match="f2"):
        assert len(loaded(folder, skip_broken=True)) == 2
    assert np.array_equal(loaded(folder, mask_values=MaskValues.stated([1, 255]))[2], TARGET_ONLY)


def test_what_is_stated_and_nowhere_found_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MaskValuesError, match=r"no mask has a target pixel with: 1 target.* values are 0, 255"):
        loaded(write(tmp_path, file(TARGET_ONLY)), mask_values=MaskValues.stated([1]))


def test_gray_edges_are_cut_at_half_where_the_layout_says_so(tmp_path: Path) -> None:
    edges = [encode_png(coded(0, 255, value)) for value in (1, 64, 127, 128, 254)]
    folder = write(tmp_path, *edges)
    with pytest.raises(MaskValuesError, match="'>127'"):
        loaded(folder)
    lines: list[str] = []
    data = load_irst_dataset(LAYOUTS["irstd-1k"], folder, split_list={"train": _names(folder)}, say=lines.append)
    expected = [coded(0, 255, 255 * (value > 127)) for value in (1, 64, 127, 128, 254)]
    assert all(np.array_equal(row["mask"], mask) for row, mask in zip(data["train"], expected, strict=True))
    assert lines == [
        "5 masks, as stated: above 127 target, all others background; 5 masks hold other values than 0 and 255"
    ]


def _names(folder: Path) -> Path:
    names = folder / "names.txt"
    names.write_text("\n".join(path.stem for path in sorted((folder / "images").iterdir())))
    return names


def test_a_jpeg_among_them_is_cut_and_said() -> None:
    large = np.kron(TARGET_ONLY, np.ones((8, 8))).astype(np.uint8)
    lines: list[str] = []
    content = file(large, "JPEG", quality=80)
    values = decide_mask_values([("a", lambda: content)], say=lines.append)
    assert np.array_equal(read_mask(content, values), large)
    assert lines == ["1 masks, as their values say: 255 target, 0 background; 1 are JPEG or the like, cut at half"]


def test_a_prepared_data_set_with_wrong_cells_is_made_right_or_refused(tmp_path: Path) -> None:
    good = load_irst_dataset("generic", write(tmp_path, file(TARGET_ONLY), file(TARGET_ONLY)), split="train")
    assert as_irst_dataset(good) is good

    def with_masks(*cells: bytes | None, **columns: list) -> Dataset:
        features = good.features
        rows = good.cast_column("mask", Image(decode=False)).cast_column("image", Image(decode=False)).to_dict()
        rows["mask"] = [cell and {"bytes": cell, "path": None} for cell in cells]
        return Dataset.from_dict(rows | columns, features=features)

    ones = as_irst_dataset(with_masks(file(TARGET_ONLY // 255), file(TARGET_ONLY // 255)))
    assert np.array_equal(ones[0]["mask"], TARGET_ONLY) and ones[0]["objects"]["area"] == [6]
    with pytest.raises(BrokenPairsError, match="f1: the image has 12 × 9 pixels, its mask 9 × 12"):
        as_irst_dataset(with_masks(file(TARGET_ONLY), file(TARGET_ONLY.T.copy())))
    with pytest.raises(BrokenPairsError, match="f0: the mask is empty"):
        as_irst_dataset(with_masks(None, file(TARGET_ONLY)))
    sizes = as_irst_dataset(with_masks(*[file(TARGET_ONLY)] * 2, width=[5, 5], objects=[None, None]))
    assert sizes[1]["width"] == 12 and sizes[1]["objects"]["area"] == [6]
    for names, problem in (
        (["a", None], "without a name"),
        (["a", " "], "without a name"),
        (["a", "a"], "more than once"),
    ):
        with pytest.raises(ValueError, match=problem):
            as_irst_dataset(with_masks(*[file(TARGET_ONLY)] * 2, name=names))
    with pytest.raises(ValueError, match="no rows"):
        as_irst_dataset(good.select([]))
    ignoring = with_masks(encode_png(EXPECTED), encode_png(EXPECTED))
    again = as_irst_dataset(ignoring)
    assert np.array_equal(again[0]["mask"], EXPECTED) and as_irst_dataset(again) is again


# Those who use masks


def rows_of(content: bytes) -> Dataset:
    """Two rows of a data set that did not pass `prepare`."""
    cell = {"bytes": content, "path": None}
    image = {"bytes": encode_png(CLASSES), "path": None}
    columns = {"name": ["a", "b"], "image": [image] * 2, "mask": [cell] * 2, "label_source": ["human"] * 2}
    rows = Dataset.from_dict(columns | {"width": [12, 12], "height": [9, 9]})
    return rows.cast_column("image", Image()).cast_column("mask", Image())


@pytest.mark.parametrize("content", [file(TARGET_ONLY // 255), file(TARGET_ONLY), palette_png(coded(0, 1, 255))])
def test_every_caller_finds_the_targets(content: bytes, tmp_path: Path) -> None:
    rows = rows_of(content)
    assert evaluate_probabilities(lambda image: np.zeros(CLASSES.shape), rows)["n_targets"] == 2
    assert all(labelled_sample(row).target.sum() == 6 for row in rows)
    pytest.importorskip("pycocotools")
    assert write_coco(rows, tmp_path / "coco")["targets"] == 2


def test_what_a_human_left_open_is_neither_trained_on_nor_measured(tmp_path: Path) -> None:
    rows = rows_of(encode_png(EXPECTED))
    target, weight = training_mask(rows[0])
    assert np.array_equal(target > 0, CLASSES == 1) and np.array_equal(weight == 0, CLASSES == 2)
    metrics = evaluate_probabilities(lambda image: (CLASSES > 0).astype(np.float32), rows)
    assert metrics["iou"] == 1 and metrics["n_false_pixels"] == 0
    boxes = np.array([[3.0, 2, 6, 4], [8, 6, 11, 8]])  # on the target, and where nobody knows
    assert evaluate_detections(lambda image: (np.ones(2), boxes), rows)["precision"] == 1
    pytest.importorskip("pycocotools")
    assert write_coco(rows, tmp_path / "coco") == {"frames": 2, "targets": 2, "ignored regions": 2}


def test_errors_name_the_row() -> None:
    for content, problem in (
        (file(coded(0, 64, 255)), "a, `mask`: the meaning of its values"),
        (file(BLACK.T.copy()), "a: the frame"),
    ):
        with pytest.raises(ValueError, match=problem):
            evaluate_probabilities(lambda image: np.zeros(CLASSES.shape), rows_of(content))
        with pytest.raises(ValueError, match=problem):
            training_mask(rows_of(content)[0])
    with pytest.raises(ValueError, match="a: has no `mask`"):
        read_row_mask({"name": "a", "mask": None})


def test_prepare_says_what_masks_mean_and_takes_what_is_stated(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = write(tmp_path / "set", file(coded(0, 64, 255)), file(coded(0, 64, 255)))
    launch = ["--layout", "generic", "--root", str(folder), "--out", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="is ambiguous"):
        prepare.main(launch)
    prepare.main([*launch, "--mask-values", "64", "--ignore-value", "255"])
    assert "2 masks, as stated: 64 target, all others background, 255 neither" in capsys.readouterr().out
    assert np.array_equal(load_from_disk(tmp_path / "out")["train"][1]["mask"], EXPECTED)
    assert np.array_equal(read_row_mask(load_split(tmp_path / "out", "train")[0]), EXPECTED)
    prepare.main([*launch, "--mask-values", "0", "--overwrite"])
    assert "note: targets cover 89% of the pixels" in capsys.readouterr().out
    assert [label.ignored.sum() for label in read_masks(folder / "masks", MaskValues.stated([64], [255]))] == [6, 6]
