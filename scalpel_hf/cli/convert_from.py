"""Take labels that people drew or corrected in another program into a data set: masks, boxes and points.

Examples:

    scalpel-hf convert from coco corrected.json --dataset runs/nuaa/pseudo --out data/nuaa-2
    scalpel-hf convert from label-studio export.json --dataset data/nuaa-0 --only plan/plan.txt --out data/nuaa-34
    scalpel-hf convert from voc boxes/ --dataset data/nuaa-0 --out data/nuaa-boxes

Frames are found by name. All labels are checked first: nothing is written if a name is missing in the data set, a size
differs, or a frame has two labels. Use --only if the file also lists frames that nobody has looked at.
"""

import shutil
from pathlib import Path

import datasets

from scalpel_hf import formats
from scalpel_hf.cli.mask_options import add_mask_options
from scalpel_hf.cli.program import verb_parser
from scalpel_hf.data import LabelBudget, MaskValues, load_prepared
from scalpel_hf.data.label_sources import BY_PEOPLE
from scalpel_hf.utils.files import whole_folder
from scalpel_hf.utils.reading import read_text

BUDGET_FILE = "label_budget.json"  # as `scalpel-hf prepare` calls it


def read_names(path: Path) -> set[str]:
    """
    The names in the first column of a list such as `scalpel-hf plan` writes: one name per line. `# ` begins a comment.

    Raises `ValueError` for a list without names.
    """
    lines = (line.split("\t")[0].strip() for line in read_text(path).splitlines())
    names = {line for line in lines if line and not f"{line} ".startswith("# ")}
    if not names:
        raise ValueError(f"{path} names no frame")
    return names


def write(loaded: datasets.DatasetDict, split: str, before: Path, out: Path) -> None:
    """
    Write the data set and, in the same folder, the names of the training frames that now have a person's label.

    Labels of another split leave the training's budget as it was in the folder `before`.
    """
    with whole_folder(out) as part:
        loaded.save_to_disk(str(part))
        if split != "train" and "train" in loaded:
            if (before / BUDGET_FILE).is_file():
                shutil.copy(before / BUDGET_FILE, part)
            return
        train = loaded[split]
        human = [n for n, s in zip(train["name"], train["label_source"], strict=True) if s in BY_PEOPLE]
        budget = LabelBudget(names=tuple(sorted(human)), fraction=len(human) / len(train), seed=0, total=len(train))
        budget.save(part / BUDGET_FILE)


def main(argv: list[str] | None = None) -> None:
    parser = verb_parser("convert from", __doc__)
    parser.add_argument("format", choices=formats.READABLE, help="format of the labels; json: boxes by frame's name")
    parser.add_argument("labels", type=Path, help="JSON file; for masks, voc and yolo the folder of files")
    parser.add_argument("--dataset", required=True, help="prepared or pseudo-labelled: a folder or a Hub repository")
    parser.add_argument("--split", default="train", help="split that the labels belong to (default: %(default)s)")
    parser.add_argument("--category", help="category or label that counts as target, if there are several")
    add_mask_options(parser)
    parser.add_argument("--only", type=Path, metavar="LIST", help="file with the names of the frames to take")
    parser.add_argument("--out", required=True, type=Path, help="folder to write; it must not exist")
    args = parser.parse_args(argv)
    mask_values = MaskValues.stated(args.mask_values, args.ignore_value)
    labels = formats.read_label_file(
        args.format, args.labels, category=args.category, mask_values=mask_values, say=print
    )

    datasets.disable_progress_bars()
    datasets.disable_caching()  # intermediate results go to a temporary folder, not beside the data set
    loaded = load_prepared(args.dataset)
    if args.split not in loaded:
        raise ValueError(f"{args.dataset!r} has no split {args.split!r}, only {', '.join(loaded)}: name it by --split")
    rows = loaded[args.split]
    before = rows["label_source"][:] if "label_source" in rows.column_names else []
    labelled = formats.import_human_labels(rows, labels, read_names(args.only) if args.only else None)
    loaded[args.split] = labelled
    write(loaded, split=args.split, before=Path(args.dataset), out=args.out)
    after = labelled["label_source"][:]
    counts = ", ".join(f"{kind} {after.count(kind)}" for kind in BY_PEOPLE if kind in after)
    had, have = (sum(source in BY_PEOPLE for source in sources) for sources in (before, after))
    print(f"{had} frames had a person's label, {have} of {len(after)} have one now: {counts}")
    print(f"written to {args.out}")
