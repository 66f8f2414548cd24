"""One training loop for both stages.

Notable:
- sample number i is a pure function of (seed, i), so that a run that was killed and resumed sees what an unbroken one
  sees, without a record of what has been read.
- a checkpoint holds what trains (weights, their running mean, optimiser, schedule, random states), is written under
  another name and renamed, and only then the one before it is removed.
"""

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, set_seed
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm.auto import tqdm

from .arguments import LoopArguments

logger = logging.getLogger(__name__)

Batch = dict[str, Any]
LossFunction = Callable[[nn.Module, Batch, int], tuple[Tensor, dict[str, float]]]
Evaluate = Callable[[nn.Module], dict[str, float]]


class Ema:
    """Running mean of the trained weights, `mean = d · mean + (1 − d) · weight`, with a d that starts low."""

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float):
        self.parameters, self.decay = parameters, decay
        self.shadow = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, p in self.parameters.items():
            self.shadow[name].lerp_(p.detach(), 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights with their means; a second call undoes it."""
        for name, p in self.parameters.items():
            p.data, self.shadow[name] = self.shadow[name], p.data


class RangeSampler(Sampler[int]):
    """Numbers of the samples still to come: `start`, `start + 1`, … `stop − 1`."""

    def __init__(self, start: int, stop: int):
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop - self.start


def make_accelerator(args: LoopArguments) -> Accelerator:
    """Accelerator with the arguments' precision, accumulation and tracker; seeds everything."""
    precision = args.mixed_precision
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=not torch.cuda.is_available(),
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=None if args.report_to == "none" else args.report_to,
        project_config=ProjectConfiguration(project_dir=args.output_dir, logging_dir=f"{args.output_dir}/logs"),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    set_seed(args.seed)
    return accelerator


def train(
    accelerator: Accelerator,
    model: nn.Module,
    dataset: Dataset,
    loss_function: LossFunction,
    args: LoopArguments,
    evaluate: Evaluate | None = None,
    best_metric: str = "iou",
    train_mode: bool = True,
) -> dict[str, Any]:
    """
    Train a model's trainable weights and leave their running mean in it.

    Args:
        dataset: sample number i as a dict of tensors, a pure function of i.
        loss_function: `(model, batch, step) → (loss, figures to log)`.
        evaluate: figures on held-out labelled frames; the step with the highest `best_metric` is then kept.
        train_mode: whether the model is put in training mode; a teacher stays in evaluation mode, because its frozen
            base must.

    Returns steps, seconds, samples and the last losses; with `evaluate` the best figures and their step.
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    decayed = [p for p in trainable.values() if p.ndim > 1]
    others = [p for p in trainable.values() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=args.learning_rate,
    )
    scheduler = LambdaLR(optimizer, lambda step: _schedule(step, args))
    ema = Ema(trainable, args.ema_decay)
    checkpoints = Checkpoints(Path(args.output_dir), model, trainable, ema, optimizer, scheduler)
    start = checkpoints.load() if args.resume else {"step": 0, "seconds": 0.0, "best": None}
    if start["step"]:
        accelerator.print(f"going on from step {start['step']} of {args.max_steps}")

    per_step = args.batch_size * accelerator.num_processes * args.gradient_accumulation_steps
    sampler = RangeSampler(start["step"] * per_step, args.max_steps * per_step)
    loader = DataLoader(dataset, batch_size=args.batch_size, sampler=sampler, num_workers=args.num_workers)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    wrapped.train(train_mode)
    if args.report_to != "none":
        accelerator.init_trackers("scalpel", config={k: str(v) for k, v in vars(args).items()})

    step, best, logs = start["step"], start["best"], {}
    began = time.monotonic() - start["seconds"]
    bar = tqdm(total=args.max_steps, initial=step, disable=not accelerator.is_main_process, unit="step")
    for batch in loader:
        with accelerator.accumulate(wrapped):
            loss, figures = loss_function(wrapped, batch, step)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} at step {step}: lower `learning_rate`, or go on from the last "
                    f"checkpoint in {args.output_dir} with another `seed`"
                )
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(trainable.values(), args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        if not accelerator.sync_gradients:
            continue
        step += 1
        scheduler.step()
        ema.update(step)
        logs = {"loss": loss.item(), **figures}
        bar.update()
        if step % args.logging_steps == 0 or step == args.max_steps:
            bar.set_postfix({k: f"{v:.3f}" for k, v in logs.items()})
            accelerator.log({**logs, "learning_rate": scheduler.get_last_lr()[0]}, step=step)
        if evaluate is not None and (step % args.eval_steps == 0 or step == args.max_steps):
            best = _evaluate(accelerator, model, ema, evaluate, best, best_metric, step, checkpoints)
            wrapped.train(train_mode)
        if accelerator.is_main_process and (step % args.checkpoint_steps == 0 or step == args.max_steps):
            checkpoints.save({"step": step, "seconds": time.monotonic() - began, "best": best})
    bar.close()
    accelerator.end_training()

    ema.swap()
    if best is not None:
        checkpoints.load_best()
    return {
        "steps": step,
        "samples": step * per_step,
        "seconds": round(time.monotonic() - began, 1),
        "last": logs,
        "best": best,
    }


def _schedule(step: int, args: LoopArguments) -> float:
    warmup = max(1, round(args.warmup_ratio * args.max_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, args.max_steps - warmup)))


def _evaluate(
    accelerator: Accelerator,
    model: nn.Module,
    ema: Ema,
    evaluate: Evaluate,
    best: dict[str, Any] | None,
    best_metric: str,
    step: int,
    checkpoints: "Checkpoints",
) -> dict[str, Any] | None:
    model.eval()
    ema.swap()
    figures = evaluate(model)
    accelerator.log({f"validation/{k}": v for k, v in figures.items() if isinstance(v, int | float)}, step=step)
    if best is None or figures[best_metric] > best["metrics"][best_metric]:
        best = {"step": step, "metrics": figures}
        if accelerator.is_main_process:
            checkpoints.save_best()
    ema.swap()
    return best


class Checkpoints:
    """The newest checkpoint of a run and, apart from it, the best weights so far."""

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        trainable: dict[str, nn.Parameter],
        ema: Ema,
        optimizer: torch.optim.Optimizer,
        scheduler: LambdaLR,
    ):
        self.folder = folder
        self.model, self.trainable, self.ema = model, trainable, ema
        self.optimizer, self.scheduler = optimizer, scheduler
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, state: dict[str, Any]) -> None:
        final = self.folder / f"checkpoint-{state['step']}"
        temporary = self.folder / f".checkpoint-{state['step']}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        save_file({**self._weights(), **self._buffers()}, temporary / "weights.safetensors")
        save_file({k: v.contiguous() for k, v in self.ema.shadow.items()}, temporary / "ema.safetensors")
        training = {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "rng": torch.get_rng_state(),
        }
        torch.save(training, temporary / "training.pt")
        (temporary / "state.json").write_text(json.dumps(state))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        for other in self._folders():
            if other != final:
                shutil.rmtree(other)

    def load(self) -> dict[str, Any]:
        folders = self._folders()
        if not folders:
            return {"step": 0, "seconds": 0.0, "best": None}
        newest = folders[-1]
        self._restore(newest / "weights.safetensors")
        self.ema.shadow = {k: v.to(self.ema.shadow[k].device) for k, v in load_file(newest / "ema.safetensors").items()}
        training = torch.load(newest / "training.pt", weights_only=True)
        self.optimizer.load_state_dict(training["optimizer"])
        self.scheduler.load_state_dict(training["scheduler"])
        torch.set_rng_state(training["rng"])
        return json.loads((newest / "state.json").read_text())

    def save_best(self) -> None:
        temporary = self.folder / ".best.tmp"
        save_file({**self._weights(), **self._buffers()}, temporary)
        os.replace(temporary, self.folder / "best.safetensors")

    def load_best(self) -> None:
        self._restore(self.folder / "best.safetensors")

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach().contiguous() for name, p in self.trainable.items()}

    def _buffers(self) -> dict[str, Tensor]:
        """Running statistics, where the whole model trains; a frozen base's don't change."""
        if len(self.trainable) < len(list(self.model.parameters())):
            return {}
        return {name: b.detach().contiguous() for name, b in self.model.named_buffers()}

    def _restore(self, path: Path) -> None:
        saved = load_file(path)
        missing = set(self.trainable) - set(saved)
        if missing:
            raise ValueError(f"{path} was written by another configuration: it lacks {sorted(missing)[:3]} …")
        self.model.load_state_dict(saved, strict=False)

    def _folders(self) -> list[Path]:
        found = [f for f in self.folder.glob("checkpoint-*") if (f / "state.json").exists()]
        return sorted(found, key=lambda f: int(f.name.split("-")[1]))
