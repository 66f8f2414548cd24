"""Jobs of several stages, each a verb of `scalpel-hf` in a process of its own; what is done is not done again."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalpel_hf.utils.files import write_json
from scalpel_hf.utils.reading import read_json

TIMES_FILE = "times.json"
QUIET = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}  # of work that takes no time
# Runs a verb as `scalpel-hf VERB …` does, and ends with the job, which holds the other end of its stdin.
TETHERED = """
import os, runpy, signal, sys, threading

def wait_for_the_end():
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=wait_for_the_end, daemon=True).start()
runpy.run_module("scalpel_hf", run_name="__main__")
"""


@dataclass(frozen=True)
class Stage:
    """
    A step of a job.

    Args:
        name: what people call it.
        done: the file or folder that it leaves when it is done.
        command: the verb and its flags.
        silent: whether what it prints is of no interest, such as the next command after a trial; errors are.
    """

    name: str
    done: Path
    command: list[str]
    silent: bool = False


def claim(out: Path, marker: str, settings: dict[str, Any]) -> None:
    """
    Make a job's folder, or make sure that it is one of the same settings, which `marker` in it holds.

    Raises `ValueError` with the remedy.
    """
    file = out / marker
    if not file.is_file() and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is no folder of this command: choose another --out")
    try:
        if not file.is_file():
            out.mkdir(parents=True, exist_ok=True)
            write_json(file, settings)
            return
        if [path.name for path in out.iterdir()] == [marker]:  # nothing was made: an error came first, now mended
            write_json(file, settings)
        before = read_json(file) if file.stat().st_size else {}
    except (OSError, ValueError) as error:
        raise ValueError(f"can't use {out} ({error}): choose another --out") from error
    changed = [f"{k} {before.get(k, 'unknown')}, now {v}" for k, v in settings.items() if before.get(k) != v]
    if changed:
        raise ValueError(
            f"{out} was made with other settings ({'; '.join(changed)}): resume with the same, choose another --out, "
            "or remove the folder"
        )


def run_verb(command: list[str], again: str, silent: bool = False) -> None:
    """Run a verb of `scalpel-hf`; it ends when this program does, however that comes about.

    Args:
        again: what to run again to resume where it fails, for the message.
        silent: see [`Stage`].
    """
    print("\n$ scalpel-hf " + shlex.join(command), flush=True)
    # In a session of its own, where Ctrl-C doesn't reach it: it is stopped here, without a traceback of its own.
    environment = {**os.environ, **QUIET}
    child = subprocess.Popen(
        [sys.executable, "-c", TETHERED, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL if silent else None,
        start_new_session=True,
        env=environment,
    )
    try:
        status = child.wait()
    finally:
        child.terminate()
        child.wait()
    if status:
        sys.exit(f"error: the command above failed (status {status}); mended that, run {again} again to resume")


def run_stages(
    out: Path, todo: Iterable[Stage], again: str, before: Callable[[Stage], object] = lambda stage: None
) -> dict[str, float]:
    """Run the stages that aren't done; seconds that each took, over all times that the job was run.

    Args:
        before: is called with each stage that is run, before it is.
    """
    seconds = times_of(out)
    for stage in todo:
        if stage.done.exists():
            continue
        before(stage)
        began = time.monotonic()
        try:
            run_verb(stage.command, again, stage.silent)
        finally:
            seconds[stage.name] = seconds.get(stage.name, 0.0) + time.monotonic() - began
            write_json(out / TIMES_FILE, seconds)
    return seconds


def times_of(out: Path) -> dict[str, float]:
    """Seconds that each stage of a job's folder took; of one that was killed at its end there are none."""
    file = out / TIMES_FILE
    times: dict[str, float] = read_json(file) if file.exists() else {}
    return times
