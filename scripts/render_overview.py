"""Draw the README's picture from a finished demo: frame, operators' maps, pseudo label, student.

    make demo
    python scripts/render_overview.py --run demo/run --out docs/pictures/overview.png

All frames are synthetic. The frame is the first one that the teacher labelled with several objects, or `--frame`.
"""

import argparse
import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scalpel_hf import SegmentationStudent
from scalpel_hf.cli.numbers import between
from scalpel_hf.cli.program import run_program
from scalpel_hf.data import load_split, read_target
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.utils.files import write_bytes
from scalpel_hf.utils.visualization import GREEN, RED, gray, operator_maps, outline

SIDE, GAP, TITLE = 288, 14, 26  # pixels


def several_objects(rows: datasets.Dataset) -> int:
    """Number of the first row with a pseudo label of two or more objects."""
    for index, (source, objects) in enumerate(zip(rows["label_source"], rows["pseudo_objects"], strict=True)):
        if source == "pseudo" and len(objects["bbox"]) > 1:
            return index
    raise ValueError("the teacher labelled no frame with several objects: name one with --frame")


def quarters(maps: dict[str, Image.Image]) -> Image.Image:
    """Four pictures in the place of one, each with its name."""
    side = (SIDE - 4) // 2
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    for place, (name, one) in enumerate(maps.items()):
        small = one.resize((side, side), Image.Resampling.LANCZOS)
        ImageDraw.Draw(small).text(
            (5, 3), name, "white", ImageFont.load_default(11), stroke_width=2, stroke_fill="black"
        )
        picture.paste(small, ((side + 4) * (place % 2), (side + 4) * (place // 2)))
    return picture


def strip(pictures: dict[str, Image.Image]) -> Image.Image:
    """Pictures from left to right under their titles."""
    sheet = Image.new("RGB", ((SIDE + GAP) * len(pictures) + GAP, TITLE + SIDE + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (title, picture) in enumerate(pictures.items()):
        left = GAP + place * (SIDE + GAP)
        draw.text((left, 6), title, "black", ImageFont.load_default(14))
        sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, TITLE))
    return sheet


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("demo/run"), help="folder of a finished `scalpel-hf run`")
    parser.add_argument("--frame", type=between(int, 0, 10**9), help="number of a training frame with a pseudo label")
    parser.add_argument("--out", type=Path, required=True, help="the picture, PNG")
    args = parser.parse_args(argv)

    rows = load_split(args.run / "pseudo", "train")
    number = several_objects(rows) if args.frame is None else args.frame
    if number >= len(rows):
        raise ValueError(f"`--frame {number}`: {args.run / 'pseudo'} has {len(rows)} frames, the first being 0")
    row = rows[number]
    if row["label_source"] != "pseudo":
        raise ValueError(f"{args.run / 'pseudo'}: the teacher gave {row['name']!r} no label")
    frame = read_frame(row["image"]).astype(np.float32)
    student = SegmentationStudent.from_pretrained(args.run / "student")
    found = student.probabilities(row["image"]) > 0.5
    pictures = {
        "1. a synthetic frame without a label": gray(frame),
        "2. what four operators see": quarters(operator_maps(frame)),
        "3. the teacher's pseudo label": outline(frame, read_target(row["pseudo_mask"]), GREEN),
        "4. what the student finds": outline(frame, found, RED),
    }
    png = io.BytesIO()
    strip(pictures).quantize(128, Image.Quantize.MAXCOVERAGE).save(png, format="PNG", optimize=True)
    write_bytes(args.out, png.getvalue())
    print(args.out)


if __name__ == "__main__":
    run_program(main)
