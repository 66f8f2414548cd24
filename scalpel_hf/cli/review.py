"""Review pseudo labels in the browser, by keyboard, the least certain frames first.

Examples:

    scalpel-hf review runs/nuaa/pseudo

Accept a label, reject it (no target there), correct it with a brush, or skip the frame. Each decision is saved at once
in RUN/review/decisions.jsonl, with reviewer and time, and counts as a person's label wherever RUN is loaded. Stop with
Ctrl-C; start again to continue. The page is served on this machine only, and no data leaves it.
"""

import getpass
from pathlib import Path

from scalpel_hf.app.review_page import review

from .page_options import add_page_options
from .program import verb_parser


def main(argv: list[str] | None = None) -> None:
    parser = verb_parser("review", __doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder that `scalpel-hf label` made")
    parser.add_argument("--reviewer", default=None, help="who decides (default: your user's name)")
    add_page_options(parser)
    args = parser.parse_args(argv)
    review(args.run, args.reviewer or user_name(), host=args.host, port=args.port, browser=not args.no_browser)


def user_name() -> str:
    """The name of the user who runs the program. Raises `ValueError` where there is none, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # `KeyError` before Python 3.13
        raise ValueError("your user has no name here: say who decides, with --reviewer NAME") from None
