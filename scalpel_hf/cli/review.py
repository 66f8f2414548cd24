"""Look through a run's pseudo labels in the browser: the least certain frames first, by keyboard.

Examples:

    scalpel-hf review runs/nuaa/pseudo

Accept a label, reject it (no target there), mend it with a brush, or go on. Each decision is at once on disk, in
RUN/review/decisions.jsonl, with who and when: from then on whatever reads RUN finds a human's label in that row. End it
with Ctrl-C and start it again to go on. The page is on this machine alone, and nothing leaves it.
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
    review(args.run, args.reviewer or getpass.getuser(), args.host, args.port, not args.no_browser)
