"""Image files: what is read of them, however they are given, and what is refused."""

import io
import os
import socket
import time
import warnings
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import Base as Tag

from scalpel_hf.data.image_cells import stored_cell
from scalpel_hf.modeling.frame_io import (
    FORMATS,
    file_orientation,
    is_plain_file,
    open_image,
    read_frame,
    read_pages,
    turn,
)

RNG = np.random.default_rng(8)
GRAY = RNG.integers(0, 256, (12, 20), dtype=np.uint8)
DEEP = RNG.integers(14000, 15000, (12, 20), dtype=np.uint16)
KELVIN = (DEEP / 50).astype(np.float32)
RGB = np.stack([GRAY, GRAY, GRAY], axis=2)

# Every kind of file, with what it is saved from and how.
KINDS: dict[str, tuple[np.ndarray, str, dict[str, Any]]] = {
    "png": (GRAY, "PNG", {}),
    "png16": (DEEP, "PNG", {}),
    "png-rgb": (RGB, "PNG", {}),
    "jpeg": (GRAY, "JPEG", {"quality": 95}),
    "jpeg-rgb": (RGB, "JPEG", {"quality": 95}),
    "tiff": (GRAY, "TIFF", {}),
    "tiff16": (DEEP, "TIFF", {}),
    "tiff16-lzw": (DEEP, "TIFF", {"compression": "tiff_lzw"}),
    "tiff-float": (KELVIN, "TIFF", {}),
    "tiff-float-deflate": (KELVIN, "TIFF", {"compression": "tiff_deflate"}),
    "tiff-rgb": (RGB, "TIFF", {}),
    "tiff-1": (GRAY > 127, "TIFF", {}),
    "webp": (GRAY, "WEBP", {"lossless": True}),
}
# As Pillow's own `transpose` does it, written out: where pixel (row, column) of the shown frame lies in the stored one.
SHOWN = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.transpose(a), 2),
    8: np.rot90,
}


def saved(kind: str, orientation: int | None = None) -> bytes:
    array, suffix, options = KINDS[kind]
    if orientation is not None:
        if suffix == "TIFF":
            options = {**options, "tiffinfo": {Tag.Orientation: orientation}}
        else:
            exif = Image.Exif()
            exif[Tag.Orientation] = orientation
            options = {**options, "exif": exif}
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, suffix, **options)
    return buffer.getvalue()


def same(one: np.ndarray, other: np.ndarray) -> None:
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)


CASES = [
    (kind, orientation)
    for kind, (_, _, options) in KINDS.items()
    for orientation in (None, *range(10))
    if orientation not in (0, 9) or "compression" not in options  # which libtiff doesn't write
]


@pytest.mark.parametrize(("kind", "orientation"), CASES)
def test_path_bytes_and_cell_are_one_frame(kind: str, orientation: int | None, tmp_path: Path) -> None:
    content = saved(kind, orientation)
    path = tmp_path / "frame.any"
    path.write_bytes(content)
    effective = orientation if orientation in SHOWN else 1
    frame = read_frame(path)
    same(frame, np.ascontiguousarray(SHOWN[effective](read_frame(saved(kind)))))
    for source in (str(path), content, {"bytes": content, "path": "elsewhere.png"}, {"bytes": None, "path": str(path)}):
        same(read_frame(source), frame)
    with Image.open(path) as opened:
        same(read_frame(opened), frame)
    with Image.open(io.BytesIO(content)) as opened:
        same(read_frame(opened), frame)
        opened.load()  # still the caller's to use
        same(read_frame(opened), frame)
    cells = datasets.Dataset.from_dict({"image": [{"bytes": content, "path": None}]}).cast_column(
        "image", datasets.Image()
    )
    same(read_frame(cells[0]["image"]), frame)
    same(read_frame(cells.cast_column("image", datasets.Image(decode=False))[0]["image"]), frame)
    same(next(read_pages(path)), frame)

    assert file_orientation(content) == file_orientation(path) == effective
    assert is_plain_file(content) == (effective == 1)
    same(np.ascontiguousarray(turn(read_frame(saved(kind)), effective)), frame)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (3, 3), (1, 3), (1, 1)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP"])
def test_colour_files_of_few_pixels(kind: str, shape: tuple[int, int]) -> None:
    colour = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colour).save(buffer, kind, lossless=True)
    assert read_frame(buffer.getvalue()).shape == shape


def test_an_orientation_that_follows_the_pixels(tmp_path: Path) -> None:
    content = saved("png", 6)
    place = content.index(b"eXIf") - 4
    length = 12 + int.from_bytes(content[place : place + 4], "big")
    end = content.index(b"IEND") - 4
    moved = content[:place] + content[place + length : end] + content[place : place + length] + content[end:]
    same(read_frame(moved), read_frame(content))
    assert file_orientation(moved) == 6


def tiff(*pages: tuple[np.ndarray, dict[int, int]]) -> bytes:
    images = [(Image.fromarray(array), tags) for array, tags in pages]
    buffer = io.BytesIO()
    for image, tags in images:
        image.encoderinfo = {"tiffinfo": tags}
    first, *rest = [image for image, _ in images]
    first.save(buffer, "TIFF", save_all=True, append_images=rest, tiffinfo=images[0][1])
    return buffer.getvalue()


SMALL = GRAY[::4, ::4]
REDUCED, MASK = {Tag.NewSubfileType: 1}, {Tag.NewSubfileType: 4}


@pytest.mark.parametrize(
    "pages",
    [
        [(DEEP, {}), (SMALL, REDUCED)],
        [(SMALL, REDUCED), (DEEP, {})],
        [(SMALL, {Tag.SubfileType: 2}), (DEEP, {}), (SMALL, REDUCED)],
        [(DEEP, {}), (GRAY > 3, MASK)],
    ],
)
def test_thumbnails_and_masks_in_a_tiff_are_no_frames(pages: list, tmp_path: Path) -> None:
    content = tiff(*pages)
    (tmp_path / "f.tif").write_bytes(content)
    same(read_frame(content), DEEP)
    (page,) = read_pages(tmp_path / "f.tif")
    same(page, DEEP)
    assert is_plain_file(content) == (pages[0][0] is DEEP)


WHITE_IS_ZERO = {Tag.PhotometricInterpretation: 0}


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}])
def test_white_as_zero_is_inverted(tmp_path: Path, orientation: int, options: dict) -> None:
    for array, expected in ((GRAY, GRAY), (DEEP, 65535 - DEEP)):  # Pillow inverts 8 bits in writing and in reading
        tags = {**WHITE_IS_ZERO, Tag.Orientation: orientation}
        Image.fromarray(array).save(tmp_path / "f.tif", tiffinfo=tags, **options)
        content, shown = (tmp_path / "f.tif").read_bytes(), np.ascontiguousarray(SHOWN[orientation](expected))
        for source in (tmp_path / "f.tif", content, stored_cell({"bytes": content, "path": "f.tif"})):
            same(read_frame(source), shown)
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            same(read_frame(opened), shown)
        assert is_plain_file(content) == (array is GRAY and orientation == 1)


def test_floats_with_white_as_zero_are_an_error(tmp_path: Path) -> None:
    Image.fromarray(KELVIN).save(tmp_path / "f.tif", tiffinfo=WHITE_IS_ZERO)
    with pytest.raises(ValueError, match=r"f\.tif: .*in which white is zero: store them so that black is zero"):
        read_frame(tmp_path / "f.tif")


def test_frames_and_thumbnails_in_turn(tmp_path: Path) -> None:
    (tmp_path / "f.tif").write_bytes(tiff((DEEP, {}), (SMALL, REDUCED), (DEEP + 1, {}), (SMALL, REDUCED)))
    one, two = read_pages(tmp_path / "f.tif")
    same(one, DEEP)
    same(two, DEEP + 1)
    with pytest.raises(ValueError, match=r"f\.tif: holds 2 frames"):
        read_frame(tmp_path / "f.tif")
    (tmp_path / "f.tif").write_bytes(tiff((SMALL, REDUCED), (SMALL, REDUCED)))
    with pytest.raises(ValueError, match=r"f\.tif: holds nothing but thumbnails"):
        read_frame(tmp_path / "f.tif")


def test_previews_in_a_jpeg_are_no_frames(tmp_path: Path) -> None:
    whole, preview = Image.fromarray(GRAY), Image.fromarray(SMALL)
    for name, options in {"f.jpg": {}, "f.mpo": {"format": "MPO"}}.items():
        whole.save(tmp_path / name, **{"format": "MPO"} | options, save_all=True, append_images=[preview])
        with Image.open(tmp_path / name) as image:
            assert image.format == "MPO" and image.n_frames == 2
        (page,) = read_pages(tmp_path / name)
        same(page, read_frame(tmp_path / name))
        assert page.shape == GRAY.shape and is_plain_file((tmp_path / name).read_bytes())


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_a_sequence_is_no_frame(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(GRAY).save(buffer, kind, save_all=True, append_images=[Image.fromarray(255 - GRAY)])
    with pytest.raises(ValueError, match="holds 2 frames"):
        read_frame(buffer.getvalue())
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        image.load()
        with pytest.raises(ValueError, match="holds 2 frames"):
            read_frame(image)
        image.seek(1)  # chosen by the caller
        assert read_frame(image).shape == GRAY.shape


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 12\n%%EndComments\n(/tmp/x) (w) file\nshowpage\n%%EOF\n"
FOREIGN = {
    "eps": EPS,
    "ico": None,
    "pcx": None,
    "sgi": None,
    "tga": None,
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "pdf": b"%PDF-1.4\n",
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_kinds_of_files_that_are_not_listed_are_not_opened(
    kind: str, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.check_call", never)
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", never)
    path = tmp_path / f"frame{suffix}"
    if FOREIGN[kind] is None:
        Image.fromarray(GRAY).save(path, kind.upper())
    else:
        path.write_bytes(FOREIGN[kind])
    for source in (path, {"bytes": None, "path": str(path)}):
        with pytest.raises(OSError, match=rf"frame\{suffix}: .*not an image of the kinds PNG, JPEG"):
            read_frame(source)
    with pytest.raises(OSError, match="not an image of the kinds"):
        read_frame(path.read_bytes())
    if kind == "eps":
        with Image.open(path) as opened, pytest.raises(OSError, match="kind"):
            read_frame(opened)
        with Image.open(io.BytesIO(path.read_bytes())) as opened, pytest.raises(ValueError, match="kind"):
            read_frame(opened)


def test_what_is_no_plain_file_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    server = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    server.bind("socket.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "pipe.png")
    began = time.monotonic()
    for name in ("pipe.png", "socket.png", "link.png", "/dev/zero"):
        with pytest.raises(OSError, match=rf"{name}: a pipe, socket or device"):
            read_frame(tmp_path / name)
        with pytest.raises(OSError, match=rf"{name}: a pipe, socket or device"):
            list(read_pages(tmp_path / name))
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(OSError, match=r"loop\.png"):
        read_frame(tmp_path / "loop.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OSError, match=r"folder\.png"):
        read_frame(tmp_path / "folder.png")
    assert time.monotonic() - began < 5
    server.close()


def hostile_files() -> dict[str, bytes]:
    """Of every kind: cut, with a byte changed here and there, its header alone, and some made to be slow."""
    rng = np.random.default_rng(9)
    files = {}
    for kind in KINDS:
        content = np.frombuffer(saved(kind, 6), np.uint8)
        for number, share in enumerate((0.05, 0.3, 0.6, 0.95)):
            files[f"{kind}-cut-{number}"] = content[: int(share * len(content))].tobytes()
        for number in range(12):
            changed = content.copy()
            # Half of them in the first bytes, where sizes and offsets are.
            reach = 64 if number % 2 else len(changed)
            changed[rng.integers(0, min(reach, len(changed)), 4)] = rng.integers(0, 256, 4)
            files[f"{kind}-changed-{number}"] = changed.tobytes()
    # A TIFF whose pages go in a circle, and one with as many empty pages as fit.
    files["circle"] = b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0"
    pages = b"".join(b"\0\0" + (8 + 6 * (i + 1)).to_bytes(4, "little") for i in range(3000))
    files["pages"] = b"II*\0\x08\0\0\0" + pages + b"\0" * 6
    files["pgm-huge"] = b"P5 99999999 99999999 255\n"
    files["pgm-text"] = b"P2 4000000000 1 255\n" + b"1 " * 1000
    files["gif-huge"] = b"GIF89a\xff\xff\xff\xff\x80\0\0" + b"\0" * 6 + b",\0\0\0\0\xff\xff\xff\xff\0\x08\0;"
    return files


@pytest.mark.parametrize("name", hostile_files())
def test_hostile_files_end_in_a_frame_or_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.img"
    path.write_bytes(hostile_files()[name])
    began = time.monotonic()
    answers = []
    for source in (path, path.read_bytes()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                answers.append(read_frame(source))
            except (OSError, ValueError) as error:
                answers.append(None)
                assert "\n" not in str(error)
                assert (path.name if source is path else "given as bytes") in str(error)
    assert time.monotonic() - began < 10
    one, other = answers
    assert (one is None) == (other is None)
    if one is not None:
        np.testing.assert_array_equal(one, other)


def test_an_open_image_keeps_palette_and_alpha(tmp_path: Path) -> None:
    image = Image.fromarray((GRAY > 127).astype(np.uint8))
    image.putpalette([0, 0, 0, 128, 0, 0])
    exif = Image.Exif()
    exif[Tag.Orientation] = 8
    image.save(tmp_path / "mask.png", exif=exif)
    with open_image(tmp_path / "mask.png") as page:
        assert page.mode == "P"
        np.testing.assert_array_equal(np.asarray(page), np.rot90(GRAY > 127))
    with pytest.raises(ValueError, match=r"mask\.png: no good"), open_image(tmp_path / "mask.png"):
        raise ValueError("no good")


def test_suffixes_are_of_one_kind_each() -> None:
    suffixes = [suffix for of_kind in FORMATS.values() for suffix in of_kind]
    assert len(suffixes) == len(set(suffixes)) and all(suffix == suffix.lower() for suffix in suffixes)
