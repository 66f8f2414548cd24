"""The record that a run leaves: what it did and everything needed to do it again."""

import json
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

from .arguments import LoopArguments

PACKAGES = ("torch", "transformers", "peft", "accelerate", "datasets", "numpy", "scalpel-hf")


def write_metrics(args: LoopArguments, outcome: dict[str, Any], metrics: dict[str, dict[str, float]]) -> Path:
    """
    Write `metrics.json` into the run's folder.

    Keys: `metrics` (by split, with their threshold and matching radius), `training` (steps, seconds, last losses, best
    step), `arguments`, `command`, `commit` and `machine`.
    """
    record = {
        "metrics": metrics,
        "training": outcome,
        "arguments": asdict(args),
        "command": shlex.join(sys.argv),
        "commit": _commit(),
        "machine": {
            "cpus": os.cpu_count(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
        },
    }
    path = Path(args.output_dir) / "metrics.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(temporary, path)
    return path


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
