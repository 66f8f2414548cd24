"""Training in two processes on a CPU, as `accelerate launch --multi_gpu --num_processes 2` does on two GPUs."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from scalpel_hf import SyntheticInfrared, Teacher, apply_label_budget
from tests.small_models import small_mobile_sam
from tests.training.small_problem import STEPS, run
from tests.training.test_loop import assert_same_checkpoint

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def start(*program: object) -> subprocess.CompletedProcess[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = [sys.executable, *launcher, "--main_process_port", str(port), *map(str, program)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def launch(*program: object) -> str:
    """What the processes print; the test fails where the program does."""
    done = start(*program)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_two_halves_of_a_batch_are_the_batch(tmp_path: Path) -> None:
    launch("-m", "tests.training.small_problem", tmp_path / "two", "--plain")
    run(tmp_path / "one", plain=True, batch_size=8)
    two, one = (load_file(tmp_path / name / f"checkpoint-{STEPS}" / "weights.safetensors") for name in ("two", "one"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-5)  # the sums are in another order


def test_processes_share_one_model_and_the_main_one_decides(tmp_path: Path) -> None:
    """Each would keep another step, and has seen other crops."""
    launch("-m", "tests.training.small_problem", tmp_path / "two", "--disagree")
    first, second = (json.loads((tmp_path / "two" / f"process-{i}.json").read_text()) for i in (0, 1))
    assert first == second
    assert first["best"] == {"step": STEPS, "metrics": {"iou": 3}}
    model, _ = run(tmp_path / "one", batch_size=8)
    for name in ("layers.1.running_mean", "layers.1.running_var"):  # each normalises by its half, with other dropout
        one, two = model.state_dict()[name], torch.tensor(first["state"][name])
        torch.testing.assert_close(two, one, rtol=0.02, atol=0.02)


def test_killed_and_resumed_is_unbroken(tmp_path: Path) -> None:
    assert start("-m", "tests.training.small_problem", tmp_path / "b", "--die-at-step", "7").returncode != 0
    assert "resuming from step 6" in launch("-m", "tests.training.small_problem", tmp_path / "b")
    launch("-m", "tests.training.small_problem", tmp_path / "a")
    assert_same_checkpoint(tmp_path / "a", tmp_path / "b")


def test_a_weight_that_one_process_does_not_use(tmp_path: Path) -> None:
    launch("-m", "tests.training.small_problem", tmp_path, "--sparse")
    first, second = (json.loads((tmp_path / f"process-{i}.json").read_text()) for i in (0, 1))
    assert first["state"] == second["state"]


def test_another_number_of_processes_is_another_run(tmp_path: Path) -> None:
    run(tmp_path)
    failed = start("-m", "tests.training.small_problem", tmp_path)
    assert failed.returncode != 0 and "another processes" in failed.stderr


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    camera = SyntheticInfrared(size=(40, 56), n_targets=(1, 2), extent=(2, 5), seed=3)
    splits = {"train": apply_label_budget(camera.to_dataset(8), 0.5), "test": camera.to_dataset(3, start=8)}
    datasets.DatasetDict(splits).save_to_disk(str(root / "data"))
    small_mobile_sam().save_pretrained(str(root / "base"))
    return root


def flags(prepared: Path, out: Path) -> list[object]:
    common = ["--dataset", prepared / "data", "--output_dir", out, "--max_steps", 8, "--batch_size", 2]
    return [*common, "--validation_fraction", 0.25, "--eval_steps", 4, "--crop_size", 32, "--checkpoint_steps", 3]


def test_distill(prepared: Path, tmp_path: Path) -> None:
    recipe = ["recipes/distill.py", "--base_model", prepared / "base", "--image_size", 64]
    launch(*recipe, *flags(prepared, tmp_path / "a"))
    broken_off = start("-m", "tests.training.dying", *recipe, *flags(prepared, tmp_path / "b"))
    assert broken_off.returncode != 0 and (tmp_path / "b" / "checkpoint-3").is_dir()
    assert not (tmp_path / "b" / "metrics.json").exists()
    assert "resuming from step 3 of 8" in launch(*recipe, *flags(prepared, tmp_path / "b"))
    assert_same_checkpoint(tmp_path / "a", tmp_path / "b", step=8)
    for name in ("a", "b"):
        record = json.loads((tmp_path / name / "metrics.json").read_text())
        assert record["training"]["steps"] == 8 and record["training"]["samples"] == 32
        assert record["metrics"]["test"]["n_images"] == 3
        assert (tmp_path / name / f"best-{record['training']['best']['step']}.safetensors").exists()
    adapters = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("a", "b")]
    assert adapters[0].keys() == adapters[1].keys()
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])
    frame = SyntheticInfrared(size=(40, 56), seed=9).frame(0)["image"]
    assert Teacher.from_pretrained(tmp_path / "a").probabilities(frame).shape == (40, 56)


def test_a_committee(prepared: Path, tmp_path: Path) -> None:
    recipe = ["recipes/distill.py", "--base_model", prepared / "base", "--image_size", 64, "--committee", 3]
    launch(*recipe, *flags(prepared, tmp_path), "--report_to", "tensorboard")
    assert len(Teacher.from_pretrained(tmp_path).members) == 3
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        "scalpel",
        "scalpel-committee-1",
        "scalpel-committee-2",
    ]
    assert all(len([*folder.glob("events*")]) == 1 for folder in (tmp_path / "logs").iterdir())


def test_transfer(prepared: Path, tmp_path: Path) -> None:
    launch("recipes/transfer.py", "--size", "nano", *flags(prepared, tmp_path))
    record = json.loads((tmp_path / "metrics.json").read_text())
    assert record["training"]["samples"] == 32 and record["metrics"]["test"]["n_images"] == 3
