"""Find targets in images, videos or a camera's stream with an exported student.

    python -m scalpel_hf.runtime runs/nuaa/student frames/ --out boxes.jsonl
    python -m scalpel_hf.runtime org/student recording.mkv --out boxes.jsonl --file model_int8.onnx
    python -m scalpel_hf.runtime org/student rtsp://camera/stream

Writes one line of JSON a frame, boxes in pixels:
`{"frame": name, "boxes": [[x0, y0, x1, y1], ...], "scores": [...]}`. On standard error: frames, frames per second, and
the milliseconds that each took, apart from reading it.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .config import MODEL_FILE
from .sources import read_stream
from .student import load_exported

REPORT_SECONDS = 1.0


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m scalpel_hf.runtime", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="exported student: a folder or a repository on the Hub")
    parser.add_argument("input", help="image, folder of images, multi-page TIFF, video, stream's address or camera")
    parser.add_argument("--out", type=Path, help="file for the lines of JSON (default: standard output)")
    parser.add_argument("--file", default=MODEL_FILE, help="ONNX file of the model (default: %(default)s)")
    parser.add_argument("--threshold", type=float, help="probability of a target (default: the model's own)")
    parser.add_argument("--threads", type=int, help="threads that compute one frame (default: all cores)")
    args = parser.parse_args(argv)

    student = load_exported(args.model, args.file, threads=args.threads)
    with _lines(args.out) as file:
        meter = _Meter()
        try:
            for name, frame in read_stream(args.input):
                began = time.perf_counter()
                found = student.detect(frame, args.threshold)
                meter.count(time.perf_counter() - began)
                line = {"frame": name, "boxes": found.boxes.tolist(), "scores": found.scores.round(4).tolist()}
                print(json.dumps(line), file=file, flush=args.out is None)
        except KeyboardInterrupt:  # how one stops a camera: what was found so far counts
            pass
        meter.report(end="\n")


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
        print(f"{self.frames} frames, {rate:.1f} fps, {each:.1f} ms each", end=end, file=sys.stderr, flush=True)


@contextmanager
def _lines(path: Path | None) -> Iterator[TextIO]:
    """Standard output, or a file that is there only once it is complete."""
    if path is None:
        yield sys.stdout
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            yield file
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        main()
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
