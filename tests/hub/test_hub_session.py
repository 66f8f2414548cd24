"""The session in docs/how_to/hub.md is the one that tests/hub/session.py runs, and runs."""

import re
from pathlib import Path

import pytest
from PIL import Image

from tests.hub.session import BASE, BEGIN, END, LOAD, PREDICT, PREPARE, STUDENT, TEACHER, run_session

DOCUMENT = Path(__file__).parents[2] / "docs" / "how_to" / "hub.md"


def words(commands: str) -> list[str]:
    """What a command has of fixed words, in order."""
    return [word for word in re.sub(r"\{\w+\}", "", commands).split() if word != "\\"]


def test_the_document_shows_the_commands_that_are_run() -> None:
    text = DOCUMENT.read_text()
    session = text[text.index(BEGIN) : text.index(END)]
    shown = " ".join(line.removeprefix("$ ").strip(" \\") for line in session.splitlines())
    for commands in (PREPARE, BASE, TEACHER, STUDENT):
        for command in re.sub(r"\n +", " ", commands.strip()).splitlines():
            pattern = ".*?".join(re.escape(word) for word in words(command))
            assert re.search(pattern, shown), command
    assert PREDICT in session
    assert re.search(re.escape(LOAD).replace(r"\{size\}", r"\d+"), session)
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", session):
        with Image.open(DOCUMENT.parent / picture) as image:
            image.verify()
    assert len(re.findall(r"!\[", session)) == 2


@pytest.mark.slow
def test_the_session_runs(tmp_path: Path) -> None:
    (tmp_path / "session").mkdir()
    text = run_session(tmp_path / "session", tmp_path / "pictures", None, frames=12, size=64, steps=40)
    assert len(list((tmp_path / "pictures").iterdir())) == 2
    for line in ("ScalpelSamModel finds", "ScalpelStudentForSemanticSegmentation finds", "MobileSamModel"):
        assert line in text
    assert str(tmp_path) not in text
