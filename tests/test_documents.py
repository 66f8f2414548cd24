"""The documents: links lead somewhere, lines are short, generated pages are what their programs write."""

import re
from pathlib import Path

import pytest

from scripts.render_commands import PAGE, page
from scripts.render_results import ROOT, documents

PLACES = {path: path.relative_to(ROOT).as_posix() for path in documents()}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def prose(text: str) -> list[str]:
    """A document's lines without code, tables and pictures."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return [line for line in text.splitlines() if not line.startswith(("|", "    ", "!["))]


def anchors(text: str) -> set[str]:
    """What headings are linked by, as the site and GitHub both have it."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PLACES, ids=PLACES.get)
def test_links_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        if re.match("[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), f"{PLACES[path]}: {link}"
        if path.is_relative_to(ROOT / "docs"):  # the site has nothing else
            assert target.resolve().is_relative_to(ROOT / "docs"), f"{PLACES[path]}: {link}"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{PLACES[path]}: {link}"


@pytest.mark.parametrize("path", PLACES, ids=PLACES.get)
def test_no_line_of_prose_is_long(path: Path) -> None:
    assert not [line for line in prose(path.read_text(encoding="utf-8")) if len(line) > 120]


def test_every_page_and_picture_is_linked() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in PLACES}
    linked = {
        (path.parent / link.partition("#")[0]).resolve() for path, text in texts.items() for link in LINK.findall(text)
    }
    files = {path.resolve() for path in (ROOT / "docs").rglob("*") if path.suffix in (".md", ".png")}
    assert files - linked <= {(ROOT / "docs" / "index.md").resolve()}


def test_the_readme_is_short() -> None:
    lines = [line for line in prose((ROOT / "README.md").read_text(encoding="utf-8")) if line.strip()]
    assert len(lines) <= 80


def test_entries_of_the_log_are_short() -> None:
    entries = re.split(r"^### .*$", (ROOT / "docs" / "log.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for entry in entries:
        lines = [line for line in re.split("^## ", entry, flags=re.MULTILINE)[0].splitlines() if line.strip()]
        assert len(lines) <= 10, entry


def test_the_commands_are_those_of_the_programs() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run scripts/render_commands.py"
