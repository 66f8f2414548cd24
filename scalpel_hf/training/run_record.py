"""The record that a run leaves: what it did and everything needed to do it again."""

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
    Write `metrics.json` into the run's folder.

    Figures of other splits and a comparison that are there already stay: [`train`] has removed what was of other
    weights.

    Keys: `metrics` (by split, with their threshold and matching radius), `training` (steps, seconds, last losses, best
    step), `arguments`, `base_revision` (the base's commit, where it came from the Hub), `command`, `commit`, `machine`
    and, where it was asked for, `guard` (see `scalpel_hf.training.guard`). Paths are as they were given, so that the
    run can be repeated here; [`without_local_paths`] is what others get.
    """
    path = Path(args.output_dir) / METRICS_FILE
    earlier = _earlier(path)
    guard = guard or earlier.get("guard")
    record = {
        "metrics": {**earlier.get("metrics", {}), **metrics},
        "training": outcome,
        "arguments": asdict(args),
        "base_revision": base_revision,
        "command": shlex.join(sys.argv),
        **place_of_run(),
    }
    if guard is not None:
        record["guard"] = guard
    write_json(path, record)
    return path


def closing(folder: str | Path, metrics: dict[str, dict[str, Any]], next_command: str) -> str:
    """What a training ends with: its metrics by split, with counts and the share of targets found, its folder, and the
    command that comes next."""
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


def _earlier(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        record: dict[str, Any] = read_json(path)
        return {**record, "metrics": dict(record["metrics"])}
    except (KeyError, TypeError, ValueError) as error:
        logger.warning("the metrics in %s can't be kept (%s): it is written anew", path, error)
        return {}


def without_local_paths(record: dict[str, Any]) -> dict[str, Any]:
    """The record for readers elsewhere: of every path in it, and in its command, that begins outside the
    working directory the last part alone."""
    command = shlex.join(map(_shown, shlex.split(record["command"])))
    return {**{key: shown_values(value) for key, value in record.items()}, "command": command}


def shown_values(value: Any) -> Any:
    """Nested lists and dicts with every path in them as [`shown_name`] has it."""
    if isinstance(value, dict):
        return {key: shown_values(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shown_values(item) for item in value]
    return _shown(value) if isinstance(value, str) else value


def _shown(text: str) -> str:
    flag, equals, value = text.partition("=") if text.startswith("-") else ("", "", text)
    return flag + equals + shown_name(value)


def place_of_run() -> dict[str, Any]:
    """The `commit` and the `machine` that figures come from."""
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
    """The checkout's commit, with `+` where it has changes; `None` outside a checkout."""
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy may lie in another checkout
        return _git("rev-parse", "HEAD") + ("+" if _git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()
