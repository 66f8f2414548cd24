"""Escapes text from data, such as names of frames, for Markdown that this package writes."""

import re

ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class Markdown(str):
    """Text that is Markdown already; templates don't escape it again."""


def escape(text: object) -> Markdown:
    """
    Text as one line of Markdown that is shown literally: it can't make a heading, table cell, link, picture or tag.

    Line breaks become spaces. Characters that can't be printed, and halves of surrogate pairs, become �.

    Examples:
        >>> print(escape("a|b <b>"))
        a\\|b &lt;b&gt;
    """
    line = re.sub(r"[\\`*\[\]|~$@:]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", _one_line(text))
    line = re.sub(r"[&<>]", lambda found: ENTITIES[found[0]], line)
    return Markdown(re.sub(r"^([#+=-]|\d+(?=[.)]))", lambda found: _escaped_start(found[0]), line))


def code(text: object) -> Markdown:
    """Text as one line of code in Markdown, between as many backticks as it takes."""
    line = _one_line(text) or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    edge = " " if line[0] == "`" or line[-1] == "`" else ""
    return Markdown(f"{fence}{edge}{line}{edge}{fence}")


def _one_line(text: object) -> str:
    line = " ".join(str(text).split())
    return "".join(character if character.isprintable() else "�" for character in line)


def _escaped_start(start: str) -> str:
    """Escape a line's start, which would make a list or heading: a mark by a backslash, a number by an entity."""
    return f"&#{ord(start[0])};{start[1:]}" if start[0].isdigit() else f"\\{start}"
