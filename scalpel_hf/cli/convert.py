"""Convert labels to and from other programs' formats, or public SAM weights to a model folder.

Examples:

    scalpel-hf convert to coco --dataset runs/nuaa/pseudo --out exports/nuaa-coco
    scalpel-hf convert from label-studio export.json --dataset data/nuaa-0 --out data/nuaa-34
    scalpel-hf convert mobile-sam mobile_sam.pt models/mobile-sam

`scalpel-hf convert to --help`, `… from --help` and `… mobile-sam --help` say more of each.
"""

import importlib
import sys

from .program import verb_parser

DIRECTIONS = {"to": "convert_to", "from": "convert_from", "mobile-sam": "convert_mobile_sam"}


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    parser = verb_parser("convert", __doc__)
    parser.add_argument("direction", choices=DIRECTIONS, help="what to convert")
    direction = parser.parse_args(argv[:1]).direction
    importlib.import_module(f"{__package__}.{DIRECTIONS[direction]}").main(argv[1:])
