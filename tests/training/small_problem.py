"""A problem that trains in a second, with what makes resuming hard: batch norm and dropout.

Run as a program, it trains in a folder and kills itself without warning at a step, or in the middle of a save.
"""

import argparse
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import Dataset

from scalpel_hf.training import checkpoints
from scalpel_hf.training.loop import make_accelerator, train
from scalpel_hf.training.recipe_arguments import LoopArguments

STEPS = 12


class Net(nn.Module):
    def __init__(self, width: int = 4):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2), nn.Conv2d(width, 1, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class PlainNet(nn.Module):
    """Without batch norm and dropout: a batch's gradient is the mean of its halves'."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SparseNet(PlainNet):
    """Its second layer is used by the main process alone."""

    def __init__(self) -> None:
        super().__init__()
        self.seldom = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + (self.seldom(x) if PartialState().is_main_process else 0)


class Blobs(Dataset):
    """Sample i: noise, and where it exceeds 1."""

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        x = np.random.default_rng([7, i]).standard_normal((1, 8, 8), dtype=np.float32)
        return {"x": torch.from_numpy(x), "y": torch.from_numpy((x > 1).astype(np.float32))}


def loss_function(model: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
    loss = F.binary_cross_entropy_with_logits(model(batch["x"]), batch["y"])
    return loss, {"bce": loss.item()}


def run(
    folder: Path,
    loss: Any = loss_function,
    evaluate: Any = None,
    width: int = 4,
    plain: bool = False,
    sparse: bool = False,
    made_of: Any = None,
    show: Any = None,
    **changes: Any,
) -> Any:
    """Train in `folder`; the model and what `train` returns."""
    settings = {"max_steps": STEPS, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_steps": 3, "ema_decay": 0.9}
    args = LoopArguments(output_dir=str(folder), **{**settings, **changes})
    accelerator = make_accelerator(args)
    model = PlainNet() if plain else SparseNet() if sparse else Net(width)
    outcome = train(accelerator, model, Blobs(), loss, args, evaluate, made_of=made_of, show=show)
    accelerator.end_training()
    return model, outcome


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--die-at-step", type=int, default=-1)
    parser.add_argument("--die-in-save", type=int, default=-1, help="number of the save")
    parser.add_argument("--max-steps", type=int, default=STEPS)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--sparse", action="store_true", help="only one process uses all weights")
    parser.add_argument("--disagree", action="store_true", help="each process finds another step the best")
    args = parser.parse_args()

    def loss(model: nn.Module, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, float]]:
        if step == args.die_at_step:
            die()
        return loss_function(model, batch, step)

    saves = 0
    torch_save = torch.save

    def save(*arguments: Any, **kwargs: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == args.die_in_save:
            arguments[1].write(b"half of it")
            die()
        torch_save(*arguments, **kwargs)

    checkpoints.torch.save = save  # type: ignore[assignment]
    calls = 0

    def disagreeing(_: nn.Module) -> dict[str, float]:
        nonlocal calls
        calls += 1
        return {"iou": calls if PartialState().is_main_process else -calls}

    held_out: dict[str, Any] = {"evaluate": disagreeing, "eval_steps": 4} if args.disagree else {}
    model, outcome = run(args.folder, loss, max_steps=args.max_steps, plain=args.plain, sparse=args.sparse, **held_out)
    state = {name: value.tolist() for name, value in model.state_dict().items()}
    record = json.dumps({"state": state, "best": outcome["best"]})
    (args.folder / f"process-{PartialState().process_index}.json").write_text(record)


if __name__ == "__main__":
    main()
