"""Text that comes from data, such as frames' names and records' values, in Markdown that this package writes."""

import re

ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class Markdown(str):
    """Text that is Markdown already, which no template escapes again."""


def escape(text: object) -> Markdown:
    """
    Words that Markdown and HTML show as they are, on one line: no heading, table cell, link, picture or tag of theirs.

    What can't be printed becomes � (so do halves of surrogate pairs, which no file takes), line breaks become spaces.
    """
    line = re.sub(r"[\\`*\[\]|~$@:]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", _one_line(text))
    line = re.sub(r"[&<>]", lambda found: ENTITIES[found[0]], line)
    return Markdown(re.sub(r"^([#+=-]|\d+(?=[.)]))", lambda found: _escaped_start(found[0]), line))


def code(text: object) -> Markdown:
    """The same between backticks, as code."""
    line = _one_line(text) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    edge = " " if line[0] == "`" or line[-1] == "`" else ""
    return Markdown(f"{fence}{edge}{line}{edge}{fence}")


def _one_line(text: object) -> str:
    line = " ".join(str(text).split())
    return "".join(character if character.isprintable() else "�" for character in line)


def _escaped_start(start: str) -> str:
    """Of a line: a mark is escaped before it, a number as its first digit's entity."""
    return f"&#{ord(start[0])};{start[1:]}" if start[0].isdigit() else f"\\{start}"
