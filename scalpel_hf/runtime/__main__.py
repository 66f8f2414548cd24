"""Find targets in images, videos or a camera's stream with an exported student.

Examples:

    scalpel-hf predict runs/nuaa/student frames/ --out boxes.jsonl
    scalpel-hf predict org/student recording.mkv --out boxes.jsonl --file model_int8.onnx
    scalpel-hf predict org/student recording.mkv --track --min-frames 5 --overlay seen.mp4 --out boxes.jsonl
    scalpel-hf predict org/student rtsp://camera/stream

Writes one line of JSON for each frame as soon as it is computed, with boxes in pixels:
`{"frame": name, "boxes": [[x0, y0, x1, y1], ...], "scores": [...]}`. If the program is interrupted, the lines so far
are kept, and an overlay or a COCO file isn't written: an older one stays. Those of a stream or a camera end there.
A frame that can't be read, or for which the prediction fails, has no line; the numbers of later frames don't
change. Standard error shows frames, targets, frames per second, milliseconds per frame without reading, and the
frames left out.
"""

import argparse
import os
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from scalpel_hf.cli.program import run_program

from .lines import JsonLines, check_is_new, say
from .onnx_models import check_threshold, load_exported
from .overlay import Overlay, rate_of
from .recordings import Damage
from .results import CocoFile, Result
from .settings import MODEL_FILE
from .sources import read_stream
from .tiles import TILE_SIZE
from .tracks import Tracker

REPORT_SECONDS = 1.0
INCOMPLETE = 3
NAME = "python -m scalpel_hf.runtime"  # the command where only the runtime is installed, without `scalpel-hf predict`
EXIT_CODES = f"""exit codes:
  0    every frame has its line
  1    an error; the last line on standard error says which, and the lines so far are kept
  2    a wrong command line
  {INCOMPLETE}    finished, but some frames are missing: damaged, without a prediction, or cut off
  130  Ctrl+C, and 143 SIGTERM; the lines so far are kept
  141  the reader of standard output has gone"""


def main(argv: list[str] | None = None, name: str = NAME) -> None:
    args = parse(argv, name)
    student = load_exported(args.model, args.file, threads=args.threads, tile_size=args.tile_size)
    tracker = Tracker(args.min_frames) if args.track or args.min_frames > 1 else None
    damage, unanswered, meter = Damage(), _Unanswered(), _Meter()
    with ExitStack() as open_files:
        # An overlay or a COCO file of a part replaces no file. But a stream or a camera only ends by being interrupted.
        has_end = os.path.isfile(args.input) or os.path.isdir(args.input)
        outputs = [open_files.enter_context(output if has_end else closing(output)) for output in outputs_of(args)]

        def write(results: list[Result]) -> None:
            for result in results:
                meter.found += len(result.boxes)
                for output in outputs:
                    output.write(result if args.track else replace(result, tracks=None))

        try:
            for index, (frame_name, frame) in enumerate(read_stream(args.input, damage)):
                began = time.perf_counter()
                try:
                    found = student.detect(frame, args.threshold)
                except ValueError as error:
                    unanswered.add(frame_name, error)
                    continue
                seconds = time.perf_counter() - began
                result = Result(frame_name, frame, boxes=found.boxes, scores=found.scores)
                write(tracker.push(result, index + damage.skipped) if tracker else [result])
                meter.count(seconds)
        finally:
            write(tracker.rest() if tracker else [])
            meter.report(end="\n")
            for gap in (damage, unanswered):
                if gap:
                    say(f"{args.input}: {gap}")
    if not meter.frames:
        raise ValueError(f"{args.input}: not one frame has a prediction")
    if damage or unanswered:
        sys.exit(INCOMPLETE)


def parse(argv: list[str] | None, name: str) -> argparse.Namespace:
    """The command line; `ValueError` where a value is out of range or an output would replace a file."""
    args = _parser(name).parse_args(argv)
    if args.threshold is not None:
        check_threshold(args.threshold)
    if not 1 <= args.min_frames <= 1000:
        raise ValueError(f"`--min-frames` is from 1 to 1000, got {args.min_frames}")
    for path, option in ((args.out, "--out"), (args.overlay, "--overlay")):
        check_is_new(path, args.overwrite, option)
        if path is not None and path.resolve() == Path(args.input).resolve():
            raise ValueError(f"{path} is the input, which is never replaced: choose another `{option}`")
    if args.out is not None and args.overlay is not None and args.out.resolve() == args.overlay.resolve():
        raise ValueError(f"`--out` and `--overlay` are the same file, {args.out}: choose another name for one of them")
    return args


def _parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name,
        description=(__doc__ or "").replace("scalpel-hf predict", name),
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
        help="frames with more pixels than a square of this side are split into tiles (default: %(default)s)",
    )
    parser.add_argument("--format", choices=["jsonl", "coco"], default="jsonl", help="of --out (default: %(default)s)")
    parser.add_argument("--overlay", type=Path, help="video of the frames with boxes and scores drawn, an .mp4 or .mkv")
    parser.add_argument(
        "--track",
        action="store_true",
        help="track targets: `tracks` gives each a number that stays the same in all frames",
    )
    parser.add_argument(
        "--min-frames",
        type=int,
        default=1,
        help="leave out targets that are seen in fewer frames (default: %(default)s)",
    )
    return parser


def outputs_of(args: argparse.Namespace) -> list[JsonLines | CocoFile | Overlay]:
    """Opens the outputs that the flags ask for; `ValueError` where COCO is to go to standard output."""
    if args.format == "coco" and args.out is None:
        raise ValueError("a COCO file is written at the end: name it with `--out`")
    file = CocoFile(args.out) if args.format == "coco" else JsonLines(args.out, args.overwrite)
    return [file, *([Overlay(args.overlay, rate_of(args.input))] if args.overlay else [])]


class _Unanswered:
    """The frames for which the prediction failed, for example with NaN. They don't count as frames without targets."""

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
        return f"the model has no prediction for {', '.join(self.names[:5])}{more}: {self.first}"


class _Meter:
    """Counts frames and written targets, and reports them with the frames per second on standard error."""

    def __init__(self) -> None:
        self.began = self.reported = time.perf_counter()
        self.frames, self.found, self.busy = 0, 0, 0.0

    def count(self, seconds: float) -> None:
        self.frames, self.busy = self.frames + 1, self.busy + seconds
        if time.perf_counter() - self.reported > REPORT_SECONDS:
            self.report(end="\r")

    def report(self, end: str) -> None:
        self.reported = time.perf_counter()
        rate = self.frames / (self.reported - self.began)
        each = 1e3 * self.busy / max(1, self.frames)
        say(f"{self.frames} frames, {self.found} targets, {rate:.1f} fps, {each:.1f} ms each", end)


if __name__ == "__main__":
    run_program(main)
