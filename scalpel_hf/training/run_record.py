"""metrics.json: a run's results, and everything that is needed to repeat it."""

import logging
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest

from scalpel_hf.hub.repo_names import shown_name
from scalpel_hf.utils.files import write_json
from scalpel_hf.utils.reading import read_json

from .recipe_arguments import LoopArguments

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "scalpel-hf")


def write_metrics(
    args: LoopArguments,
    outcome: dict[str, Any],
    metrics: dict[str, dict[str, float]],
    base_revision: str | None = None,
    guard: dict[str, Any] | None = None,
) -> Path:
    """
    Write `metrics.json` to the run's folder.

    Its keys are `metrics` (by split, with threshold and matching radius), `training` (steps, seconds, last losses, best
    step), `arguments`, `base_revision`, `command`, `commit`, `machine` and, if given, `guard`.

    If the file exists, its metrics of other splits and its `guard` are kept, unless they are of another committee:
    [`train`] has removed the file if the weights changed. Paths are kept as given, so that the run can be repeated on
    this machine; use [`without_local_paths`] before publishing.

    Args:
        args: of the run.
        outcome: from [`train`].
        metrics: by split.
        base_revision: commit of the base model, if it came from the Hub.
        guard: from [`compare_with_small_network`].

    Returns the file.
    """
    path = Path(args.output_dir) / METRICS_FILE
    earlier = _earlier_record(path, getattr(args, "committee", 1))
    guard = guard or earlier.get("guard")
    record = {
        "metrics": {**earlier.get("metrics", {}), **metrics},
        "training": outcome,
        "arguments": asdict(args),
        "base_revision": base_revision,
        "command": shlex.join(sys.argv),
        **commit_and_machine(),
    }
    if guard is not None:
        record["guard"] = guard
    write_json(path, record)
    return path


def closing(folder: str | Path, metrics: dict[str, dict[str, Any]], next_command: str) -> str:
    """The last lines that a training prints: metrics by split, its folder, and the next command."""
    lines = [f"{split}: {_shown_metrics(found)}" for split, found in metrics.items()]
    return "\n".join([*lines, f"written to {folder}", f"next: {next_command}"])


def _shown_metrics(found: dict[str, Any]) -> str:
    names = {"iou": "IoU", "niou": "nIoU", "ap50": "AP50", "precision": "precision"}
    shares = [f"{name} {100 * found[key]:.1f} %" for key, name in names.items() if found.get(key) is not None]
    hits, targets = found.get("n_detected", found.get("n_matched", 0)), found["n_targets"]
    if targets:
        low, high = binomtest(hits, targets).proportion_ci(method="wilson")
        shares.append(f"{hits} of {targets} targets found ({100 * low:.0f} to {100 * high:.0f} %, 95 % interval)")
    if "fa" in found:
        shares.append(f"Fa {found['fa']:.1f} in 1e-6")
    if "false_alarms_per_frame" in found:
        shares.append(f"{found['false_alarms_per_frame']:.2f} false alarms a frame")
    return f"{found['n_images']} frames, {', '.join(shares)}"


def _earlier_record(path: Path, committee: int) -> dict[str, Any]:
    """The record in a file, if it is of a committee of as many members."""
    if not path.exists():
        return {}
    try:
        record: dict[str, Any] = read_json(path)
        if record["arguments"].get("committee", 1) != committee:
            return {}
        return {**record, "metrics": dict(record["metrics"])}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        logger.warning("the metrics in %s can't be kept (%s): the file is replaced", path, error)
        return {}


def without_local_paths(record: dict[str, Any]) -> dict[str, Any]:
    """A record to publish: of paths outside the working directory, also in its command, only the last part is kept."""
    command = shlex.join(map(_without_local_path, shlex.split(record["command"])))
    return {**{key: shown_values(value) for key, value in record.items()}, "command": command}


def shown_values(value: Any) -> Any:
    """A copy of nested lists and dicts, with [`shown_name`] applied to every string."""
    if isinstance(value, dict):
        return {key: shown_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shown_values(item) for item in value]
    return _without_local_path(value) if isinstance(value, str) else value


def _without_local_path(text: str) -> str:
    flag, equals, value = text.partition("=") if text.startswith("-") else ("", "", text)
    return flag + equals + shown_name(value)


def commit_and_machine() -> dict[str, Any]:
    """The `commit` and the `machine` of a run."""
    return {
        "commit": _commit(),
        "machine": {
            "cpus": os.cpu_count(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
        },
    }


def _commit() -> str | None:
    """The checkout's commit, with `+` if there are uncommitted changes; `None` outside a checkout."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy may lie in another checkout
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def training_facts(run: str | Path) -> dict[str, Any]:
    """`seconds`, `steps`, `commit` and `machine` of the training that left a run's folder, for files under results/."""
    record = read_json(Path(run) / METRICS_FILE)
    return {key: {**record, **record["training"]}[key] for key in ("seconds", "steps", "commit", "machine")}
