"""Jinja templates that escape whatever is put into them, for HTML and for Markdown."""

from typing import Any

import jinja2

from .markdown import Markdown, code, escape


def html_template(text: str) -> jinja2.Template:
    """A template of HTML or SVG; a variable that it isn't given is an error."""
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(text)


def markdown_template(text: str) -> jinja2.Template:
    """
    A template of Markdown: text becomes words, as by [`escape`]; numbers stay as they are.

    Its filters `code` and `number(format)` give Markdown that is not escaped again. Lines that hold a block alone leave
    no line behind.
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
