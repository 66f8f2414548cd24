"""Reads frames of recordings, cameras and streams by PyAV: the stored brightness, without damaged frames."""

import os
import re
from bisect import insort
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from scalpel_hf.modeling.frame_io import open_plain_file, read_frame

# The containers of video that are opened, by FFmpeg's names. None of them can refer to other files, as playlists do.
CONTAINERS = (
    "3g2,3gp,asf,avi,dv,flv,gif,h264,hevc,ivf,m4a,matroska,mj2,mjpeg,mov,mp4,mpeg,mpegts,mpegvideo,mpjpeg,mxf,nut,ogg,"
    "webm,yuv4mpegpipe"
)
# The protocols and formats that are allowed for an address, by its scheme.
ADDRESSES = {
    "rtsp": ("rtsp,rtp,udp,tcp", "rtsp,sdp,rtp"),
    "rtsps": ("rtsps,rtsp,rtp,srtp,udp,tcp,tls", "rtsp,sdp,rtp"),
    "http": ("http,https,tcp,tls", CONTAINERS),
    "https": ("http,https,tcp,tls", CONTAINERS),
}
CAMERA = "/dev/video"
SILENCE = 30.0  # seconds without data after which a stream is an error
LONGEST_WAIT = 300  # frames that are left out after a damaged one, if no key frame comes before
# Codecs with B-frames whose packets have times of decoding where the container has none of presentation, as AVI.
TIMED_BY_CONTAINER = ("h264", "hevc", "vvc")

HIGH_BITS = ("p010", "p012", "p210", "p212", "p410", "p412")  # pixel formats with samples in the high bits
BYTE_OF_LUMA = {"yuyv422": 0, "yvyu422": 0, "uyvy422": 1, "ya8": 0}  # in packed formats, which byte of a pair is luma


@dataclass
class Damage:
    """
    What could not be read of a source; false where everything could, and as text a line for people.

    Args:
        skipped: number of frames that were left out, because they or frames that they depend on are damaged.
        missing: number of frames that the recording's header promises and that are not there.
        stopped: whether the source could not be read to its end.
        problems: messages of the first different problems.
    """

    skipped: int = 0
    missing: int = 0
    stopped: bool = False
    problems: list[str] = field(default_factory=list)

    def skip(self, problem: object = None) -> None:
        """Count a frame that is left out."""
        self.skipped += 1
        if problem is not None:
            self.note(problem)

    def stop(self, problem: object) -> None:
        """Note that the rest of the source can't be read; nobody knows how many frames that is."""
        self.stopped = True
        self.note(problem)

    def note(self, problem: object) -> None:
        """Keep the message of a problem, if it is among the first five different ones."""
        line = " ".join(str(problem).split())
        if line not in self.problems and len(self.problems) < 5:
            self.problems.append(line)

    def __bool__(self) -> bool:
        return bool(self.skipped or self.missing or self.stopped)

    def __str__(self) -> str:
        parts = [f"{self.skipped} damaged frames were left out"] if self.skipped else []
        parts += [f"{self.missing} frames are missing at its end"] if self.missing else []
        parts += ["it can't be read to its end"] if self.stopped and not self.missing else []
        return " and ".join(parts) + (f" ({'; '.join(self.problems)})" if self.problems else "")


def read_recording(source: str, damage: Damage) -> Iterator[tuple[int, np.ndarray]]:
    """
    Yields number and pixels `(H, W)` of each frame of a recording, a stream or a camera.

    The pixels are the luma as it is stored, at its own depth: limited range stays limited, and 10 bits are 0 to 1023.
    RGB is converted to luma by [`read_frame`]. Damaged frames, and frames that depend on them, are left out and counted
    in `damage`; they still count in the numbers of later frames.

    Args:
        source: a file's path, an address or a camera such as `/dev/video0`.
        damage: records what can't be read.

    Raises:
        FileNotFoundError: where there is no such file.
        ImportError: without PyAV.
        OSError: where it can't be read at all, is no video, or where a stream breaks off.
        ValueError: for an address with a scheme that is not in `ADDRESSES`.
    """
    with _opened(source) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = {**stream.codec_context.options, "err_detect": "crccheck"}
        clock = _Clock(stream.codec_context)
        if stream.codec_context.name == "ffv1":
            stream.codec_context.thread_count = 1  # see `_checksums`
        waits = 0
        for frame, is_damaged in _decoded(container, stream, source=source, clock=clock, damage=damage):
            number = clock.tick(frame, damage)
            waits = LONGEST_WAIT if is_damaged else 0 if frame.key_frame else max(0, waits - 1)
            if waits:
                damage.skip()
            else:
                yield number, _luma(frame)
        clock.stop(damage)
        damage.missing += _missing(container, stream, clock)


def frame_rate(source: str) -> Fraction | None:
    """Frames per second of a recording; `None` where it states no rate. Raises as [`read_recording`] does."""
    with _opened(source) as container:
        return container.streams.video[0].average_rate


class _Clock:
    """
    Numbers the frames of a recording. Packets from which no frame was decoded count, too.

    Args:
        decoder: PyAV's context of the decoder.
    """

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder
        self.number = 0  # of the next frame
        self.due: list[int] = []  # presentation times of packets that were decoded and have not given a frame yet
        self.end = 0.0  # seconds when the last frame's time is over
        self.discarded = 0  # packets that an edit list cuts off, and which give no frame
        self.latest: int | None = None  # time of the latest packet
        self.is_reordered = False  # whether packets came in another order than that of their times

    def wait_for(self, packet: Any) -> None:
        if packet.is_discard:
            self.discarded += 1
        elif packet.size and packet.pts is not None:
            self.is_reordered |= self.latest is not None and packet.pts < self.latest
            self.latest = packet.pts
            self.end = max(self.end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            insort(self.due, packet.pts)

    def tick(self, frame: Any, damage: Damage) -> int:
        """The number of a decoded frame. Packets that were due before it are counted as damaged frames."""
        if frame.pts is not None and frame.pts in self.due:
            while self.due[0] != frame.pts and (frame.key_frame or self._shows_order()):
                del self.due[0]
                self._lose(damage)
            self.due.remove(frame.pts)
        self.number += 1
        return self.number - 1

    def _shows_order(self) -> bool:
        """Whether times tell the frames' order. If not, all that is known is that key frames come after all before."""
        may_be_of_decoding = self.decoder.name in TIMED_BY_CONTAINER and self.decoder.has_b_frames
        return self.is_reordered or not may_be_of_decoding

    def stop(self, damage: Damage) -> None:
        for _ in self.due:
            self._lose(damage)

    def _lose(self, damage: Damage) -> None:
        self.number += 1
        damage.skip()


def _is_live(source: str) -> bool:
    return source.lower().startswith(("rtsp://", "rtsps://")) or os.path.realpath(source).startswith(CAMERA)


@contextmanager
def _opened(source: str) -> Iterator[Any]:
    """Opens a file, address or camera that has video, as PyAV's container; raises as [`read_recording`] does."""
    try:
        import av
    except ImportError as error:
        raise ImportError('videos and cameras need PyAV: pip install "scalpel-hf[video]"') from error

    scheme, is_address, _ = source.partition("://")
    if is_address and scheme.lower() not in ADDRESSES:
        raise ValueError(f"{source}: an address begins with {', '.join(f'{name}://' for name in ADDRESSES)}")
    try:
        if is_address:
            protocols, formats = ADDRESSES[scheme.lower()]
            options = {"protocol_whitelist": protocols, "format_whitelist": formats}
            container: Any = av.open(source, options=options, timeout=SILENCE)
        elif os.path.realpath(source).startswith(CAMERA):
            container = av.open(os.path.realpath(source), format="v4l2", options={"protocol_whitelist": "file"})
        else:  # an open file, because FFmpeg would interpret a path that begins with `concat:` and the like
            options = {"protocol_whitelist": "none", "format_whitelist": CONTAINERS}
            container = av.open(open_plain_file(source), options=options)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except av.FFmpegError as error:
        raise OSError(f"{source}: no video that can be read ({error.strerror})") from error
    with container:
        if not container.streams.video:
            raise OSError(f"{source} has no video in it")
        yield container


def _decoded(container: Any, stream: Any, source: str, clock: _Clock, damage: Damage) -> Iterator[tuple[Any, bool]]:
    """Yields each decoded frame, and whether it is damaged or one of those up to the first after a damaged packet."""
    import av

    packets = container.demux(stream)
    is_damaged, lost_at = False, None
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            if "://" in source:
                raise OSError(f"{source}: the stream broke off ({error.strerror})") from error
            damage.stop(error.strerror)
            return
        if packet is None:
            if _is_live(source):
                damage.stop("the stream ended, which a camera's does only if it breaks off")
            return
        clock.wait_for(packet)
        frames = []
        with _checksums(stream) as log:
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                if packet.size:  # the last packet is empty and only empties the decoder
                    damage.note(error.strerror)
                    is_damaged, lost_at = True, packet.pts
        if any("CRC" in message for _, _, message in log):
            damage.note("a checksum is wrong")
            is_damaged = True
        for frame in frames:
            if frame.is_corrupt:
                damage.note("a picture is damaged")
            yield frame, is_damaged or frame.is_corrupt
            # With B-frames, a key frame from before the packet may still come. What leans on the packet follows it.
            is_damaged = is_damaged and None not in (frame.pts, lost_at) and frame.pts < lost_at


@contextmanager
def _checksums(stream: Any) -> Iterator[list[tuple[int, str, str]]]:
    """Collects messages of FFV1's decoder in the block. It reports a wrong checksum only there, and fills the frame."""
    import av

    if stream.codec_context.name != "ffv1":
        yield []
        return
    before = av.logging.get_level()
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as log:  # captures this thread only; hence `thread_count = 1`
            yield log
    finally:
        av.logging.set_level(before)


def _missing(container: Any, stream: Any, clock: _Clock) -> int:
    """How many frames are missing at the end of a recording, by the number or duration in its header."""
    duration = _duration(container, stream)
    lacking = (duration - clock.end) * float(stream.average_rate or 0)
    if not stream.frames:
        return round(lacking) if lacking > 1.5 else 0
    # Whole groups of frames that an edit list cuts off don't come, though the header counts them: then the duration
    # tells. A list that begins within a frame is up to a frame longer than what comes.
    if container.format.name.startswith("mov") and duration and lacking < 0.95:
        return 0
    return max(0, stream.frames - clock.discarded - clock.number)


def _duration(container: Any, stream: Any) -> float:
    """When a recording's last frame is over, in seconds, by its header; 0 where that does not tell."""
    for key, text in sorted(stream.metadata.items()):  # Matroska's tags of each stream, those without a language first
        stated = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", text)
        if key.startswith("DURATION") and stated:
            hours, minutes, seconds = map(float, stated.groups())
            return 3600 * hours + 60 * minutes + seconds
    if stream.duration and container.format.name != "asf":  # which gives each stream the duration of the longest
        return float((stream.duration + (stream.start_time or 0)) * stream.time_base)
    # The container's is that of its longest stream, which may be sound.
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0


def _luma(frame: Any) -> np.ndarray:
    """The luma of PyAV's frame, `(H, W)` uint8 or uint16."""
    name = frame.format.name
    luma = frame.format.components[0]
    if name in ("ya16le", "ya16be"):  # samples of gray and alpha in turn
        return _plane(frame, ">u2" if name == "ya16be" else "<u2", 2 * frame.width)[:, ::2].astype(np.uint16)
    if name in BYTE_OF_LUMA:
        return _plane(frame, np.uint8, 2 * frame.width)[:, BYTE_OF_LUMA[name] :: 2]
    if frame.format.is_rgb or frame.format.has_palette:
        deep = luma.bits > 8
        return read_frame(frame.reformat(format="rgb48le" if deep else "rgb24").to_ndarray())
    if not name.startswith(("gray", "yuv", "nv", "p0", "p2", "p4")):  # a rare format: convert it to one with planes
        frame = frame.reformat(format="gray" if name.startswith("mono") else _planes_of(luma.bits))
        name = frame.format.name
    if luma.bits <= 8:
        return _plane(frame, np.uint8, frame.width)
    pixels = _plane(frame, np.dtype(">u2" if name.endswith("be") else "<u2"), frame.width).astype(np.uint16)
    return pixels >> (16 - luma.bits) if name.startswith(HIGH_BITS) else pixels


def _planes_of(bits: int) -> str:
    return "yuv444p" if bits <= 8 else f"yuv444p{bits if bits in (9, 10, 12, 14) else 16}le"


def _plane(frame: Any, dtype: Any, width: int) -> np.ndarray:
    """The frame's first plane as `(H, width)`, copied out of the decoder's memory."""
    plane = frame.planes[0]
    if plane.line_size < 0:
        raise ValueError(f"pictures that are stored from the bottom up ({frame.format.name}) can't be read")
    samples = np.frombuffer(plane, dtype).reshape(-1, plane.line_size // np.dtype(dtype).itemsize)
    return samples[: frame.height, :width].copy()
