"""What needs a GPU, in a process that sees it: the others of this process are compared on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import VISIBLE_GPUS

ROOT = Path(__file__).parents[1]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    if VISIBLE_GPUS is not None:
        env["CUDA_VISIBLE_DEVICES"] = VISIBLE_GPUS
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_a_gpu_gives_what_a_cpu_gives() -> None:
    if run("-c", "import torch; assert torch.cuda.is_available()").returncode:
        pytest.skip("no GPU that torch sees")
    done = run("-m", "tests.gpu_checks")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "teacher" in done.stdout
