import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file
from torch import nn

from scalpel_hf.predictors.load import default_device
from scalpel_hf.training import checkpoints
from scalpel_hf.training.checkpoints import Ema
from scalpel_hf.training.history import HISTORY_FILE, PICTURE_FILE
from scalpel_hf.training.loop import make_accelerator, train
from scalpel_hf.training.recipe_arguments import LoopArguments
from scalpel_hf.utils.files import DiskFullError
from tests.training.small_problem import STEPS, Blobs, Net, PlainNet, loss_function, run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def fresh_accelerator():
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


class Interrupted(Exception):
    pass


def interrupted_at(stop: int) -> Any:
    def loss(model: nn.Module, batch: dict, step: int) -> Any:
        if step == stop:
            raise Interrupted
        return loss_function(model, batch, step)

    return loss


def break_off(folder: Path, step: int, **changes: Any) -> None:
    with pytest.raises(Interrupted):
        run(folder, interrupted_at(step), **changes)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b


def assert_same_checkpoint(a: Path, b: Path, step: int = STEPS) -> None:
    a, b = a / f"checkpoint-{step}", b / f"checkpoint-{step}"
    for name in ("weights.safetensors", "ema.safetensors"):
        assert_same(load_file(a / name), load_file(b / name))
    assert_same(torch.load(a / "training.pt", weights_only=True), torch.load(b / "training.pt", weights_only=True))


def entries(folder: Path) -> list[str]:
    """What a run goes on from."""
    return sorted(p.name for p in folder.iterdir() if p.name not in (HISTORY_FILE, PICTURE_FILE))


def history(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / HISTORY_FILE).read_text())


def test_the_loss_falls(tmp_path: Path) -> None:
    losses = []

    def loss(model: nn.Module, batch: dict, step: int) -> Any:
        value, metrics = loss_function(model, batch, step)
        losses.append(value.item())
        return value, metrics

    _, outcome = run(tmp_path, loss, max_steps=200, learning_rate=3e-2)
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    assert outcome["steps"] == 200 and outcome["samples"] == 800 and outcome["best"] is None
    assert outcome["last"]["loss"] == losses[-1]
    assert entries(tmp_path) == ["checkpoint-200"]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_resumed_is_unbroken_bitwise(tmp_path: Path, accumulation: int) -> None:
    changes = {"gradient_accumulation_steps": accumulation}
    straight, outcome = run(tmp_path / "a", **changes)
    break_off(tmp_path / "b", 8, **changes)
    assert entries(tmp_path / "b") == ["checkpoint-6"]
    resumed, again = run(tmp_path / "b", **changes)
    assert_same(straight.state_dict(), resumed.state_dict())
    assert_same_checkpoint(tmp_path / "a", tmp_path / "b")
    assert history(tmp_path / "a") == history(tmp_path / "b") and history(tmp_path / "a")[-1]["step"] == STEPS
    assert again["last"] == outcome["last"] and again["samples"] == outcome["samples"] == STEPS * 4 * accumulation


def test_the_scale_of_half_precision_gradients_goes_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with fp16 on a GPU: a scale that grows every five steps, and halves where gradients overflow."""
    scalers: list[Any] = []

    def scaling(args: LoopArguments) -> Any:
        accelerator = make_accelerator(args)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=5)
        scalers.append(accelerator.scaler)
        return accelerator

    def overflowing(model: nn.Module, batch: dict, step: int) -> Any:
        value, metrics = loss_function(model, batch, step)
        return (value * 1e37 if step == 4 else value), metrics

    def broken_off(model: nn.Module, batch: dict, step: int) -> Any:
        if step == 8:
            raise Interrupted
        return overflowing(model, batch, step)

    monkeypatch.setattr("tests.training.small_problem.make_accelerator", scaling)
    straight, _ = run(tmp_path / "a", overflowing)
    with pytest.raises(Interrupted):
        run(tmp_path / "b", broken_off)
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    resumed, _ = run(tmp_path / "b", overflowing)
    first, last = scalers[0].state_dict(), scalers[2].state_dict()
    assert (first["scale"], first["_growth_tracker"]) == (1024.0, 2)  # halved in step 4, doubled in step 9
    assert last == first
    assert_same(straight.state_dict(), resumed.state_dict())
    assert_same_checkpoint(tmp_path / "a", tmp_path / "b")


def test_after_half_precision_a_model_answers_in_full(tmp_path: Path) -> None:
    model, _ = run(tmp_path, mixed_precision="bf16", plain=True)
    saved = PlainNet()
    saved.load_state_dict(model.state_dict())
    x = Blobs()[0]["x"][None]
    assert torch.equal(model(x), saved(x))


def test_a_folder_that_cannot_be_written_stops_a_run_before_it_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file is a file: choose another `output_dir`"):
        run(tmp_path / "file" / "run", interrupted_at(0))


def test_half_precision_needs_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ValueError, match="`mixed_precision: fp16` needs a GPU, and none is in use: set it to"):
        run(tmp_path, mixed_precision="fp16")


def test_told_to_use_the_cpu_it_does_so_in_full_precision_beside_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda: True)
    assert default_device() == "cuda"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # what `accelerate launch` makes of `use_cpu: true` and `--cpu`
    accelerator = make_accelerator(LoopArguments(output_dir=str(tmp_path)))
    assert (accelerator.device.type, accelerator.mixed_precision, default_device()) == ("cpu", "no", "cpu")
    with pytest.raises(ValueError, match="`mixed_precision: fp16` needs a GPU"):
        make_accelerator(LoopArguments(output_dir=str(tmp_path), mixed_precision="fp16"))


def test_accumulated_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    whole: list[torch.Tensor] = []

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    for batch, accumulation in ((8, 1), (4, 2)):
        args = LoopArguments(
            output_dir=str(tmp_path / str(batch)),
            max_steps=5,
            batch_size=batch,
            gradient_accumulation_steps=accumulation,
            ema_decay=0.0,
        )
        accelerator, model = make_accelerator(args), Linear()
        train(accelerator, model, Blobs(), loss_function, args)
        whole.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        AcceleratorState._reset_state(True)
        GradientState._reset_state()
    torch.testing.assert_close(whole[0], whole[1], rtol=1e-5, atol=1e-6)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    model, outcome = run(tmp_path)
    again, outcome2 = run(tmp_path, interrupted_at(-1))
    assert_same(model.state_dict(), again.state_dict())
    assert outcome2["last"] == outcome["last"] and outcome2["steps"] == STEPS
    other, _ = run(tmp_path, resume=False, seed=1)
    assert not torch.equal(other.layers[0].weight, model.layers[0].weight)
    assert entries(tmp_path) == [f"checkpoint-{STEPS}"]


def test_killed_at_any_moment_ends_in_the_same_weights(tmp_path: Path) -> None:
    straight, _ = run(tmp_path / "a")
    step = random.randrange(1, STEPS)
    print(f"killed at step {step}")
    for flags in (["--die-at-step", str(step)], ["--die-in-save", "1"]):
        command = [sys.executable, "-m", "tests.training.small_problem", str(tmp_path / "b"), *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert any(name.startswith(".checkpoint") for name in entries(tmp_path / "b")) == ("save" in flags[0])
    AcceleratorState._reset_state(True)
    resumed, _ = run(tmp_path / "b")
    assert_same(straight.state_dict(), resumed.state_dict())
    assert_same_checkpoint(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("owner", "name"), [(checkpoints, "save_file"), (torch, "save"), (json, "dumps"), (os, "replace")]
)
def test_an_interrupted_save_leaves_the_checkpoint_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    real = getattr(owner, name)

    def full_disk(*args: Any, **kwargs: Any) -> Any:
        if (tmp_path / "b" / "checkpoint-3").exists():
            raise OSError("No space left on device")
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, full_disk)
        with pytest.raises(DiskFullError, match=r"no room for .*/checkpoint-6: it needs"):
            run(tmp_path / "b")
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    assert [e for e in entries(tmp_path / "b") if not e.startswith(".")] == ["checkpoint-3"]
    straight, _ = run(tmp_path / "a")
    resumed, _ = run(tmp_path / "b")
    assert_same(straight.state_dict(), resumed.state_dict())
    assert entries(tmp_path / "b") == [f"checkpoint-{STEPS}"]


def test_the_best_step_is_kept_also_across_a_break(tmp_path: Path) -> None:
    scores = {2: 0.1, 4: 0.9, 6: 0.3, 8: 0.9, 10: 0.2, 12: 0.5}
    seen: dict[str, dict[int, dict]] = {"a": {}, "b": {}}

    def run_with(folder: str, loss: Any = loss_function) -> Any:
        step = 0

        def counting(model: nn.Module, batch: dict, number: int) -> Any:
            nonlocal step
            step = number + 1
            return loss(model, batch, number)

        def evaluate(model: nn.Module) -> dict[str, float]:
            assert not model.training
            seen[folder][step] = {k: v.clone() for k, v in model.state_dict().items()}
            return {"iou": scores[step], "step": step}

        return run(tmp_path / folder, counting, evaluate, eval_steps=2)

    model, outcome = run_with("a")
    assert outcome["best"] == {"step": 4, "metrics": {"iou": 0.9, "step": 4}}
    assert_same(model.state_dict(), seen["a"][4])
    assert entries(tmp_path / "a") == ["best-4.safetensors", "checkpoint-12"]
    assert [entry["step"] for entry in history(tmp_path / "a") if "validation" in entry]

    with pytest.raises(Interrupted):  # the best is evaluated after the checkpoint of step 3, and not in it
        run_with("b", interrupted_at(5))
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    resumed, outcome = run_with("b")
    assert outcome["best"]["step"] == 4
    assert_same(resumed.state_dict(), model.state_dict())
    for step in scores:
        assert_same(seen["a"][step], seen["b"][step])


def test_a_loss_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    def loss(model: nn.Module, batch: dict, step: int) -> Any:
        value, metrics = loss_function(model, batch, step)
        return (value * float("nan") if step == 5 else value), metrics

    with pytest.raises(FloatingPointError, match=r"the loss is nan at step 5: lower `learning_rate`"):
        run(tmp_path, loss)
    assert entries(tmp_path) == ["checkpoint-3"]


def test_a_checkpoint_of_another_run_is_an_error(tmp_path: Path) -> None:
    run(tmp_path)
    for changes in ({"learning_rate": 0.5}, {"max_steps": 20}, {"seed": 3}):
        with pytest.raises(ValueError, match=rf"another {next(iter(changes))} \(.*`--no_resume`"):
            run(tmp_path, **changes)
    with pytest.raises(ValueError, match=r"weights.safetensors was written with another configuration.*layers\.0"):
        run(tmp_path, width=8)
    run(tmp_path, logging_steps=5, checkpoint_steps=50, num_workers=0)  # these don't matter


def test_a_norm_of_0_clips_nothing(tmp_path: Path) -> None:
    free, clipped = (run(tmp_path / str(norm), max_grad_norm=norm)[0].state_dict() for norm in (0.0, 1e6))
    assert all(torch.equal(free[name], clipped[name]) for name in free)


def test_where_nothing_is_ever_found_the_last_step_is_kept(tmp_path: Path) -> None:
    _, outcome = run(tmp_path, evaluate=lambda _: {"iou": 0.0}, eval_steps=4)
    assert outcome["best"]["step"] == STEPS


def test_swapping_twice_changes_nothing() -> None:
    model = Net()
    values = {**dict(model.named_parameters()), **{n: b for n, b in model.named_buffers() if b.is_floating_point()}}
    ema = Ema(values, 0.9)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    ema.update(5)
    raw = {k: v.clone() for k, v in model.state_dict().items()}
    shadow = {k: v.clone() for k, v in ema.shadow.items()}
    ema.swap()
    assert_same({k: v for k, v in model.state_dict().items() if k in shadow}, shadow)
    assert not torch.equal(model.layers[0].weight, raw["layers.0.weight"])
    ema.swap()
    assert_same(dict(model.state_dict()), raw)
    assert_same(ema.shadow, shadow)


def test_the_mean_is_the_recurrence() -> None:
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    ema, expected = Ema({"w": weight}, 0.5), 0.0
    for step in range(1, 20):
        weight.data.fill_(step)
        ema.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert ema.shadow["w"].item() == pytest.approx(expected, rel=1e-12)
    none = Ema({"w": weight}, 0.0)
    weight.data.fill_(0.1)
    none.update(3)
    assert torch.equal(none.shadow["w"], weight.data)


def test_running_statistics_are_averaged_with_the_weights(tmp_path: Path) -> None:
    model, _ = run(tmp_path)
    raw = load_file(tmp_path / f"checkpoint-{STEPS}" / "weights.safetensors")
    means = load_file(tmp_path / f"checkpoint-{STEPS}" / "ema.safetensors")
    state = model.state_dict()
    for name in ("layers.1.running_mean", "layers.1.running_var", "layers.1.weight", "layers.4.bias"):
        assert torch.equal(state[name], means[name]) and not torch.equal(state[name], raw[name])
    assert state["layers.1.num_batches_tracked"] == raw["layers.1.num_batches_tracked"] == STEPS


def test_a_frozen_part_is_neither_trained_nor_saved(tmp_path: Path) -> None:
    args = LoopArguments(output_dir=str(tmp_path), max_steps=4, batch_size=2)
    accelerator, model = make_accelerator(args), Net()
    model.layers[:2].requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    train(accelerator, model, Blobs(), loss_function, args)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"layers.4.weight", "layers.4.bias"}
    assert set(load_file(tmp_path / "checkpoint-4" / "weights.safetensors")) == changed


def test_tensorboard_gets_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run(tmp_path, report_to="tensorboard", logging_steps=2)
    assert list((tmp_path / "logs").rglob("events.out.tfevents.*"))
