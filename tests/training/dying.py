"""Runs a program that kills itself without warning after a checkpoint: `python -m tests.training.dying PROGRAM`."""

import os
import runpy
import signal
import sys
from typing import Any

from scalpel_hf.training.checkpoints import Checkpoints

save = Checkpoints.save


def save_and_die(self: Checkpoints, state: dict[str, Any]) -> None:
    save(self, state)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    Checkpoints.save = save_and_die  # type: ignore[method-assign]
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
