"""How a program is run: what it prints, and how it ends when something is wrong or someone stops it."""

import argparse
import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from scalpel_hf.utils.files import DiskFullError, is_disk_full

LONGEST, REMEDY = 2000, 500  # characters of an error's line, and of its end, which is kept
# Raised for what a person can mend, with a message that says so; of others, the kind is part of the message.
OF_USERS = (ImportError, OSError, ValueError, FloatingPointError, EOFError)


class Terminated(BaseException):
    """SIGTERM came. Like `KeyboardInterrupt`, no `except Exception` stops it, and every `finally` on its way is run."""


def run_program(main: Callable[[], object], resumes: bool = False) -> None:
    """
    Run a program's `main`, which reads `sys.argv`, so that it ends in a way that a person or a script understands.

    An error is one line on standard error, `error: …`, and exit code 1; a warning is one that begins with `warning:`.
    With the flag `--debug`, anywhere among the arguments, an error's traceback comes before, and warnings say where
    they come from. Ctrl-C is a line and exit code 130, SIGTERM one and 143; a second Ctrl-C ends the program at once.
    Output is UTF-8 whatever the locale.

    Args:
        resumes: whether the same command resumes where it was stopped, which is said then.
    """
    debug = "--debug" in sys.argv
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if not debug:
        warnings.simplefilter("ignore", FutureWarning)  # of libraries, to those who develop with them
        warnings.formatwarning = _plain_warning
    try:
        with _signals_as_exceptions():
            main()
            sys.stdout.flush()
    except (KeyboardInterrupt, Terminated) as stop:
        word, code = ("terminated", 143) if isinstance(stop, Terminated) else ("interrupted", 130)
        print(f"\n{word}{'; run the same command again to resume' if resumes else ''}", file=sys.stderr, flush=True)
        sys.exit(code)
    except BrokenPipeError:  # who read the output has gone, as `head` does; Python flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(141)
    except Exception as error:
        if debug:
            traceback.print_exc()
        sys.exit(f"error: {one_line(error)}")


def _plain_warning(message: Warning | str, *where: object, **line: object) -> str:
    return f"warning: {message}\n"


def one_line(error: Exception) -> str:
    """An error as one line: what it says, and where that isn't meant for a person, its kind."""
    text = " ".join(str(error).split())
    if is_disk_full(error) and not isinstance(error, DiskFullError):
        text = f"there is no room to write ({text}): make room, or choose another place"
    elif isinstance(error, MemoryError):
        text = f"there is not enough memory {text and f'({text})'}"
    elif not isinstance(error, OF_USERS) or not text:
        text = f"{type(error).__name__}{text and f': {text}'} (`--debug` shows where)"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - REMEDY]} … {text[-REMEDY:]}"


@contextmanager
def _signals_as_exceptions() -> Iterator[None]:
    """Make SIGINT and SIGTERM raise, in this process alone: those that it forks end as they would without."""
    program = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() == program:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending already
        elif number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heeded = [number for number, handler in before.items() if handler != signal.SIG_IGN]  # `nohup` and `&` ask for that
    for number in heeded:
        signal.signal(number, stop)
    yield
    for number in heeded:
        signal.signal(number, before[number])


def verb_parser(verb: str, text: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of a verb's flags, whose help begins with its module's docstring."""
    return argparse.ArgumentParser(
        prog=f"scalpel-hf {verb}",
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
