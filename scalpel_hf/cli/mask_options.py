"""The flags for the meaning of masks' values, and for what masks were drawn on."""

from argparse import ArgumentParser


def add_mask_options(parser: ArgumentParser) -> None:
    """Add `--mask-values` and `--ignore-value`, for [`MaskValues.stated`]."""
    parser.add_argument(
        "--mask-values",
        nargs="+",
        metavar="V",
        help="values of target pixels in masks; all others are background. Numbers, colours such as '#ff0000', or "
        "one '>127' (default: decided from the masks, if they are unambiguous)",
    )
    parser.add_argument(
        "--ignore-value",
        nargs="+",
        metavar="V",
        help="values of pixels that are neither target nor background: ignored in training and evaluation",
    )


def add_mask_grid(parser: ArgumentParser) -> None:
    """Add `--mask-grid`, as [`load_irst_dataset`] takes it."""
    parser.add_argument(
        "--mask-grid",
        choices=("shown", "stored"),
        help="for frames with an EXIF orientation: whether masks fit the frame as shown or as stored",
    )
