import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalpel_hf.runtime.sources import read_stream
from tests.runtime.made_by_hand import write_video

SEQUENCE = [np.random.default_rng(i).integers(14000, 15000, (36, 52)).astype(np.uint16) for i in range(4)]


def pages(path: Path) -> Path:
    images = [Image.fromarray(frame) for frame in SEQUENCE]
    images[0].save(path, save_all=True, append_images=images[1:])
    return path


def assert_same(stream: list[tuple[str, np.ndarray]], frames: list[np.ndarray]) -> None:
    assert len(stream) == len(frames)
    for (_, answer), expected in zip(stream, frames, strict=True):
        assert answer.dtype == expected.dtype
        np.testing.assert_array_equal(answer, expected)


def test_pages_of_a_tiff(tmp_path: Path) -> None:
    stream = list(read_stream(str(pages(tmp_path / "sequence.tiff"))))
    assert_same(stream, SEQUENCE)
    assert [name for name, _ in stream] == [f"sequence.tiff#{i}" for i in range(4)]


def test_a_folder_in_the_order_of_names(tmp_path: Path) -> None:
    for index in (2, 0, 3, 1):
        Image.fromarray(SEQUENCE[index]).save(tmp_path / f"{index}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
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
    with pytest.raises((OSError, ValueError)):
        list(stream)


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
