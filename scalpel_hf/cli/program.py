"""Runs programs: how they print errors and warnings, and which exit codes they have."""

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
    """Raised on SIGTERM. Like `KeyboardInterrupt`, it passes `except Exception`, and runs every `finally`."""


def run_program(main: Callable[[], object], resumes: bool = False) -> None:
    """
    Run a program's `main`, and turn its errors and signals into messages and exit codes.

    An error prints one line on standard error, `error: …`; the exit code is 1. A warning prints one line, `warning: …`.
    With the flag `--debug`, anywhere in `sys.argv`, the traceback comes before the error's line, and warnings name
    their place in the code. Ctrl-C ends with exit code 130, SIGTERM with 143, a closed standard output with 141. A
    second Ctrl-C ends the program at once. Output is UTF-8, whatever the locale.

    Args:
        main: the program, which reads `sys.argv` without `--debug`.
        resumes: whether the same command resumes after an interruption; the message then says so.
    """
    debug = "--debug" in sys.argv
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    if not debug:
        warnings.simplefilter("ignore", FutureWarning)  # from libraries, meant for developers
        warnings.formatwarning = _plain_warning
    try:
        with _signals_as_exceptions():
            main()
            sys.stdout.flush()
    except (KeyboardInterrupt, Terminated) as stop:
        word, code = ("terminated", 143) if isinstance(stop, Terminated) else ("interrupted", 130)
        print(f"\n{word}{'; run the same command again to resume' if resumes else ''}", file=sys.stderr, flush=True)
        sys.exit(code)
    # The reader of the output has gone, as after `| head`. Python flushes once more at its end: now to nowhere.
    except BrokenPipeError:
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
    """Raise `KeyboardInterrupt` on SIGINT and `Terminated` on SIGTERM, except in processes that this one forks."""
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
    # Signals that are ignored stay so: `nohup` and `&` ask for that.
    handled = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    for number in handled:
        signal.signal(number, stop)
    yield
    for number in handled:
        signal.signal(number, before[number])


def verb_parser(verb: str, text: str | None, epilog: str | None = None) -> argparse.ArgumentParser:
    """The parser of a verb's flags, whose help begins with its module's docstring."""
    return argparse.ArgumentParser(
        prog=f"scalpel-hf {verb}",
        description=text,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
