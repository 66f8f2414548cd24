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
from scalpel_hf.app.server import LOOPBACK

from .numbers import between
from .program import verb_parser


def main(argv: list[str] | None = None) -> None:
    parser = verb_parser("review", __doc__)
    parser.add_argument("run", metavar="RUN", type=Path, help="folder that `scalpel-hf label` made")
    parser.add_argument("--reviewer", default=None, help="who decides (default: your user's name)")
    parser.add_argument("--host", default=LOOPBACK, help="address to listen at (default: this machine's own)")
    parser.add_argument("--port", type=between(int, 0, 65535), default=0, help="to listen at (default: any free one)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    args = parser.parse_args(argv)
    review(args.run, args.reviewer or getpass.getuser(), args.host, args.port, not args.no_browser)
