"""The flags with which a person says what the values of masks mean."""

from argparse import ArgumentParser


def add_mask_options(parser: ArgumentParser) -> None:
    """Add `--mask-values` and `--ignore-value`, for [`MaskValues.stated`]."""
    parser.add_argument(
        "--mask-values",
        nargs="+",
        metavar="V",
        help="values of target pixels in masks, all others being background: numbers, colours such as '#ff0000', or "
        "one '>127'; by default the masks' own values say it, or it is an error",
    )
    parser.add_argument(
        "--ignore-value",
        nargs="+",
        metavar="V",
        help="values of pixels that are neither target nor background: not trained on, not measured",
    )
