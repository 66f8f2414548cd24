"""What a program that a test starts does at Ctrl-C."""

import signal


def hear_interrupts() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
