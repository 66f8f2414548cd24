"""Write a prepared or pseudo-labelled data set in another program's format.

Examples:

    scalpel-hf convert to coco --dataset runs/nuaa/pseudo --out exports/nuaa-coco
    scalpel-hf convert to label-studio --dataset data/nuaa-0 --out tasks

Frames that people labelled are exported with that label, others with their pseudo label. If there is an error, no
folder is written.
"""

import json
from pathlib import Path

import datasets

from scalpel_hf import formats
from scalpel_hf.cli.program import verb_parser
from scalpel_hf.data import load_split
from scalpel_hf.formats.label_studio import LOCAL_FILES

WRITERS = {
    "coco": formats.write_coco,
    "yolo": formats.write_yolo_detection,
    "yolo-seg": formats.write_yolo_segmentation,
    "voc": formats.write_voc,
    "label-studio": formats.write_label_studio,
    "masks": formats.write_masks,
    "imagefolder": formats.write_imagefolder,
    "parquet": formats.write_parquet,
}


def main(argv: list[str] | None = None) -> None:
    parser = verb_parser("convert to", __doc__)
    parser.add_argument("format", choices=WRITERS, help="yolo: boxes, yolo-seg: polygons")
    parser.add_argument("--dataset", required=True, help="a folder or a Hub repository")
    parser.add_argument("--split", default="train", help="split to export (default: %(default)s)")
    parser.add_argument("--out", required=True, type=Path, help="folder to write; it must not exist")
    parser.add_argument("--image-url", help=f"label-studio: start of each image's URL (default: {LOCAL_FILES})")
    args = parser.parse_args(argv)
    if args.image_url is not None and args.format != "label-studio":
        parser.error("--image-url is for label-studio")

    datasets.disable_progress_bars()
    options = {} if args.image_url is None else {"image_url": args.image_url}
    counts = WRITERS[args.format](load_split(args.dataset, args.split), args.out, **options)
    print(json.dumps(counts, indent=2))
    print(f"written to {args.out}")
