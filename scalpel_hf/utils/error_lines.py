"""Turns errors into one line for people, on a terminal or in a page."""

from .extras import extra_of, remedy
from .files import DiskFullError, is_disk_full

LONGEST, REMEDY = 2000, 500  # characters of an error's line, and of its end, which holds the remedy and is kept
# Errors that people can remove; their messages say how. For other errors, the line also names the class.
OF_USERS = (ImportError, OSError, ValueError, FloatingPointError, EOFError)


def one_line(error: Exception) -> str:
    """
    An error's message as one line, with a remedy where the disk is full or an optional package is missing.

    Examples:
        >>> one_line(ValueError("no frame has a label: label some"))
        'no frame has a label: label some'
        >>> one_line(KeyError("mask"))
        "KeyError: 'mask' (`--debug` shows where)"
    """
    text = " ".join(str(error).split())
    if is_disk_full(error) and not isinstance(error, DiskFullError):
        text = f"there is no room to write ({text}): make room, or choose another place"
    elif isinstance(error, MemoryError):
        text = f"there is not enough memory {text and f'({text})'}"
    elif isinstance(error, ModuleNotFoundError) and (extra := extra_of(error.name)):
        text = f"{text}: {remedy(extra)}"
    elif not isinstance(error, OF_USERS) or not text:
        text = f"{type(error).__name__}{text and f': {text}'} (`--debug` shows where)"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - REMEDY]} … {text[-REMEDY:]}"
