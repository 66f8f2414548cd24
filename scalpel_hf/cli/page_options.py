"""The flags of the verbs that serve a page in the browser."""

import argparse

from scalpel_hf.app.server import LOOPBACK

from .numbers import between


def add_page_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default=LOOPBACK, help="address to listen at (default: this machine only)")
    parser.add_argument("--port", type=between(int, 0, 65535), default=0, help="port (default: any free one)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
