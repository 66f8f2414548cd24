"""Serves the page on which a person reviews pseudo labels."""

import json
import webbrowser
from pathlib import Path
from typing import Any

from .review_session import ReviewSession
from .server import LOOPBACK, ONLY_HERE, PageServer, Reply


def responder(session: ReviewSession) -> Any:
    """
    The function that replies to the page's requests `queue`, `frame`, `picture` and `decide`, see [`PageServer`].

    It raises `KeyError` for other paths, `ValueError` for arguments that are missing or wrong, and as
    [`ReviewSession.decide`] does.
    """

    def respond(path: str, given: Any) -> Reply:
        if path == "/api/queue":
            return as_json({"run": session.folder.name, "reviewer": session.reviewer, "frames": session.queue()})
        if path == "/api/frame":
            return as_json(session.frame(number(given, "index")))
        if path == "/api/picture":
            return session.picture(number(given, "index"), given.get("what", ["frame"])[0]), "image/png"
        if path == "/api/decide":
            if not isinstance(given, list) or not all(isinstance(wish, dict) for wish in given):
                raise ValueError("decisions are a list of objects")
            return as_json(session.decide(given))
        raise KeyError(path)

    return respond


def as_json(content: Any) -> Reply:
    return json.dumps(content).encode(), "application/json"


def number(given: dict[str, list[str]], name: str) -> int:
    try:
        return int(given[name][0])
    except KeyError:
        raise ValueError(f"`{name}` is missing") from None


def review(run: str | Path, reviewer: str, host: str = LOOPBACK, port: int = 0, browser: bool = True) -> None:
    """
    Serve the page until the program is interrupted.

    Args:
        run: folder that `scalpel-hf label` made.
        reviewer: name of the person, which is saved with each decision.
        host, port: where to listen, see [`listen`].
        browser: whether to open the page in the browser.
    """
    print(f"computing how certain the labels of {run} are", flush=True)
    session = ReviewSession(run, reviewer)
    try:
        with PageServer(responder(session), host, port) as server:
            if host not in ONLY_HERE:
                print(f"warning: whoever reaches {host} and has this address sees the frames; they travel unencrypted")
            print(f"{len(session.order)} frames, {len(session.decisions)} of them decided; you are {reviewer}")
            print(server.address, flush=True)
            if browser:
                webbrowser.open(server.address)
            server.serve_forever()
    finally:
        session.close()
        print(f"{len(session.decisions)} frames are decided, in {session.folder / 'review'}", flush=True)
