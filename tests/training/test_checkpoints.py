"""Checkpoints that are damaged, or of a run that was made of something else."""

import json
import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LambdaLR

from scalpel_hf.training.checkpoints import Checkpoints, Ema
from scalpel_hf.utils.files import DiskFullError
from tests.training.small_problem import STEPS, Net, run

NEWEST = f"checkpoint-{STEPS}"
FILES = ("state.json", "weights.safetensors", "ema.safetensors", "training.pt")


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(3).bytes(path.stat().st_size))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[2:40] = bytes(255 - b for b in content[2:40])
    path.write_bytes(bytes(content))


def no_file(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGE: list[Callable[[Path], Any]] = [Path.unlink, lambda p: p.write_bytes(b""), cut, noise, flipped, no_file, pipe]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_and_removing_the_checkpoint_starts_anew(
    tmp_path: Path, name: str, damage: Callable
) -> None:
    run(tmp_path)
    damage(tmp_path / NEWEST / name)
    with pytest.raises(
        ValueError, match=rf"{NEWEST}/{name} is damaged \(.+\): remove {tmp_path / NEWEST}, and"
    ) as error:
        run(tmp_path)
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
    run(tmp_path, resume=False)
    assert sorted(f.name for f in (tmp_path / NEWEST).iterdir()) == sorted(FILES)


@pytest.mark.parametrize(
    "change",
    [
        {"step": STEPS - 1},
        {"step": str(STEPS)},
        {"step": True},
        {"seconds": None},
        {"seconds": float("nan")},
        {"best": [1]},
        {"best": {"step": "2", "metrics": {}}},
        {"last": None},
        {"arguments": []},
        {"made_of": "rows"},
    ],
)
def test_a_state_of_another_shape_is_named(tmp_path: Path, change: dict) -> None:
    run(tmp_path)
    path = tmp_path / NEWEST / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=r"state\.json is damaged"):
        run(tmp_path)
    for text in ("[]", "null", "3", "{}", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"state\.json is damaged"):
            run(tmp_path)


def test_an_optimiser_of_other_shapes_is_named(tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / NEWEST / "training.pt"
    content = torch.load(path, weights_only=True)
    content["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"training\.pt is damaged .*exp_avg of a weight \(4, 1, 3, 3\) is \(3,\)"):
        run(tmp_path)


@pytest.mark.parametrize("damage", [Path.unlink, cut, pipe])
def test_damaged_best_weights_are_named_before_anything_is_trained(tmp_path: Path, damage: Callable) -> None:
    scores = iter(range(100, 0, -1))
    run(tmp_path, evaluate=lambda _: {"iou": next(scores)}, eval_steps=4)
    damage(tmp_path / "best-4.safetensors")
    message = rf"best-4\.safetensors is damaged .*remove {re.escape(str(tmp_path / NEWEST))}"
    with pytest.raises(ValueError, match=message):
        run(tmp_path, loss=lambda *_: pytest.fail("trained on"), eval_steps=4)


def test_a_disk_that_is_full_at_any_byte_is_named(tmp_path: Path) -> None:
    """Whichever file it ends in, and whatever its writer says of that; the checkpoint before stays."""
    model = Net()
    values = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(model.parameters())
    checkpoints = Checkpoints(tmp_path, model, values, Ema(values, 0.9), optimizer, LambdaLR(optimizer, lambda _: 1.0))
    checkpoints.save({"step": STEPS, "best": None})
    before = {file.name: file.read_bytes() for file in (tmp_path / NEWEST).iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in (8, 64, *range(100, max(map(len, before.values())), 97)):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            with pytest.raises(DiskFullError, match=rf"no room for {tmp_path / NEWEST}"):
                checkpoints.save({"step": STEPS, "best": None})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert {file.name: file.read_bytes() for file in (tmp_path / NEWEST).iterdir()} == before
        assert not list(tmp_path.glob(".*"))


def test_folders_that_are_no_checkpoints_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-of-mine").mkdir()
    (tmp_path / "checkpoint-7").touch()
    run(tmp_path)
    assert (tmp_path / "checkpoint-of-mine").is_dir() and (tmp_path / "checkpoint-7").is_file()


def test_a_run_made_of_something_else_is_not_gone_on_with(tmp_path: Path) -> None:
    """Rows, first weights, the package's version: by content, whatever they are called."""

    def start(**made_of: str) -> Any:
        return run(tmp_path, made_of=made_of)

    start(rows="a", base="b")
    start(rows="a", base="b")
    for other, names in (
        ({"rows": "c", "base": "b"}, "rows"),
        ({"rows": "c", "base": "d"}, "rows, base"),
        ({"rows": "a"}, "base"),
        ({"rows": "a", "base": "b", "teacher": "t"}, "teacher"),
    ):
        with pytest.raises(
            ValueError, match=rf"{NEWEST} is of a run in which other content was used for: {names}\. .*`--no_resume`"
        ):
            start(**other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scalpel_hf.training.loop.__version__", "0.0.0")
        with pytest.raises(ValueError, match=r"other content was used for: version of scalpel-hf\."):
            start(rows="a", base="b")


def test_weights_of_another_shape_are_another_configuration(tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / NEWEST / "weights.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "layers.0.bias": torch.zeros(9)}, path)
    with pytest.raises(ValueError, match=r"written with another configuration; these weights differ: layers\.0\.bias"):
        run(tmp_path)
