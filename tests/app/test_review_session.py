"""The review without a browser: order, decisions, and what the server lets through."""

import http.client
import json
import re
import shutil
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest

from scalpel_hf.app.certainty import certainty
from scalpel_hf.app.review_page import responder
from scalpel_hf.app.review_session import ReviewSession
from scalpel_hf.app.server import ConflictError, PageServer
from scalpel_hf.cli import review
from scalpel_hf.data import load_split, read_mask
from scalpel_hf.formats import HumanLabel, import_human_labels
from scalpel_hf.pseudo_labels.job import LabellingJob
from scalpel_hf.pseudo_labels.reviews import mask_of_runs
from scalpel_hf.pseudo_labels.rules import Rules
from tests.app.decisions import read_decisions
from tests.pseudo_labels.helpers import FakeTeacher, png, with_image

from .runs import make_run, quiet


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_run(folder)
    return folder


@pytest.fixture
def session(made: Path, tmp_path: Path) -> Iterator[ReviewSession]:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    session = ReviewSession(tmp_path / "run", "ada")
    yield session
    session.close()


def label(rows: datasets.Dataset, folder: Path, rules: Rules) -> None:
    job = LabellingJob(rows, FakeTeacher(), folder, rules, report=quiet)
    job.predict()
    job.finalize()


def labelled(confidence: list[list[int]], mask: list[list[int]] | None, scores: list[float]) -> dict:
    return {
        "pseudo_confidence": {"bytes": png(np.array(confidence, np.uint8)), "path": None},
        "pseudo_mask": None if mask is None else {"bytes": png(np.array(mask, np.uint8) * np.uint8(255)), "path": None},
        "pseudo_objects": {"score": scores},
        "teacher": {"threshold": 0.5},
    }


def test_certainty() -> None:
    """The worst of the objects, of the background away from them, and of what quality control turned down."""
    far = [0] * 10
    assert certainty(labelled([[255, 120, *far]], [[1, 0, *far]], [0.9])) == pytest.approx(0.8)  # its own soft edge
    assert certainty(labelled([[255, *far, 102]], [[1, *far, 0]], [0.95])) == pytest.approx(0.2)  # 0.4 elsewhere
    assert certainty(labelled([[255, *far, 250]], [[1, *far, 0]], [0.95])) == 0  # turned down
    assert certainty(labelled([[255, 0, 250, *far]], [[1, 0, 0, *far]], [0.95])) == 0  # also close to an object
    assert certainty(labelled([[0, 51, *far]], None, [])) == pytest.approx(0.6)
    assert certainty({"pseudo_confidence": None, "teacher": None}) == 1


def test_the_least_certain_come_first_and_humans_not_at_all(session: ReviewSession) -> None:
    queue = session.queue()
    rows = load_split(session.folder, "train")
    assert {frame["name"] for frame in queue} == {r["name"] for r in rows if r["label_source"] != "human"}
    certainties = [frame["certainty"] for frame in queue]
    assert certainties == sorted(certainties) and len(set(certainties)) > 2
    rows = {row["name"]: row for row in rows}
    for frame in queue:
        assert frame["empty"] == (rows[frame["name"]]["pseudo_objects"]["area"] == [])


def test_accepting_rejecting_and_mending(session: ReviewSession) -> None:
    with_target = [f for f in session.queue() if not f["empty"]]
    kept, denied, mended = with_target[:3]
    teacher = {f["name"]: session.frame(f["index"])["teacher"] for f in with_target}
    session.decide([{"index": kept["index"], "decision": "accept"}, {"index": denied["index"], "decision": "reject"}])
    session.decide([{"index": mended["index"], "decision": "mend", "runs": [7, 2]}])
    rows = {row["name"]: row for row in load_split(session.folder, "train")}
    masks = {n: read_mask(rows[n]["mask"]) > 0 for n in (kept["name"], denied["name"], mended["name"])}
    assert np.array_equal(masks[kept["name"]], mask_of_runs(teacher[kept["name"]], (32, 40)))
    assert masks[kept["name"]].any() and not masks[denied["name"]].any()
    assert np.flatnonzero(masks[mended["name"]]).tolist() == [7, 8]
    assert session.frame(mended["index"])["person"] == (7, 2)


@pytest.mark.parametrize(
    "wish",
    [
        {"index": 10**6, "decision": "accept"},
        {"index": "0", "decision": "accept"},
        {"index": None, "decision": "accept"},
        {"decision": "accept"},
        {"index": 0, "decision": "delete"},
        {"index": 0},
        {"index": 0, "decision": "mend", "runs": [0, 10**6]},
        {"index": 0, "decision": "mend", "runs": [5]},
    ],
)
def test_one_wrong_wish_and_nothing_is_written(session: ReviewSession, wish: dict) -> None:
    good = {"index": session.queue()[0]["index"], "decision": "reject"}
    with pytest.raises(ValueError, match=r"row|decision|run"):
        session.decide([good, wish])
    assert not read_decisions(session.folder) and session.queue()[0]["decision"] is None


def test_one_session_at_a_time_and_it_resumes(session: ReviewSession) -> None:
    first = session.queue()[0]
    session.decide([{"index": first["index"], "decision": "reject"}])
    with pytest.raises(ValueError, match="being reviewed already"):
        ReviewSession(session.folder, "bob")
    session.close()
    again = ReviewSession(session.folder, "bob")
    assert [f["decision"] for f in again.queue()] == ["reject", *[None] * (len(again.queue()) - 1)]
    again.close()


def test_undo_restores_the_decision_before(session: ReviewSession) -> None:
    index, name = session.queue()[0]["index"], session.queue()[0]["name"]
    session.decide([{"index": index, "decision": "mend", "runs": [5, 2]}])
    session.decide([{"index": index, "decision": "reject"}])
    session.decide([{"index": index, "decision": "accept"}])
    session.close()
    again = ReviewSession(session.folder, "bob")
    undo = [{"index": index, "decision": "undo"}]
    assert again.decide(undo)[0]["decision"] == "reject"
    assert again.decide(undo)[0]["decision"] == "mend"
    assert again.frame(index)["person"] == (5, 2) and read_decisions(session.folder)[name].by == "ada"
    assert again.decide(undo) == [{"index": index, "decision": None, "at": None}]
    assert not read_decisions(session.folder)
    again.close()


def test_a_decision_about_what_changed_meanwhile_is_refused(session: ReviewSession) -> None:
    first, second = session.queue()[:2]
    mend = {"index": first["index"], "decision": "mend", "runs": [5, 2], "known": None}
    (done,) = session.decide([mend])
    assert done["at"] == session.queue()[0]["at"] == session.frame(first["index"])["at"]
    for wish in ({**mend, "decision": "reject"}, {**mend, "decision": "undo", "known": "earlier"}):
        with pytest.raises(ConflictError, match=first["name"]):
            session.decide([{"index": second["index"], "decision": "reject", "known": None}, wish])
    assert {d.decision for d in read_decisions(session.folder).values()} == {"mend"}
    session.decide([{**mend, "decision": "undo", "known": done["at"]}])
    assert not read_decisions(session.folder) and session.queue()[0]["at"] is None


def test_labelling_again_keeps_what_people_decided(session: ReviewSession) -> None:
    first = session.queue()[0]
    session.decide([{"index": first["index"], "decision": "reject"}])
    session.close()
    frames = datasets.load_from_disk(str(session.folder.parent / "frames"))
    other = Rules(0.7, min_score=0.75, min_empty=0.0)
    for rows in (frames, load_split(session.folder, "train")):  # the latter with the review's labels
        label(rows, session.folder, other)
        reviewed = next(row for row in load_split(session.folder, "train") if row["name"] == first["name"])
        assert reviewed["review"]["decision"] == "reject"


def test_labelling_other_frames_of_the_same_names_skips_what_people_decided(session: ReviewSession) -> None:
    names = [frame["name"] for frame in session.queue()[:3]]
    session.decide([{"index": frame["index"], "decision": "reject"} for frame in session.queue()[:3]])
    session.close()
    rows = datasets.load_from_disk(str(session.folder.parent / "frames"))
    other, drawn = names[:2]  # another frame of that name; a frame on which a person has drawn since
    kept = [index for index, name in enumerate(rows["name"]) if name != names[2]]
    rows = import_human_labels(rows, [HumanLabel(drawn, np.ones((32, 40), bool), "drawn")], keep_in_memory=True)
    rows = with_image(rows, rows["name"][:].index(other), png(np.eye(32, 40, dtype=np.uint8))).select(kept)
    label(rows, session.folder, Rules(0.8))
    with pytest.warns(UserWarning, match="are skipped") as said:
        labelled = {row["name"]: row for row in load_split(session.folder, "train")}
    assert len(said) == 1 and all(name in str(said[0].message) for name in names)
    assert labelled[other]["label_source"] != "human" and np.all(read_mask(labelled[drawn]["mask"]) > 0)
    with pytest.warns(UserWarning, match="are skipped"):
        again = ReviewSession(session.folder, "bob")
    assert not any(frame["decision"] for frame in again.queue())
    again.close()


def test_a_streamed_run_is_reviewed_too(made: Path, tmp_path: Path) -> None:
    frames = datasets.load_from_disk(str(made / "frames")).to_iterable_dataset()
    job = LabellingJob(frames, FakeTeacher(), tmp_path / "streamed", Rules(0.8), report=quiet)
    job.predict()
    job.finalize()
    session = ReviewSession(tmp_path / "streamed", "ada")
    index, name = session.queue()[0]["index"], session.queue()[0]["name"]
    session.decide([{"index": index, "decision": "reject"}])
    session.close()
    rows = {row["name"]: row for row in load_split(tmp_path / "streamed", "train")}
    assert rows[name]["label_source"] == "human" and rows[name]["review"]["by"] == "ada"


def test_what_is_no_run_is_said(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for folder, complaint in [
        (tmp_path / "nowhere", "holds no pseudo labels"),
        (tmp_path, "holds no pseudo labels"),
        (tmp_path / "frames", "lacks the columns"),
    ]:
        with pytest.raises(ValueError, match=complaint):
            review.main([str(folder), "--no-browser"])
    assert not (tmp_path / "nowhere").exists() and not (tmp_path / "frames" / "review").exists()


# The server


@pytest.fixture
def server(session: ReviewSession) -> Iterator[PageServer]:
    with PageServer(responder(session)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: PageServer, path: str, token: str | None = None, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    headers = {} if token is None else {"X-Token": token}
    connection.request("GET" if body is None else "POST", path, body, headers)
    answer = connection.getresponse()
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    return answer.status, answer.read()


def test_it_listens_on_this_machine_alone(server: PageServer) -> None:
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("path", ["/api/queue", "/api/frame?index=0", "/api/picture?index=0&what=frame", "/api/decide"])
def test_nothing_without_the_token(server: PageServer, path: str) -> None:
    for token in (None, "", "wrong", server.token[:-1]):
        assert ask(server, path, token)[0] == 403
        assert ask(server, path, token, b"[]")[0] == 403


def test_what_the_page_asks_for(server: PageServer, session: ReviewSession) -> None:
    assert {ask(server, path)[0] for path in ("/", "/review.js", "/brush.js", "/grid.js", "/review.css")} == {200}
    status, queue = ask(server, "/api/queue", server.token)
    assert status == 200 and json.loads(queue)["reviewer"] == "ada"
    index = session.queue()[0]["index"]
    assert json.loads(ask(server, f"/api/frame?index={index}", server.token)[1])["width"] == 40
    for what in ("frame", "confidence"):
        assert ask(server, f"/api/picture?index={index}&what={what}", server.token)[1].startswith(b"\x89PNG")
    wish = [{"index": index, "decision": "accept", "known": None}]
    status, said = ask(server, "/api/decide", server.token, json.dumps(wish).encode())
    decided = session.queue()[0]
    assert status == 200 and json.loads(said) == [{key: decided[key] for key in ("index", "decision", "at")}]
    status, complaint = ask(server, "/api/decide", server.token, json.dumps(wish).encode())
    assert status == 409 and decided["name"].encode() in complaint


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/frame", None, 422),
        ("/api/frame?index=x", None, 422),
        ("/api/frame?index=-1", None, 422),
        ("/api/picture?index=99999&what=frame", None, 422),
        ("/api/nothing", None, 404),
        ("/../secret", None, 404),
        ("/api/decide", None, 422),
        ("/api/decide", b"{}", 422),
        ("/api/decide", b"[1]", 422),
        ("/api/decide", b"\xff", 400),
        ("/api/decide", b"[" * 200_000, 400),
        ("/api/decide", b'[{"index": 0, "decision": "mend", "runs": "abc"}]', 422),
        ("/api/decide", b'[{"index": 0, "decision": "mend", "runs": [0.5, 1]}]', 422),
        ("/api/decide", b'[{"index": 0, "decision": "mend", "runs": [[0], [1]]}]', 422),
        ("/api/decide", b'[{"index": true, "decision": "mend", "runs": 3}]', 422),
    ],
)
def test_wrong_requests_are_told_so(server: PageServer, path: str, body: bytes | None, status: int) -> None:
    assert ask(server, path, server.token, body)[0] == status
    assert ask(server, "/api/queue", server.token)[0] == 200
    assert not read_decisions(server.respond.__closure__[0].cell_contents.folder)  # type: ignore[attr-defined]


def raw(server: PageServer, request: str) -> bytes:
    with socket.create_connection(server.server_address[:2], timeout=5) as connection:
        connection.sendall(request.encode())
        return connection.makefile("rb").readline()


@pytest.mark.parametrize(("length", "status"), [("abc", 400), ("-1", 400), ("9" * 5000, 400), ("9" * 15, 413)])
def test_the_length_is_checked_after_the_token(server: PageServer, length: str, status: int) -> None:
    request = f"POST /api/decide HTTP/1.1\r\nContent-Length: {length}\r\n"
    assert b" 403 " in raw(server, f"{request}\r\n")
    assert f" {status} ".encode() in raw(server, f"{request}X-Token: {server.token}\r\n\r\n")


def test_a_page_that_was_left_is_no_error(server: PageServer, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        connection = socket.create_connection(server.server_address[:2])
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # `close` resets it
        connection.sendall(b"GET / HTTP/1.1\r\n")
        connection.close()
    time.sleep(0.2)
    assert ask(server, "/")[0] == 200
    assert capfd.readouterr().err == ""


def test_the_host(session: ReviewSession) -> None:
    if socket.has_dualstack_ipv6():
        with PageServer(responder(session), "::1") as server:
            assert re.match(r"http://\[::1\]:\d+/#", server.address)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            with urllib.request.urlopen(server.address) as answer:
                assert answer.status == 200
            server.shutdown()
            thread.join()
    for host in ("192.0.2.1", "no.such.host.invalid"):
        with pytest.raises(ValueError, match=f"can't listen at --host {host} --port 0: "):
            PageServer(responder(session), host)
