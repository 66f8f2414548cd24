"""Recordings: brightness as it is stored, and what is damaged left out and counted."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scalpel_hf.runtime.recordings import Damage, _luma, read_recording

av = pytest.importorskip("av")

WIDTH, HEIGHT = 52, 36  # no multiple of the 32 bytes that decoders align lines to
RNG = np.random.default_rng(4)


def written(path: Path, pictures: list[Any], codec: str, pixel_format: str, **options: str) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixel_format
        for picture in pictures:
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def picture(pixel_format: str, samples: np.ndarray) -> Any:
    """A picture whose first plane holds these samples, line by line, and whose others hold grey."""
    frame = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
    for index, plane in enumerate(frame.planes):
        lines = np.full((plane.height, plane.line_size), 128, np.uint8)
        if index == 0:
            raw = np.ascontiguousarray(samples).view(np.uint8).reshape(HEIGHT, -1)
            lines[:, : raw.shape[1]] = raw
        plane.update(lines.tobytes())
    return frame


def frames_of(path: Path, damage: Damage | None = None) -> list[np.ndarray]:
    return [frame for _, frame in read_recording(str(path), Damage() if damage is None else damage)]


LUMA8 = RNG.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)  # beyond 16 and 235 too
PLAIN8 = ["gray", "yuv420p", "yuvj420p", "yuv422p", "yuv444p", "nv12", "nv21", "yuv410p", "yuva420p"]


@pytest.mark.parametrize("pixel_format", PLAIN8)
def test_luma_of_8_bits_is_as_stored(pixel_format: str, tmp_path: Path) -> None:
    path = written(tmp_path / "r.nut", [picture(pixel_format, LUMA8)] * 2, "rawvideo", pixel_format)
    for frame in frames_of(path):
        assert frame.dtype == np.uint8
        np.testing.assert_array_equal(frame, LUMA8)


@pytest.mark.parametrize(("pixel_format", "place"), [("yuyv422", 0), ("yvyu422", 0), ("uyvy422", 1), ("ya8", 0)])
def test_luma_between_colours_or_alpha(pixel_format: str, place: int, tmp_path: Path) -> None:
    mixed = np.full((HEIGHT, 2 * WIDTH), 90, np.uint8)
    mixed[:, place::2] = LUMA8
    (frame,) = frames_of(written(tmp_path / "r.nut", [picture(pixel_format, mixed)], "rawvideo", pixel_format))
    np.testing.assert_array_equal(frame, LUMA8)


@pytest.mark.parametrize("pixel_format", ["ya16le", "ya16be"])
def test_16_bits_of_gray_between_alpha(pixel_format: str) -> None:
    mixed = np.full((HEIGHT, 2 * WIDTH), 65535, ">u2" if pixel_format == "ya16be" else "<u2")
    mixed[:, ::2] = luma = RNG.integers(0, 65536, (HEIGHT, WIDTH), dtype=np.uint16)
    np.testing.assert_array_equal(_luma(picture(pixel_format, mixed)), luma)


@pytest.mark.parametrize(
    ("pixel_format", "bits", "shift"),
    [
        ("gray10le", 10, 0),
        ("gray12le", 12, 0),
        ("gray16le", 16, 0),
        ("gray16be", 16, 0),
        ("yuv420p10le", 10, 0),
        ("yuv422p10be", 10, 0),
        ("yuv420p16le", 16, 0),
    ],
)
def test_luma_of_more_bits_is_as_stored(pixel_format: str, bits: int, shift: int, tmp_path: Path) -> None:
    luma = RNG.integers(0, 2**bits, (HEIGHT, WIDTH), dtype=np.uint16)
    stored = (luma << shift).astype(">u2" if pixel_format.endswith("be") else "<u2")
    (frame,) = frames_of(written(tmp_path / "r.nut", [picture(pixel_format, stored)], "rawvideo", pixel_format))
    assert frame.dtype == np.uint16
    np.testing.assert_array_equal(frame, luma)


@pytest.mark.parametrize(("pixel_format", "bits", "shift"), [("p010le", 10, 6), ("p012le", 12, 4), ("p016le", 16, 0)])
def test_luma_in_the_high_bits(pixel_format: str, bits: int, shift: int) -> None:
    luma = RNG.integers(0, 2**bits, (HEIGHT, WIDTH), dtype=np.uint16)
    np.testing.assert_array_equal(_luma(picture(pixel_format, luma << shift)), luma)


@pytest.mark.parametrize("pixel_format", ["rgb24", "bgr24", "bgra", "rgb0"])
def test_grey_that_is_stored_as_colours(pixel_format: str, tmp_path: Path) -> None:
    channels = 3 if pixel_format in ("rgb24", "bgr24") else 4
    samples = np.repeat(LUMA8[:, :, None], channels, axis=2)
    (frame,) = frames_of(written(tmp_path / "r.nut", [picture(pixel_format, samples)], "rawvideo", pixel_format))
    np.testing.assert_array_equal(frame, LUMA8)


@pytest.mark.parametrize("color_range", [1, 2])  # limited and full, as the file says
def test_a_bright_target_on_a_bright_sky_stays(color_range: int, tmp_path: Path) -> None:
    sky = np.full((HEIGHT, WIDTH), 236, np.uint8)
    sky[10, 20] = 250
    shown = picture("yuv420p", sky)
    shown.color_range = color_range
    path = tmp_path / "r.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.color_range = color_range
        container.mux(stream.encode(shown))
        container.mux(stream.encode())
    (frame,) = frames_of(path)
    np.testing.assert_array_equal(frame, sky)


def moving(count: int) -> list[np.ndarray]:
    scene = np.kron(RNG.integers(60, 200, (6, 8)), np.ones((6, 7))).astype(np.uint8)[:, :WIDTH]
    return [np.roll(scene, index, axis=1) + RNG.integers(0, 9, scene.shape, dtype=np.uint8) for index in range(count)]


CODECS = {
    "mjpeg": ("r.avi", "yuvj420p", {}),
    "ffv1": ("r.mkv", "gray", {"level": "3", "slicecrc": "1", "slices": "4", "g": "5"}),
    "mpeg4": ("r.avi", "yuv420p", {"g": "5"}),
    "libx264": ("r.mkv", "yuv420p", {"g": "5", "bf": "0"}),
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("victim", [1, 7, 12])
def test_a_damaged_packet_costs_what_leans_on_it_and_no_false_pixel(codec: str, victim: int, tmp_path: Path) -> None:
    name, pixel_format, options = CODECS[codec]
    pictures = [picture(pixel_format, frame) for frame in moving(20)]
    path = written(tmp_path / name, pictures, codec, pixel_format, **options)
    whole = dict(read_recording(str(path), Damage()))
    assert len(whole) == 20
    with av.open(str(path)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    content = path.read_bytes()
    bad = bytearray(packets[victim])
    middle = len(bad) // 2
    bad[middle:] = RNG.bytes(len(bad) - middle)
    if codec in ("mjpeg", "libx264"):  # without checksums, in which other bits may be as good as the right ones
        bad = bytearray(len(bad))
    assert content.count(packets[victim]) >= 1
    path.write_bytes(content.replace(packets[victim], bytes(bad)))

    damage = Damage()
    found = dict(read_recording(str(path), damage))
    assert 1 <= damage.skipped <= 5 and len(found) + damage.skipped == 20 and not damage.missing
    assert victim not in found and 19 in found
    for number, frame in found.items():
        np.testing.assert_array_equal(frame, whole[number])
    assert f"{damage.skipped} damaged frames were left out (" in str(damage) and "\n" not in str(damage)


@pytest.mark.parametrize("codec", CODECS)
def test_half_a_recording_says_what_is_missing(codec: str, tmp_path: Path) -> None:
    name, pixel_format, options = CODECS[codec]
    pictures = [picture(pixel_format, frame) for frame in moving(30)]
    path = written(tmp_path / name, pictures, codec, pixel_format, **options)
    damage = Damage()
    whole = frames_of(path, damage)
    assert len(whole) == 30 and not damage
    content = path.read_bytes()
    with av.open(str(path)) as container:
        packet = [bytes(packet) for packet in container.demux(video=0) if packet.size][15]
    path.write_bytes(content[: content.index(packet) + len(packet) // 2])
    found = frames_of(path, damage)
    assert 5 <= len(found) <= 16
    assert len(found) + damage.skipped + damage.missing in (29, 30, 31), damage
    for frame, expected in zip(found, whole, strict=False):
        np.testing.assert_array_equal(frame, expected)


def packets_of(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def frames_by_number(path: Path) -> dict[int, np.ndarray]:
    damage = Damage()
    found = dict(read_recording(str(path), damage))
    assert not damage, damage
    return found


def remuxed(source: Path, path: Path, cut: float = 0.0, of_decoding: bool = False) -> Path:
    """The same packets in another container, without the first seconds, or with presentation times of decoding."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                before = int(cut / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - before, packet.dts - before, stream
                if of_decoding:
                    packet.dts = packet.pts
                new.mux(packet)
    return path


@pytest.fixture
def with_b_frames(tmp_path: Path) -> tuple[Path, dict[int, np.ndarray]]:
    """A recording of 30 frames whose container has no presentation times, and its frames."""
    frames = moving(30)
    with_times, without = (
        written(tmp_path / name, [picture("yuv420p", frame) for frame in frames], "libx264", "yuv420p", g="10", bf="3")
        for name in ("r.mkv", "r.avi")
    )
    whole = frames_by_number(with_times)
    assert list(whole) == list(range(30))
    return without, whole


def test_frames_are_counted_where_times_are_those_of_decoding(
    with_b_frames: tuple[Path, dict[int, np.ndarray]], tmp_path: Path
) -> None:
    path, whole = with_b_frames
    for source in (path, remuxed(path, tmp_path / "from_avi.mkv", of_decoding=True)):
        found = frames_by_number(source)
        assert list(found) == list(range(30))
        for number, frame in found.items():
            np.testing.assert_array_equal(frame, whole[number])


@pytest.mark.parametrize("name", ["r.avi", "r.mkv"])
@pytest.mark.parametrize("victim", [11, 15])  # the first packet after a key frame's, and one in the middle
def test_damage_among_b_frames_changes_no_number_and_no_pixel(
    name: str, victim: int, with_b_frames: tuple[Path, dict[int, np.ndarray]]
) -> None:
    path, whole = with_b_frames[0].with_name(name), with_b_frames[1]
    packet = packets_of(path)[victim]
    path.write_bytes(path.read_bytes().replace(packet, bytes(len(packet))))
    damage = Damage()
    found = dict(read_recording(str(path), damage))
    assert 1 <= damage.skipped <= 12 and len(found) + damage.skipped == 30 and not damage.missing
    assert [*found][-10:] == list(range(20, 30))
    for number, frame in found.items():
        np.testing.assert_array_equal(frame, whole[number])


@pytest.mark.parametrize("container", ["mp4", "mov"])
@pytest.mark.parametrize("cut", [4, 10, 14])  # within the first group of frames, all of it, and within the second
def test_a_trimmed_recording_begins_at_its_first_frame(container: str, cut: int, tmp_path: Path) -> None:
    pictures = [picture("yuv420p", frame) for frame in moving(30)]
    source = written(tmp_path / f"whole.{container}", pictures, "libx264", "yuv420p", g="10", bf="2")
    whole = frames_by_number(source)
    found = frames_by_number(remuxed(source, tmp_path / f"r.{container}", cut=cut / 10))
    assert list(found) == list(range(30 - cut))
    for number, frame in found.items():
        np.testing.assert_array_equal(frame, whole[cut + number])


def with_sound(path: Path, count: int, seconds: float) -> Path:
    """A recording of 10 frames a second, and of sound that may be longer."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10, options={"g": "5", "bf": "0"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", rate=48000, layout="mono")
        for frame in moving(count):
            container.mux(video.encode(picture("yuv420p", frame)))
        container.mux(video.encode())
        for start in range(0, int(48000 * seconds), 1024):
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 48000, start
            container.mux(sound.encode(silence))
        container.mux(sound.encode())
    return path


def cut_before(path: Path, packet: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: content.index(packets_of(path)[packet])])


@pytest.mark.parametrize("name", ["r.mkv", "r.ts", "r.mp4"])
def test_sound_that_is_longer_is_no_missing_frame(name: str, tmp_path: Path) -> None:
    assert len(frames_by_number(with_sound(tmp_path / name, count=20, seconds=4))) == 20


def test_frames_missing_beside_sound(tmp_path: Path) -> None:
    path = with_sound(tmp_path / "r.mkv", count=30, seconds=1)
    cut_before(path, packet=20)
    damage = Damage()
    found = frames_of(path, damage)
    assert 15 <= len(found) <= 20 and len(found) + damage.missing == 30 and not damage.skipped


@pytest.fixture
def with_pauses(tmp_path: Path) -> Path:
    """A recording of 20 frames at ten a second, and 3 that are shown a second each."""
    times = [*range(0, 2000, 100), 3000, 4000, 5000]
    path = tmp_path / "r.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "gray"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time, frame in zip(times, moving(len(times)), strict=True):
            shown = picture("gray", frame)
            shown.pts, shown.time_base = time, Fraction(1, 1000)
            for packet in stream.encode(shown):
                packet.duration = 1000 if time >= 3000 else 100
                container.mux(packet)
        container.mux(stream.encode())
    return path


def test_a_last_frame_that_is_shown_longer_is_no_missing_one(with_pauses: Path) -> None:
    assert len(frames_by_number(with_pauses)) == 23


def test_frames_missing_after_a_pause(with_pauses: Path) -> None:
    cut_before(with_pauses, packet=21)
    damage = Damage()
    assert 15 < len(frames_of(with_pauses, damage)) <= 21 and damage.missing


def test_what_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "noise.mkv").write_bytes(RNG.bytes(5000))
    (tmp_path / "empty.mkv").write_bytes(b"")
    for name in ("noise.mkv", "empty.mkv"):
        with pytest.raises(OSError, match=rf"{name}: no video that can be read"):
            frames_of(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mkv"):
        frames_of(tmp_path / "nowhere.mkv")
