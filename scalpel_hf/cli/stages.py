"""Jobs of several stages. Each stage is a verb of `scalpel-hf` in its own process; finished stages are not repeated."""

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
QUIET = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
# Runs a verb as `scalpel-hf VERB …` does. It stops when its stdin is closed, which happens when the job ends or is
# killed.
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
        name: of the stage, for people.
        done: the file or folder that exists once the stage is done.
        command: the verb and its flags.
        silent: whether to hide its standard output; errors are shown.
    """

    name: str
    done: Path
    command: list[str]
    silent: bool = False


def claim(out: Path, marker: str, settings: dict[str, Any]) -> None:
    """
    Create the folder of a job, or check that an existing one belongs to a job with the same settings.

    Args:
        out: the folder.
        marker: name of the file in it that holds the settings.
        settings: of the job.

    Raises `ValueError`, with the remedy, for a folder of something else or of other settings.
    """
    file = out / marker
    if not file.is_file() and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is no folder of this command: choose another --out")
    try:
        if not file.is_file():
            out.mkdir(parents=True, exist_ok=True)
            write_json(file, settings)
            return
        made = {path for path in out.iterdir() if not (path.name.startswith(".") and path.suffix == ".part")}
        if made == {file}:  # nothing but what a kill left half made: settings may still change
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
    """
    Run a verb of `scalpel-hf` in a process that also ends when this program is killed.

    Args:
        command: the verb and its flags.
        again: what to run again to resume after a failure, for the message.
        silent: see [`Stage`].

    Raises `SystemExit` with a message where the verb fails.
    """
    print("\n$ scalpel-hf " + shlex.join(command), flush=True)
    # In its own session, Ctrl-C doesn't reach the child; it is terminated below, and prints no traceback.
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
        sys.exit(f"error: the command above failed (status {status}); remove the cause and run {again} again to resume")


def run_stages(
    out: Path, todo: Iterable[Stage], again: str, before: Callable[[Stage], object] = lambda stage: None
) -> dict[str, float]:
    """
    Run the stages that aren't done yet.

    Args:
        out: the job's folder, in which the times are kept.
        todo: the stages, in order.
        again: see [`run_verb`].
        before: is called with each stage just before it is run.

    Returns the seconds that each stage took, by its name, summed over all runs of the job.
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
    """Seconds that each stage of the job in `out` took, by the stage's name; none for stages that were killed."""
    file = out / TIMES_FILE
    times: dict[str, float] = read_json(file) if file.exists() else {}
    return times
