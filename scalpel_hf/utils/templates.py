"""Jinja templates for HTML and Markdown that escape all values."""

from typing import Any

import jinja2

from .markdown import Markdown, code, escape


def html_template(text: str) -> jinja2.Template:
    """A template of HTML or SVG. Rendering it without one of its variables raises `UndefinedError`."""
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(text)


def markdown_template(text: str) -> jinja2.Template:
    """
    A template of Markdown. Text is escaped by [`escape`]; numbers stay as they are.

    The filters `code` and `number(format)` return Markdown that is not escaped again. Lines that contain only a block
    tag don't appear in the result. Rendering without one of the variables raises `UndefinedError`.

    Examples:
        >>> markdown_template("{{ name }}: {{ value | number('.1f') }}").render(name="a_b *", value=0.25)
        'a_b \\\\*: 0.2'
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        finalize=_as_markdown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "number": _number}
    return environment.from_string(text)


def _as_markdown(value: Any) -> Any:
    return value if isinstance(value, Markdown | int | float) else escape(value)


def _number(value: float, form: str) -> Markdown:
    return Markdown(format(value, form))
