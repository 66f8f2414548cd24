"""Programs that a test starts, and which Ctrl-C ends."""

import signal
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def hear_interrupts() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(program: list[str], stdout: int = subprocess.PIPE) -> "subprocess.Popen[str]":
    """A program in the project's folder, with its standard error, and where asked its output, to read."""
    return subprocess.Popen(
        program, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True, preexec_fn=hear_interrupts
    )
