import os
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalpel_hf.data.frame_sources import LeftOut
from scalpel_hf.formats.own_frames import load_own_frames
from scalpel_hf.runtime.recordings import Damage
from scalpel_hf.runtime.sources import DamagedSourceWarning, read_stream
from scalpel_hf.utils.image_files import PassedOverWarning
from tests.runtime.made_by_hand import write_video

SEQUENCE = [np.random.default_rng(i).integers(14000, 15000, (36, 52)).astype(np.uint16) for i in range(4)]


def pages(path: Path, **options: str) -> Path:
    images = [Image.fromarray(frame) for frame in SEQUENCE]
    images[0].save(path, save_all=True, append_images=images[1:], **options)
    return path


def break_page(path: Path, number: int) -> None:
    with Image.open(path) as image:
        image.seek(number)
        place = image.tag_v2[273][0]
    content = bytearray(path.read_bytes())
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)


def assert_same(stream: list[tuple[str, np.ndarray]], frames: list[np.ndarray]) -> None:
    assert len(stream) == len(frames)
    for (_, prediction), expected in zip(stream, frames, strict=True):
        assert prediction.dtype == expected.dtype
        np.testing.assert_array_equal(prediction, expected)


def test_pages_of_a_tiff(tmp_path: Path) -> None:
    stream = list(read_stream(str(pages(tmp_path / "sequence.tiff"))))
    assert_same(stream, SEQUENCE)
    assert [name for name, _ in stream] == [f"sequence_{i:06d}" for i in range(4)]


def test_a_folder_in_the_order_of_names(tmp_path: Path) -> None:
    for index in (2, 0, 3, 1):
        Image.fromarray(SEQUENCE[index]).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    with pytest.warns(PassedOverWarning, match=r"4 images, and 1 other files that are not read \(1 \*\.txt\)"):
        stream = list(read_stream(str(tmp_path)))
    assert_same(stream, SEQUENCE)
    assert [name for name, _ in stream] == ["0.png", "1.png", "2.png", "3.png"]


def test_16_bit_video_keeps_every_digit(tmp_path: Path) -> None:
    video = write_video(tmp_path / "sequence.mkv", SEQUENCE, "ffv1", "gray16le")
    assert_same(list(read_stream(str(video))), SEQUENCE)


def test_8_bit_video(tmp_path: Path) -> None:
    frames = [(frame // 256 + 3 * np.arange(52)).astype(np.uint8) for frame in SEQUENCE]
    video = write_video(tmp_path / "sequence.avi", frames, "ffv1", "gray")
    assert_same(list(read_stream(str(video))), frames)


def test_a_stream_by_its_address(tmp_path: Path) -> None:
    write_video(tmp_path / "sequence.mkv", SEQUENCE, "ffv1", "gray16le")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert_same(list(read_stream(f"http://127.0.0.1:{server.server_port}/sequence.mkv")), SEQUENCE)
        server.shutdown()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_frames_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = pages(tmp_path / "sequence.tiff")
    stream = read_stream(str(path))
    next(stream)
    path.write_bytes(path.read_bytes()[:100])  # what has been asked for is here, what follows is gone
    with pytest.warns(DamagedSourceWarning, match=r"sequence\.tiff: "):
        assert list(stream) == []


def test_errors_name_the_source(tmp_path: Path) -> None:
    pytest.importorskip("av")
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise.mkv").write_bytes(b"no video" * 100)
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    cases = [("nowhere.mkv", FileNotFoundError), ("nowhere.png", FileNotFoundError), ("empty", FileNotFoundError)]
    for name, error in [*cases, ("noise.mkv", (OSError, ValueError)), ("cut.png", OSError)]:
        with pytest.raises(error, match=name):
            list(read_stream(str(tmp_path / name)))


def test_without_av_a_video_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sequence.mkv").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match=r"scalpel-hf\[video\]"):
        list(read_stream(str(tmp_path / "sequence.mkv")))


def test_sub_folders_capitals_and_every_kind_but_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b/1.PNG", "a.webp", "b/c/2.Tiff", "._a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("."):
            (tmp_path / name).write_bytes(b"of macOS")
        else:
            Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / name)
    assert [name for name, _ in read_stream(str(tmp_path))] == ["a.webp", "b/1.PNG", "b/c/2.Tiff"]


def test_a_broken_picture_among_good_ones_is_left_out_and_said(tmp_path: Path) -> None:
    for index in range(4):
        Image.fromarray(SEQUENCE[index]).save(tmp_path / f"{index}.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:500])
    os.mkfifo(tmp_path / "2b.png")
    damage = Damage()
    stream = list(read_stream(str(tmp_path), damage))
    assert [name for name, _ in stream] == ["0.png", "2.png", "3.png"]
    assert damage.skipped == 2 and "1.png" in damage.problems[0] and "2b.png: a pipe" in damage.problems[1]
    with pytest.warns(DamagedSourceWarning, match=r"2 damaged frames were left out \(.*1\.png"):
        list(read_stream(str(tmp_path)))
    for name in ("0.png", "2.png", "3.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(OSError, match="has no frame that can be read: 5 damaged frames"):
        list(read_stream(str(tmp_path)))


def test_a_broken_page_among_good_ones_is_left_out_and_keeps_its_number(tmp_path: Path) -> None:
    path = pages(tmp_path / "sequence.tiff", compression="tiff_deflate")
    break_page(path, 2)
    damage = Damage()
    stream = list(read_stream(str(path), damage))
    assert_same(stream, [SEQUENCE[0], SEQUENCE[1], SEQUENCE[3]])
    assert [name[-1] for name, _ in stream] == ["0", "1", "3"] and damage.skipped == 1


def test_pages_are_numbered_though_the_same_damage_counted_others_before(tmp_path: Path) -> None:
    stream = read_stream(str(pages(tmp_path / "sequence.tiff")), Damage(skipped=2))
    assert [name for name, _ in stream] == [f"sequence_{i:06d}" for i in range(4)]


def test_files_of_several_pages_in_a_folder_give_the_names_of_prepare(tmp_path: Path) -> None:
    (tmp_path / "night").mkdir()
    pages(tmp_path / "night" / "flight.tiff")
    Image.fromarray(SEQUENCE[0]).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"damaged")
    damage = Damage()
    stream = list(read_stream(str(tmp_path), damage))
    assert_same(stream, [SEQUENCE[0], *SEQUENCE])
    assert [name for name, _ in stream] == ["a.png", *(f"night_flight_{i:06d}" for i in range(4))]
    assert damage.skipped == 1
    rows = load_own_frames(tmp_path, tmp_path / "work", LeftOut())
    assert sorted(rows["name"][:]) == ["a", *(f"night_flight_{i:06d}" for i in range(4))]


def test_a_damaged_page_in_a_folder_is_said_with_its_file(tmp_path: Path) -> None:
    break_page(pages(tmp_path / "flight.tiff", compression="tiff_deflate"), 2)
    Image.fromarray(SEQUENCE[0]).save(tmp_path / "a.png")
    damage = Damage()
    stream = list(read_stream(str(tmp_path), damage))
    assert [name for name, _ in stream] == ["a.png", *(f"flight_{i:06d}" for i in (0, 1, 3))]
    assert damage.skipped == 1 and "flight.tiff: " in damage.problems[0]


@pytest.mark.parametrize(
    "source", ["file:///etc/passwd", "concat://a|b", "crypto://x.mkv", "subfile://x", "tee://x", "ftp://h/x.mkv"]
)
def test_addresses_of_other_kinds(source: str) -> None:
    pytest.importorskip("av")
    with pytest.raises(ValueError, match=r"an address begins with rtsp://"):
        list(read_stream(source))


def test_a_files_name_is_no_protocol_and_its_content_no_playlist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = write_video(tmp_path / "secret.mkv", SEQUENCE, "ffv1", "gray16le")
    monkeypatch.chdir(tmp_path)
    for name in ("file:secret.mkv", "concat:secret.mkv|secret.mkv", "subfile,,start,0,end,0,,:secret.mkv"):
        with pytest.raises(FileNotFoundError, match="neither a file"):
            list(read_stream(name))
        Path(name).write_bytes(secret.read_bytes())  # a file that is called so is read as what it is
        assert_same(list(read_stream(name)), SEQUENCE)
    playlists = {
        "list.ffconcat": "ffconcat version 1.0\nfile secret.mkv\n",
        "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.mkv\n#EXT-X-ENDLIST\n",
        "list.sdp": "v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 26\n",
        "list.mpd": '<?xml version="1.0"?><MPD><Period><BaseURL>secret.mkv</BaseURL></Period></MPD>',
        "picture.mkv": None,
    }
    Image.fromarray(SEQUENCE[0]).save(tmp_path / "picture.png")
    for name, content in playlists.items():
        Path(name).write_bytes(content.encode() if content else Path("picture.png").read_bytes())
        with pytest.raises(OSError, match=rf"{name}: no video that can be read"):
            list(read_stream(name))
    os.mkfifo("pipe.mkv")
    for name in ("pipe.mkv", "/dev/zero"):
        with pytest.raises(OSError, match="a pipe, socket or device"):
            list(read_stream(name))


def test_a_playlist_behind_an_address_is_not_followed(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.mkv", SEQUENCE, "ffv1", "gray16le")
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{tmp_path}/secret.mkv\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(playlist)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(OSError, match="no video that can be read"):
            list(read_stream(f"http://127.0.0.1:{server.server_port}/list.m3u8"))
        server.shutdown()
