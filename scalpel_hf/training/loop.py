"""One training loop for both stages.

Notable:
- sample number i is a pure function of (seed, i), and so are the random numbers of a step, so that a run that was
  killed and resumed sees what an unbroken one sees, without a record of what has been read or drawn.
- running statistics of a model that trains as a whole are averaged like its weights, so that the two fit.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, set_seed
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm.auto import tqdm

from .arguments import LoopArguments
from .checkpoints import NEW_RUN, Checkpoints, Ema

logger = logging.getLogger(__name__)

Batch = dict[str, Any]
LossFunction = Callable[[nn.Module, Batch, int], tuple[Tensor, dict[str, float]]]
Evaluate = Callable[[nn.Module], dict[str, float]]

FREE_ARGUMENTS = (
    "output_dir",
    "checkpoint_steps",
    "logging_steps",
    "report_to",
    "resume",
    "num_workers",
    "push_to_hub",
    "base_model_id",
    "eval_split",
    "cache_dir",
)


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

    Raises:
        FloatingPointError: where the loss is no number.
        ValueError: where `output_dir` has a checkpoint of a run with other arguments or another model.
    """
    model.to(accelerator.device)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    decayed = [p for p in trainable.values() if p.ndim > 1]
    others = [p for p in trainable.values() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=args.learning_rate,
    )
    scheduler = LambdaLR(optimizer, lambda step: _schedule(step, args))
    buffers = _buffers(model)
    ema = Ema({**trainable, **{n: b for n, b in buffers.items() if b.is_floating_point()}}, args.ema_decay)
    checkpoints = Checkpoints(Path(args.output_dir), model, {**trainable, **buffers}, ema, optimizer, scheduler)
    start = checkpoints.load(_fixed(args)) if args.resume else NEW_RUN
    if start["step"]:
        accelerator.print(f"going on from step {start['step']} of {args.max_steps}")

    per_step = args.batch_size * accelerator.num_processes * args.gradient_accumulation_steps
    sampler = RangeSampler(start["step"] * per_step, args.max_steps * per_step)
    loader = DataLoader(dataset, batch_size=args.batch_size, sampler=sampler, num_workers=args.num_workers)
    wrapped, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    wrapped.train(train_mode)
    if args.report_to != "none":
        accelerator.init_trackers("scalpel", config={k: str(v) for k, v in vars(args).items()})

    step, best, logs = start["step"], start["best"], start["last"]
    began = time.monotonic() - start["seconds"]
    bar = tqdm(total=args.max_steps, initial=step, disable=not accelerator.is_main_process, unit="step")
    for number, batch in enumerate(loader):
        if number % args.gradient_accumulation_steps == 0:
            torch.manual_seed(_step_seed(args.seed, step, accelerator.process_index))
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
            seconds = time.monotonic() - began
            state = {"step": step, "seconds": seconds, "best": best, "last": logs, "arguments": _fixed(args)}
            checkpoints.save(state)
    bar.close()
    accelerator.end_training()

    ema.swap()
    if best is not None:
        accelerator.wait_for_everyone()  # the main process may still be writing it
        checkpoints.load_best(best["step"])
    return {
        "steps": step,
        "samples": step * per_step,
        "seconds": round(time.monotonic() - began, 1),
        "last": logs,
        "best": best,
    }


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Running statistics, where the whole model trains; a frozen base's don't change."""
    return dict(model.named_buffers()) if all(p.requires_grad for p in model.parameters()) else {}


def _fixed(args: LoopArguments) -> dict[str, Any]:
    """The arguments that a run can't be resumed with another value of."""
    return {name: value for name, value in vars(args).items() if name not in FREE_ARGUMENTS}


def _step_seed(seed: int, step: int, process: int) -> int:
    return int(np.random.SeedSequence([seed, step, process]).generate_state(1)[0])


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
    checkpoints: Checkpoints,
) -> dict[str, Any] | None:
    model.eval()
    ema.swap()
    figures = evaluate(model)
    accelerator.log({f"validation/{k}": v for k, v in figures.items() if isinstance(v, int | float)}, step=step)
    if best is None or figures[best_metric] > best["metrics"][best_metric]:
        best = {"step": step, "metrics": figures}
        if accelerator.is_main_process:
            checkpoints.save_best(step)
    ema.swap()
    return best
