"""The files of `recipes/accelerate_configs`: Accelerate reads each, and on a CPU as many processes run as they say."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "recipes" / "accelerate_configs").glob("*.yaml"))
PROGRAM = """
import os
import torch
from accelerate import Accelerator
accelerator = Accelerator(cpu=not torch.cuda.is_available())
total = accelerator.reduce(torch.ones((), device=accelerator.device))
line = f"{accelerator.device.type} {accelerator.num_processes} {int(total)}\\n"
os.write(1, line.encode())  # whole: what print writes for the line and for its end can mix with another process's
accelerator.end_training()
"""


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_it(config: Path) -> None:
    loaded = load_config_from_file(str(config))
    machines, gpus = {"two_machines": (2, 4), "several_gpus": (1, 2)}.get(config.stem, (1, 1))
    processes = 2 if config.stem == "cpu_two_processes" else gpus
    assert (loaded.num_machines, loaded.num_processes) == (machines, processes)
    assert loaded.use_cpu == config.stem.startswith("cpu")


def test_all_are_tested() -> None:
    stems = [path.stem for path in CONFIGS]
    assert stems == ["cpu", "cpu_two_processes", "one_gpu", "several_gpus", "two_machines"]


@pytest.mark.parametrize(("config", "processes"), [("cpu", 1), ("cpu_two_processes", 2)])
def test_so_many_processes_run_and_know_of_each_other(config: str, processes: int, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", str(port)]
    command = [*launcher, "--config_file", f"recipes/accelerate_configs/{config}.yaml", str(program)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"cpu {processes} {processes}"] * processes
