"""Find targets in images, videos or a camera's stream with an exported student.

    python -m scalpel_hf.runtime runs/nuaa/student frames/ --out boxes.jsonl
    python -m scalpel_hf.runtime org/student recording.mkv --out boxes.jsonl --file model_int8.onnx
    python -m scalpel_hf.runtime org/student rtsp://camera/stream

Writes one line of JSON a frame as soon as it is computed, boxes in pixels:
`{"frame": name, "boxes": [[x0, y0, x1, y1], ...], "scores": [...]}`. Whatever ends the program, the lines so far stay.
A frame that can't be read, or for which the model has no answer, has no line, and the others keep their numbers. On
standard error: frames, frames per second, the milliseconds that each took apart from reading it, and what was left out.
"""

import argparse
import sys
import time
from pathlib import Path

from scalpel_hf.cli.program import run_program

from .config import MODEL_FILE
from .lines import JsonLines, say
from .recordings import Damage
from .sources import read_stream
from .student import check_threshold, load_exported
from .tiles import TILE_SIZE

REPORT_SECONDS = 1.0
INCOMPLETE = 3
EXIT_CODES = f"""exit codes:
  0    every frame has its line
  1    an error, which the last line on standard error tells; the lines so far stay
  2    a wrong command line
  {INCOMPLETE}    it came to its end, and some frames are missing: damaged, without an answer, or cut off
  130  Ctrl+C, and 143 SIGTERM; the lines so far stay
  141  who read standard output has gone"""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scalpel_hf.runtime",
        description=__doc__,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="exported student: a folder or a repository on the Hub")
    parser.add_argument("input", help="image, folder of images, multi-page TIFF, video, stream's address or camera")
    parser.add_argument("--out", type=Path, help="new file for the lines of JSON (default: standard output)")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    parser.add_argument("--file", default=MODEL_FILE, help="ONNX file of the model (default: %(default)s)")
    parser.add_argument("--threshold", type=float, help="probability of a target (default: the model's own)")
    parser.add_argument("--threads", type=int, help="threads that compute one frame (default: all cores)")
    parser.add_argument(
        "--tile-size",
        type=int,
        default=TILE_SIZE,
        help="frames of more pixels than a square of this side are computed in tiles (default: %(default)s)",
    )
    args = parser.parse_args(argv)

    if args.threshold is not None:
        check_threshold(args.threshold)
    lines = JsonLines(args.out, args.overwrite)
    student = load_exported(args.model, args.file, threads=args.threads, tile_size=args.tile_size)
    damage, unanswered, meter = Damage(), _Unanswered(), _Meter()
    with lines:
        try:
            for name, frame in read_stream(args.input, damage):
                began = time.perf_counter()
                try:
                    found = student.detect(frame, args.threshold)
                except ValueError as error:
                    unanswered.add(name, error)
                    continue
                seconds = time.perf_counter() - began
                lines.write({"frame": name, "boxes": found.boxes.tolist(), "scores": found.scores.round(4).tolist()})
                meter.count(seconds)
        finally:
            meter.report(end="\n")
            for gap in (damage, unanswered):
                if gap:
                    say(f"{args.input}: {gap}")
    if not meter.frames:
        raise ValueError(f"{args.input}: not one frame has an answer")
    if damage or unanswered:
        sys.exit(INCOMPLETE)


class _Unanswered:
    """The frames that a model has no answer for, such as one that is no number: that is not "no targets"."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.first: str | None = None

    def add(self, name: str, error: Exception) -> None:
        self.names.append(name)
        self.first = self.first or str(error)

    def __bool__(self) -> bool:
        return bool(self.names)

    def __str__(self) -> str:
        more = f" and {len(self.names) - 5} more" if len(self.names) > 5 else ""
        return f"the model has no answer for {', '.join(self.names[:5])}{more}: {self.first}"


class _Meter:
    """Frames per second, on standard error."""

    def __init__(self) -> None:
        self.began = self.reported = time.perf_counter()
        self.frames, self.busy = 0, 0.0

    def count(self, seconds: float) -> None:
        self.frames, self.busy = self.frames + 1, self.busy + seconds
        if time.perf_counter() - self.reported > REPORT_SECONDS:
            self.report(end="\r")

    def report(self, end: str) -> None:
        self.reported = time.perf_counter()
        rate = self.frames / (self.reported - self.began)
        each = 1e3 * self.busy / max(1, self.frames)
        say(f"{self.frames} frames, {rate:.1f} fps, {each:.1f} ms each", end)


if __name__ == "__main__":
    run_program(main)
