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

from scalpel_hf.utils.error_lines import one_line


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
