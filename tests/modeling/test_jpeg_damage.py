"""JPEG files whose data end before their picture does, which libjpeg decodes without a word."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from scalpel_hf.data import read_mask
from scalpel_hf.modeling import jpeg_damage
from scalpel_hf.modeling.frame_io import read_frame, read_pages

END = b"\xff\xd9"


def picture(size: tuple[int, int] = (64, 80), flat: bool = False) -> np.ndarray:
    frame = ndimage.gaussian_filter(np.random.default_rng(0).random(size), 2)
    frame = (255 * (frame - frame.min()) / np.ptp(frame)).astype(np.uint8)
    frame[size[0] // 2 if flat else size[0] :] = 90
    return frame


def jpeg(frame: np.ndarray, mode: str = "L", **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(frame).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def cut(content: bytes, share: float) -> bytes:
    """A file cut short that ends as a whole one does: as of a camera's frame whose last packets were lost."""
    start = content.index(b"\xff\xda") + 14
    return content[: start + int(share * (len(content) - start))] + END


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 8}, {"optimize": True}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_whole_files_are_read_and_shortened_ones_refused(mode: str, options: dict, tmp_path: Path) -> None:
    for size, flat in (((8, 8), False), ((17, 33), False), ((64, 80), True)):
        content = jpeg(picture(size, flat), mode, **options)
        with Image.open(BytesIO(content)) as image:
            np.testing.assert_array_equal(read_frame(content), np.asarray(image.convert("L")))
    content = jpeg(picture(), mode, **options)
    for share in (0.1, 0.5, 0.9):
        broken = cut(content, share)
        with Image.open(BytesIO(broken)) as image:
            image.load()  # without a word
        path = tmp_path / "f.jpg"
        path.write_bytes(broken)
        for source in (path, broken, {"bytes": broken, "path": "f.jpg"}, Image.open(path), Image.open(BytesIO(broken))):
            with pytest.raises(OSError, match="damaged: its data end before"):
                read_frame(source)
        with pytest.raises(OSError, match=r"f\.jpg.*damaged"):
            list(read_pages(path))
        with pytest.raises(OSError, match="damaged"):
            read_mask(broken)


def test_a_whole_file_is_checked_once_and_a_broken_one_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[bytes] = []
    real = jpeg_damage._with_other_data
    monkeypatch.setattr(jpeg_damage, "_with_other_data", lambda content: checked.append(content) or real(content))
    monkeypatch.setattr(jpeg_damage, "_whole", set())
    whole, broken = jpeg(picture()), cut(jpeg(picture()), 0.5)
    for _ in range(3):
        np.testing.assert_array_equal(read_frame(whole), read_frame({"bytes": whole, "path": "f.jpg"}))
        with pytest.raises(OSError, match="damaged"):
            read_frame(broken)
    assert checked.count(whole) == 1 and checked.count(broken) == 3


@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 8}])
def test_a_file_cut_behind_an_ff_is_refused(options: dict) -> None:
    frame = np.random.default_rng(5).integers(0, 256, (96, 128)).astype(np.uint8)
    content = jpeg(frame, quality=95, **options)
    start, cuts = content.index(b"\xff\xda") + 14, 0
    for place in range(start, len(content) - 40):
        if content[place : place + 2] == b"\xff\0":
            with pytest.raises(OSError, match="damaged"):
                read_frame(content[: place + 1] + END)
            cuts += 1
    assert cuts > 10 and read_frame(content).shape == frame.shape


def test_data_missing_in_the_middle() -> None:
    content = jpeg(picture())
    middle = len(content) * 2 // 3
    with pytest.raises(OSError, match="damaged"):
        read_frame(content[:middle] + content[middle + 100 :])


def test_what_follows_the_picture_in_the_file_is_no_damage() -> None:
    content = jpeg(picture())
    np.testing.assert_array_equal(read_frame(content + b"camera's own data \xff\xd9 \xff"), read_frame(content))


def test_previews_beside_the_picture_are_no_damage() -> None:
    buffer = BytesIO()
    first, preview = Image.fromarray(picture()), Image.fromarray(picture()[::4, ::4])
    first.save(buffer, "MPO", save_all=True, append_images=[preview])
    assert read_frame(buffer.getvalue()).shape == (64, 80)
    with pytest.raises(OSError, match="damaged"):
        read_frame(cut(buffer.getvalue()[: buffer.getvalue().index(END) + 2], 0.5))
