"""The whole job on synthetic frames, without data, Segment Anything model or network.

Examples:

    scalpel-hf demo
    scalpel-hf demo --out quick --frames 40 --max-steps 100

Generates frames with masks for a few of them, and test frames that all have masks, and runs `scalpel-hf run` on both.
It ends with OUT/run/report.html. After an interruption, run the same command again to resume.
"""

import argparse
import shlex
from pathlib import Path

from PIL import Image

from scalpel_hf.data.synthetic import SyntheticInfrared
from scalpel_hf.utils.files import whole_folder

from . import run
from .numbers import COUNT, between
from .program import verb_parser
from .stages import claim

MARKER = ".scalpel-demo"
SIZE, SEED = (128, 128), 0
TEST_FRAMES = 200  # with fewer, the difference between the two students is not significant


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = verb_parser("demo", __doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for everything (default: %(default)s)")
    parser.add_argument(
        "--frames", type=between(int, 10, 10**5), default=150, help="frames to train on (default: %(default)s)"
    )
    parser.add_argument("--masks", type=COUNT, default=8, help="how many of them have masks (default: %(default)s)")
    parser.add_argument("--max-steps", type=COUNT, help="train for this many steps instead of the preset's number")
    args = parser.parse_args(argv)
    if args.masks >= args.frames:
        parser.error("--masks must be fewer than --frames")
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    out: Path = args.out
    claim(out, MARKER, {"--frames": args.frames, "--masks": args.masks, "--max-steps": args.max_steps})
    camera = SyntheticInfrared(size=SIZE, seed=SEED)
    if not (out / "train").exists():
        write_frames(camera, out / "train", numbers=range(args.frames), masks=args.masks)
    if not (out / "test").exists():
        numbers = range(args.frames, args.frames + TEST_FRAMES)
        write_frames(camera, out / "test", numbers=numbers, masks=TEST_FRAMES)
    train, test = out / "train", out / "test"
    command = [str(train / "frames"), "--labels", str(train / "masks")]
    command += ["--test", str(test / "frames"), "--test-labels", str(test / "masks")]
    command += ["--out", str(out / "run"), "--preset", "demo"]
    command += [] if args.max_steps is None else ["--max-steps", str(args.max_steps)]
    print("\n$ scalpel-hf run " + shlex.join(command) + "\n", flush=True)
    run.main(command)


def write_frames(camera: SyntheticInfrared, folder: Path, numbers: range, masks: int) -> None:
    """Write the frames of these `numbers` to `folder/frames`, and the masks of the first ones to `folder/masks`."""
    with whole_folder(folder) as part:
        for name in ("frames", "masks"):
            (part / name).mkdir()
        for number in numbers:
            frame = camera.frame(number)
            Image.fromarray(frame["image"]).save(part / "frames" / f"{frame['name']}.png")
            if number - numbers.start < masks:
                Image.fromarray(frame["mask"]).save(part / "masks" / f"{frame['name']}.png")
