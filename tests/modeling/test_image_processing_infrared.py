import struct
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, PretrainedConfig

from scalpel_hf.modeling.image_processing_infrared import (
    InfraredImageProcessor,
    normalize_frame,
    read_frame,
    to_sam_input,
)
from scalpel_hf.modeling.normalization import NORMALIZATIONS


@pytest.fixture
def gray() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (19, 31), dtype=np.uint8)


@pytest.fixture
def thermal() -> np.ndarray:
    """16-bit scene of counts from 14000 to 15000, which Pillow's conversion to RGB would make all 255."""
    return np.random.default_rng(1).integers(14000, 15001, (19, 31), dtype=np.uint16)


def zscore(frame: np.ndarray) -> np.ndarray:
    frame = frame.astype(np.float64)
    return (frame - frame.mean()) / frame.std()


def pixels(images: Any, **options: Any) -> np.ndarray:
    return InfraredImageProcessor(**options)(images, return_tensors="np").pixel_values


def test_8_bits_of_any_kind_are_one_frame(gray: np.ndarray, tmp_path: Path) -> None:
    image = Image.fromarray(gray)
    rgb = np.stack([gray] * 3, axis=-1)
    paths = []
    for suffix in ("png", "bmp", "tif"):
        paths.append(tmp_path / f"frame.{suffix}")
        image.save(paths[-1])
    same: list[Any] = [
        image,
        image.convert("RGB"),
        image.convert("RGBA"),
        image.convert("LA"),
        image.convert("I"),
        image.convert("F"),
        image.convert("P"),
        gray,
        gray[..., None],
        gray[None],
        rgb,
        np.moveaxis(rgb, 2, 0),
        gray.astype(np.float32),
        gray.astype(np.int64),
        np.asfortranarray(gray),
        torch.tensor(gray),
        torch.tensor(gray)[None].float(),
        torch.tensor(gray).bfloat16(),
        str(paths[0]),
        *paths,
        paths[0].read_bytes(),
        {"bytes": None, "path": str(paths[0])},
        {"bytes": paths[0].read_bytes(), "path": None},
    ]
    expected = zscore(gray)
    for item in same:
        values = pixels(item)
        assert values.shape == (1, 1, 19, 31) and values.dtype == np.float32
        np.testing.assert_array_equal(values, pixels(gray))
    np.testing.assert_allclose(pixels(gray)[0, 0], expected, atol=1e-6)


def test_inverted_palette_is_looked_up(gray: np.ndarray) -> None:
    image = Image.fromarray(255 - gray)
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([255 - i // 3 for i in range(768)])
    np.testing.assert_array_equal(read_frame(image), gray)


def test_16_bits_are_neither_clipped_nor_constant(thermal: np.ndarray, tmp_path: Path) -> None:
    image = Image.fromarray(thermal)
    assert image.mode == "I;16"
    image.save(tmp_path / "frame.png")
    image.save(tmp_path / "frame.tif")
    same = [
        image,
        Image.fromarray(thermal.astype(np.int32)),
        Image.fromarray(thermal.astype(np.float32)),
        thermal,
        thermal.astype(">u2"),
        np.stack([thermal] * 3),
        torch.tensor(thermal.astype(np.int32)),
        torch.from_numpy(thermal),
        tmp_path / "frame.png",
        tmp_path / "frame.tif",
    ]
    for item in same:
        np.testing.assert_array_equal(read_frame(item), thermal)
        np.testing.assert_allclose(pixels(item)[0, 0], zscore(thermal), atol=1e-6)
    assert read_frame(image).dtype == read_frame(tmp_path / "frame.png").dtype == np.uint16
    low, high = np.percentile(thermal, (2, 98))
    values = pixels(thermal, normalization="percentile", percentiles=(2, 98))
    np.testing.assert_allclose(values[0, 0], (thermal - low) / (high - low), atol=1e-6)
    assert values.min() < 0 and values.max() > 1


def test_colour_becomes_luma(tmp_path: Path) -> None:
    colour = np.random.default_rng(2).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "frame.png")
    frame = read_frame(tmp_path / "frame.png")
    assert frame.dtype == np.uint8
    reference = np.asarray(Image.fromarray(colour).convert("L"), dtype=int)
    assert np.abs(frame - reference).max() <= 1  # Pillow rounds in fixed point
    for same in (Image.fromarray(colour), colour, np.moveaxis(colour, 2, 0), torch.tensor(colour)):
        np.testing.assert_array_equal(read_frame(same), frame)
    np.testing.assert_allclose(read_frame(colour / 255), colour @ [0.299, 0.587, 0.114] / 255)


def test_one_bit_images() -> None:
    mask = np.random.default_rng(3).random((5, 7)) > 0.5
    np.testing.assert_array_equal(read_frame(Image.fromarray(mask)), mask * np.uint8(255))
    np.testing.assert_array_equal(read_frame(mask), mask * np.uint8(255))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_constant_frames_are_zeros(normalization: str) -> None:
    for frame in (np.full((6, 7), 14321, np.uint16), np.full((6, 7), 0.1), np.zeros((1, 1), np.uint8)):
        assert not pixels(frame, normalization=normalization).any()


def test_a_lone_star_survives_coinciding_percentiles() -> None:
    frame = np.full((64, 64), 20, np.uint8)
    frame[10, 12] = 220
    values = pixels(frame, normalization="percentile")[0, 0]
    assert values[10, 12] == 1 and np.count_nonzero(values) == 1


def test_normalize_frame_in_float32_keeps_the_digits(thermal: np.ndarray) -> None:
    frame = torch.from_numpy(thermal.astype(np.float32))
    np.testing.assert_allclose(normalize_frame(frame), zscore(thermal), atol=1e-5)
    for percentiles in ((1.0, 99.0), (0.0, 100.0), (33.3, 66.7)):
        low, high = np.percentile(thermal, percentiles)
        values = normalize_frame(frame, "percentile", percentiles)
        np.testing.assert_allclose(values, (thermal - low) / (high - low), atol=1e-5)
    expected = 8 * (thermal - thermal.mean()) / float(thermal.max() - thermal.min())
    np.testing.assert_allclose(normalize_frame(frame, "range"), expected, atol=1e-5)


def test_linear_changes_of_the_sensor_change_nothing(thermal: np.ndarray) -> None:
    frame = torch.from_numpy(thermal.astype(np.float64))
    for normalization in NORMALIZATIONS:
        torch.testing.assert_close(
            normalize_frame(frame * 0.037 - 400, normalization), normalize_frame(frame, normalization)
        )
    torch.testing.assert_close(
        to_sam_input(normalize_frame(frame), 64)[0], to_sam_input(frame, 64)[0], atol=1e-5, rtol=0
    )


def test_batches(gray: np.ndarray) -> None:
    frames = [np.roll(gray, shift) for shift in range(3)]
    processor = InfraredImageProcessor()
    batch = processor(frames, return_tensors="pt")
    assert batch.pixel_values.shape == (3, 1, 19, 31) and batch.pixel_values.dtype == torch.float32
    assert batch.original_sizes.tolist() == [[19, 31]] * 3
    stacked = np.stack(frames)[:, None]
    for same in (tuple(frames), stacked, torch.tensor(stacked), np.moveaxis(stacked, 1, 3)):
        assert torch.equal(processor(same, return_tensors="pt").pixel_values, batch.pixel_values)
    lists = processor(frames)
    assert isinstance(lists.pixel_values, list) and lists.pixel_values[1].shape == (1, 19, 31)
    single = processor(frames[1], return_tensors="pt")
    assert torch.equal(single.pixel_values[0], batch.pixel_values[1])


def test_different_sizes(gray: np.ndarray) -> None:
    frames = [gray, gray[:11, :29], gray.T]
    processor = InfraredImageProcessor()
    with pytest.raises(ValueError, match=r"\(11, 29\), \(19, 31\), \(31, 19\).*do_pad=True"):
        processor(frames, return_tensors="pt")
    assert [values.shape for values in processor(frames).pixel_values] == [(1, 19, 31), (1, 11, 29), (1, 31, 19)]
    batch = processor(frames, do_pad=True, return_tensors="pt")
    assert batch.pixel_values.shape == (3, 1, 31, 31)
    assert batch.original_sizes.tolist() == [[19, 31], [11, 29], [31, 19]]
    small = processor(frames[1], return_tensors="pt").pixel_values[0, 0]
    padded = batch.pixel_values[1, 0]
    assert torch.equal(padded[:11, :29], small)
    assert (padded[11:, :29] == small[-1]).all() and (padded[:11, 29:] == small[:, -1:]).all()


@pytest.mark.parametrize("shape", [(240, 320), (320, 240), (37, 100), (600, 512), (64, 64), (2, 300)])
def test_sam_input(shape: tuple[int, int]) -> None:
    size = 64
    frame = np.random.default_rng(4).integers(14000, 15001, shape).astype(np.uint16)
    batch = InfraredImageProcessor(sam_size=size)([frame, frame[::-1]], return_tensors="pt")
    assert batch.pixel_values.shape == (2, 3, size, size) and batch.frames.shape == (2, 1, *shape)
    np.testing.assert_allclose(batch.frames[0, 0], zscore(frame), atol=1e-6)
    height, width = batch.reshaped_input_sizes[0].tolist()
    assert max(height, width) == size
    assert (height, width) == tuple(max(1, int(side * size / max(shape) + 0.5)) for side in shape)
    assert batch.frame_boxes[0].tolist() == [0, 0, width, height]
    assert batch.frame_boxes.dtype == torch.float32

    mean, std = (torch.tensor(v)[:, None, None] for v in ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)))
    gray = batch.pixel_values[0] * std + mean
    inside = gray[:, :height, :width]
    torch.testing.assert_close(inside[0], inside[2], atol=1e-3, rtol=0)
    assert inside.min() > -1e-3 and inside.max() < 255.001
    assert not batch.pixel_values[:, :, height:].any() and not batch.pixel_values[:, :, :, width:].any()
    if max(shape) == size:  # no resizing: the values are the linear map of [min, max] to [0, 255]
        expected = (frame.astype(float) - frame.min()) / (int(frame.max()) - int(frame.min())) * 255
        np.testing.assert_allclose(inside[1], expected, atol=1e-3)


def test_sam_input_shrinks_with_antialiasing() -> None:
    frame = torch.zeros(256, 256)
    frame[::2] = 1
    values, _ = to_sam_input(frame, 64)
    middle = (values[0, 2:-2, 2:-2] * 58.395 + 123.675) / 255
    assert (middle - 0.5).abs().max() < 0.05


def test_sam_boxes_cover_padded_frames(gray: np.ndarray) -> None:
    batch = InfraredImageProcessor(sam_size=62, do_pad=True)([gray, gray[:, :15]], return_tensors="pt")
    assert batch.frames.shape == (2, 1, 19, 31)
    assert batch.frame_boxes[0].tolist() == [0, 0, 62, 38]
    height, width = batch.reshaped_input_sizes[1].tolist()
    assert (height, width) == (62, 49)
    torch.testing.assert_close(batch.frame_boxes[1], torch.tensor([0, 0, 49 * 31 / 15, 62]))


def test_constant_frame_for_sam() -> None:
    values, box = to_sam_input(torch.full((8, 4), 7.0), 16)
    assert torch.isfinite(values).all() and box.tolist() == [0, 0, 8, 16]


def test_save_and_load(tmp_path: Path, thermal: np.ndarray) -> None:
    processor = InfraredImageProcessor(normalization="percentile", percentiles=(5, 95), sam_size=64)
    processor.save_pretrained(tmp_path)
    assert (tmp_path / "preprocessor_config.json").is_file()
    loaded = InfraredImageProcessor.from_pretrained(tmp_path)
    assert loaded.to_dict() == processor.to_dict() and loaded.percentiles == (5, 95)
    ours, theirs = (p(thermal, return_tensors="pt") for p in (processor, loaded))
    assert set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    changed = InfraredImageProcessor.from_pretrained(tmp_path, normalization="zscore", sam_size=None)
    assert (changed.normalization, changed.sam_size) == ("zscore", None)

    class FrameConfig(PretrainedConfig):
        model_type = "frame_config_of_a_test"

    AutoImageProcessor.register(FrameConfig, InfraredImageProcessor, exist_ok=True)
    auto = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(auto) is InfraredImageProcessor and auto.to_dict() == processor.to_dict()


@pytest.mark.parametrize(
    "options",
    [
        {"normalization": "minmax"},
        {"sam_size": 0},
        *({"percentiles": value} for value in ((99, 1), (0, 101), ("1", 99), (1, None), "ab", 5, (float("nan"), 2))),
    ],
)
def test_wrong_settings(options: dict[str, Any], gray: np.ndarray) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        InfraredImageProcessor(**options)
    with pytest.raises(ValueError, match=next(iter(options))):
        InfraredImageProcessor()(gray, **options)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros(5), r"Shape \(5,\) isn't that of a frame"),
        (np.zeros((4, 5, 6)), r"\(4, 5, 6\) isn't that of a frame"),
        (np.zeros((5, 6, 7), np.uint8), "several as a list"),
        (np.zeros((1, 7, 3)), "first or last"),
        (np.zeros((0, 5)), "must have pixels"),
        (np.array([[0, np.nan]]), "NaN or infinite"),
        (np.array([[0, np.inf]]), "NaN or infinite"),
        (np.zeros((2, 2), complex), "numeric dtype"),
        (np.array([["a"]]), "numeric dtype"),
        (3.5, "got float"),
        (None, "got NoneType"),
    ],
)
def test_wrong_images(image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"Image 1: .*{message}"):
        InfraredImageProcessor()([np.zeros((2, 2)), image])


def test_nothing_to_process() -> None:
    with pytest.raises(ValueError, match="no image"):
        InfraredImageProcessor()([])


def test_missing_and_broken_files_are_named(gray: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        read_frame(tmp_path / "nowhere.png")
    whole = tmp_path / "whole.png"
    Image.fromarray(np.tile(gray, (9, 9))).save(whole)
    content = whole.read_bytes()
    for name, broken in {
        "truncated.png": content[: len(content) // 2],
        "header.png": content[:20],
        "empty.png": b"",
        "text.png": b"no image at all",
    }.items():
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(OSError, match=name):
            read_frame(tmp_path / name)
        with pytest.raises(OSError, match="given as bytes"):
            read_frame(broken)


def test_fuzzed_files_give_clean_errors(gray: np.ndarray, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for suffix in ("png", "tif", "bmp", "jpg"):
        path = tmp_path / f"frame.{suffix}"
        Image.fromarray(gray).save(path)
        content = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            fuzzed = content.copy()
            where = rng.integers(0, len(fuzzed), size=6)
            fuzzed[where] = rng.integers(0, 256, size=6)
            path.write_bytes(fuzzed.tobytes())
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    frame = read_frame(path)
            except (OSError, ValueError) as error:
                assert path.name in str(error)
            else:
                assert frame.ndim == 2 and frame.size


def png_bomb(side: int) -> bytes:
    """A PNG of some hundred bytes that claims `side` x `side` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [60_000, 11_000])  # beyond Pillow's error, and between its warning and its error
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs_are_refused(side: int, tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_bomb(side))
    with pytest.raises(OSError, match=r"bomb\.png: too large.*MAX_IMAGE_PIXELS"):
        read_frame(tmp_path / "bomb.png")


def test_files_that_would_lose_something_are_refused(gray: np.ndarray, tmp_path: Path) -> None:
    image = Image.fromarray(gray)
    image.save(tmp_path / "stack.tif", save_all=True, append_images=[image])
    with pytest.raises(ValueError, match=r"stack\.tif: holds 2 frames"):
        read_frame(tmp_path / "stack.tif")

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\x00" + np.full(3 * 4, 14000, ">u2").tobytes() for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(png)
    with pytest.raises(ValueError, match=r"deep\.png: has several channels of 16 bits"):
        read_frame(tmp_path / "deep.png")


@pytest.mark.parametrize("width", [54, 272, 160])  # row strides of 162, 816 and 480 bytes
def test_colour_bitmaps_are_not_taken_for_16_bits(width: int, tmp_path: Path) -> None:
    colour = np.random.default_rng(6).integers(0, 256, (16, width, 3), dtype=np.uint8)
    for name in ("frame.bmp", "frame.tif"):
        Image.fromarray(colour).save(tmp_path / name)
        np.testing.assert_array_equal(read_frame(tmp_path / name), read_frame(colour))


def test_real_frames(shared_dir: Path) -> None:
    processor = InfraredImageProcessor(sam_size=128)
    modes = set()
    for path in sorted(shared_dir.glob("data/NUAA-SIRST/images/Misc_[1237]?.png")):
        with Image.open(path) as image:
            modes.add(image.mode)
            size = image.height, image.width
            gray = np.asarray(image.convert("RGBA").convert("L"), dtype=int)
        frame = read_frame(path)
        assert frame.shape == size and frame.dtype == np.uint8
        assert np.abs(frame - gray).max() <= 1
        batch = processor(path, return_tensors="pt")
        assert abs(batch.frames.mean()) < 1e-5 and abs(batch.frames.std() - 1) < 1e-4
    assert {"L", "RGB", "RGBA", "P"} <= modes


def test_post_processing() -> None:
    processor = InfraredImageProcessor()
    logits = torch.linspace(-3, 3, 2 * 5 * 7).reshape(2, 1, 5, 7)
    probs = processor.post_process_probabilities(SimpleNamespace(logits=logits))
    assert torch.equal(torch.stack(probs), logits[:, 0].sigmoid())
    maps = processor.post_process_semantic_segmentation(SimpleNamespace(logits=logits))
    assert all(m.dtype == torch.int64 for m in maps)
    assert torch.equal(torch.stack(maps), (logits[:, 0] > 0).long())

    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(processor.post_process_probabilities(SimpleNamespace(logits=two)), probs)


def test_post_processing_to_target_sizes(gray: np.ndarray) -> None:
    processor = InfraredImageProcessor(do_pad=True)
    batch = processor([gray, gray[:11, :29]], return_tensors="pt")
    full = SimpleNamespace(logits=batch.pixel_values)
    maps = processor.post_process_probabilities(full, target_sizes=batch.original_sizes)
    probs = batch.pixel_values.sigmoid()
    assert torch.equal(maps[0], probs[0, 0, :19, :31]) and torch.equal(maps[1], probs[1, 0, :11, :29])  # no resizing
    quarter = SimpleNamespace(logits=torch.randn(2, 2, 5, 8))
    maps = processor.post_process_semantic_segmentation(quarter, target_sizes=[(19, 31), (11, 29)])
    assert [tuple(m.shape) for m in maps] == [(19, 31), (11, 29)]
    with pytest.raises(ValueError, match="1 target sizes do not pair with the 2 frames"):
        processor.post_process_probabilities(full, target_sizes=[(19, 31)])
    with pytest.raises(ValueError, match="Logits have the shape"):
        processor.post_process_probabilities(SimpleNamespace(logits=torch.zeros(1, 3, 4, 4)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sam_std": (1, 0, 1)}, "`sam_std` must be above 0"),
        ({"sam_std": (1, float("nan"), 1)}, "`sam_std` must be three numbers"),
        ({"sam_std": (1,)}, "`sam_std` must be three numbers"),
        ({"sam_mean": ("0", 0, 0)}, "`sam_mean` must be three numbers"),
    ],
)
def test_sams_mean_and_deviation_are_numbers(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InfraredImageProcessor(sam_size=64, **{"sam_mean": (0, 0, 0), "sam_std": (1, 1, 1), **given})


def test_unknown_settings_are_refused_but_not_keys_of_files(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="InfraredImageProcessor has no setting 'normalisation', 'size_divider'"):
        InfraredImageProcessor(normalisation="percentile", size_divider=32)
    with pytest.raises(TypeError, match="has no setting 'do_resize', 'size'"):  # those of other image processors
        InfraredImageProcessor(do_resize=True, size={"height": 64, "width": 64})
    InfraredImageProcessor(processor_class="X", auto_map={}, _processor_class="X")
    InfraredImageProcessor().save_pretrained(tmp_path)
    for trust in (False, True):
        AutoImageProcessor.from_pretrained(tmp_path, trust_remote_code=trust, use_fast=False)
    processor = InfraredImageProcessor.from_pretrained(tmp_path, revision="main", token=None, normalization="range")
    assert processor.normalization == "range"


@pytest.mark.parametrize("given", [{"sam_mean": (0, 0, 0)}, {"sam_std": (1, 1, 1)}])
def test_the_mean_of_sams_input_needs_its_deviation(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="`sam_mean` and `sam_std` belong together"):
        InfraredImageProcessor(sam_size=64, **given)
