"""One training loop for both stages.

Notable:
- sample number i is a pure function of (seed, i), and so are the random numbers of a step, so that a run that was
  killed and resumed sees what an unbroken one sees, without a record of what has been read or drawn.
- processes average their gradients here rather than in DistributedDataParallel, which loses track of weights that are
  used outside the model's `forward`, as the teacher's prior and the end of its encoder are.
- a module trains, dropout and running statistics included, where all its weights do; a frozen base stays as it is in
  evaluation. Running statistics are averaged like the weights, so that the two fit.
- processes share one model at every step: running statistics are averaged over them like gradients, and what the main
  process measures decides for all. Each batch norm normalises by its own process's part of the batch, which is what
  two processes differ in from one with a batch of twice the size (docs/how_to/several_gpus.md).
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, broadcast_object_list, set_seed
from PIL import Image
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm.auto import tqdm

from scalpel_hf.predictors.load import default_device
from scalpel_hf.utils.files import check_can_be_made
from scalpel_hf.version import __version__

from .arguments import decide_the_result
from .checkpoints import NEW_RUN, Checkpoints, Ema
from .contact_sheet import keep_sheet
from .history import write_history
from .recipe_arguments import LoopArguments
from .run_record import METRICS_FILE

logger = logging.getLogger(__name__)

Batch = dict[str, Any]
LossFunction = Callable[[nn.Module, Batch, int], tuple[Tensor, dict[str, float]]]
Evaluate = Callable[[nn.Module], dict[str, float]]
Show = Callable[[int], Image.Image]


class RangeSampler(Sampler[int]):
    """Numbers of the samples still to come: `start`, `start + 1`, … `stop − 1`."""

    def __init__(self, start: int, stop: int):
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return self.stop - self.start


def make_accelerator(args: LoopArguments) -> Accelerator:
    """
    Accelerator with the arguments' precision, accumulation and tracker; seeds everything.

    Raises `ValueError` for an `output_dir` that can't be written to, and for half precision without a GPU.
    """
    check_can_be_made(args.output_dir, "output_dir")
    precision, on_cpu = args.mixed_precision, default_device() == "cpu"
    if precision == "auto":
        precision = "bf16" if not on_cpu and torch.cuda.is_bf16_supported() else "no"
    if precision == "fp16" and on_cpu:
        raise ValueError("`mixed_precision: fp16` needs a GPU, and none is used here: set it to `auto`, or to `no`")
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=on_cpu,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=None if args.report_to == "none" else args.report_to,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))],  # the others wait while one measures
        project_config=ProjectConfiguration(project_dir=args.output_dir, logging_dir=f"{args.output_dir}/logs"),
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
    collate: Callable[[list[Any]], Batch] | None = None,
    made_of: dict[str, str] | None = None,
    show: Show | None = None,
) -> dict[str, Any]:
    """
    Train a model's trainable weights and leave their running mean in it, in evaluation mode.

    Args:
        dataset: sample number i as a dict of tensors, a pure function of i.
        loss_function: `(model, batch, step) → (loss, metrics to log)`.
        evaluate: metrics on held-out labelled frames; the step with the highest `best_metric` is then kept. Called in
            the main process alone.
        collate: batch of a list of samples, where they are more than dicts of tensors of one shape.
        made_of: what the result depends on beside the arguments, each with a hash of its content: rows, first weights.
        show: what held-out frames look like to the model, a picture by the step; drawn every `eval_steps`, after
            `evaluate`.

    Returns steps, seconds, samples and the last losses; with `evaluate` the best metrics and their step.

    Raises:
        FloatingPointError: where the loss is no number.
        ValueError: where `output_dir` has a checkpoint of a run with other arguments, made of something else or of
            another model, or a damaged one.
    """
    # First of all: it may put other tensors in the place of buffers, which are looked up below.
    wrapped = accelerator.prepare_model(model, evaluation_mode=True)  # mixed precision, and no wrapper around it
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
    values = {**trainable, **buffers}
    checkpoints = Checkpoints(
        Path(args.output_dir), model, values, ema, optimizer, scheduler, scaler=accelerator.scaler
    )
    made_of = {**(made_of or {}), "version of scalpel-hf": __version__}
    start = checkpoints.load(decide_the_result(args), made_of) if args.resume else NEW_RUN
    if start["step"] < args.max_steps and accelerator.is_main_process:
        (Path(args.output_dir) / METRICS_FILE).unlink(missing_ok=True)  # of weights that come to be replaced
    if start["step"]:
        accelerator.print(f"resuming from step {start['step']} of {args.max_steps}")

    per_step = args.batch_size * accelerator.num_processes * args.gradient_accumulation_steps
    sampler = RangeSampler(start["step"] * per_step, args.max_steps * per_step)
    loader = DataLoader(
        dataset, batch_size=args.batch_size, sampler=sampler, num_workers=args.num_workers, collate_fn=collate
    )
    # The weights are on their device already. Placed again, a resumed AdamW's step counts would go there too, and every
    # step would wait for the GPU to say each of them.
    optimizer, loader = accelerator.prepare(optimizer, loader, device_placement=[False, True])
    _train_mode(wrapped)
    if args.report_to != "none":
        accelerator.init_trackers("scalpel", config={k: str(v) for k, v in vars(args).items()})

    step, best, logs = start["step"], start["best"], start["last"]
    history: list[dict[str, Any]] = [*start.get("history", [])]
    began = time.monotonic() - start["seconds"]
    bar = tqdm(total=args.max_steps, initial=step, disable=not accelerator.is_main_process, unit="step")
    for number, batch in enumerate(loader):
        if number % args.gradient_accumulation_steps == 0:
            torch.manual_seed(_step_seed(args.seed, step, accelerator.process_index))
        with accelerator.accumulate(wrapped):
            loss, metrics = loss_function(wrapped, batch, step)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {loss.item()} at step {step}: lower `learning_rate`, or resume from the last "
                    f"checkpoint in {args.output_dir} with another `seed`"
                )
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                _average(accelerator, [p.grad for p in trainable.values() if p.grad is not None])
                accelerator.clip_grad_norm_(trainable.values(), args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        if not accelerator.sync_gradients:
            continue
        step += 1
        scheduler.step()
        _average(accelerator, [b for b in buffers.values() if b.is_floating_point()])
        ema.update(step)
        logs = {"loss": loss.item(), **metrics}
        bar.update()
        if step % args.logging_steps == 0 or step == args.max_steps:
            bar.set_postfix({k: f"{v:.3f}" for k, v in logs.items()})
            accelerator.log({**logs, "learning_rate": scheduler.get_last_lr()[0]}, step=step)
            history.append({"step": step, **logs})
        if (evaluate or show) and (step % args.eval_steps == 0 or step == args.max_steps):
            if accelerator.is_main_process:
                best = _evaluate(accelerator, model, ema, evaluate, show, best, best_metric, step, checkpoints, history)
                write_history(args.output_dir, history)
                _train_mode(wrapped)
            best = broadcast_object_list([best])[0]
        if accelerator.is_main_process and (step % args.checkpoint_steps == 0 or step == args.max_steps):
            seconds = time.monotonic() - began
            state = {"step": step, "seconds": seconds, "best": best, "last": logs, "history": history}
            checkpoints.save({**state, "arguments": decide_the_result(args), "made_of": made_of})
    bar.close()
    if accelerator.is_main_process:
        write_history(args.output_dir, history)

    model.eval()
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)  # measured and used in full precision, as it is saved
    ema.swap()
    if best is not None:
        accelerator.wait_for_everyone()  # the main process may still be writing it
        checkpoints.load_best(best["step"])
    accelerator.end_training()  # from here on the processes don't hear of each other
    return {
        "steps": step,
        "samples": step * per_step,
        "seconds": round(time.monotonic() - began, 1),
        "last": logs,
        "best": best,
    }


@torch.no_grad()
def _average(accelerator: Accelerator, tensors: list[Tensor]) -> None:
    """Give every process the mean over all processes of tensors that all of them have."""
    if accelerator.num_processes == 1 or not tensors:
        return
    mean = accelerator.reduce(torch.cat([t.flatten() for t in tensors]), "mean")
    for tensor, part in zip(tensors, mean.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules with weights, all of which are trained."""
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        if parameters and all(p.requires_grad for p in parameters):
            yield name, module


def _train_mode(model: nn.Module) -> None:
    """Training mode for what is trained; a frozen base stays in evaluation mode and keeps its running statistics."""
    model.eval()
    for _, module in _trained(model):
        module.train()


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Running statistics of what is trained; a frozen base's don't change."""
    return {
        f"{name}.{key}" if name else key: buffer
        for name, module in _trained(model)
        for key, buffer in module.named_buffers(recurse=False)
    }


def hash_weights(model: nn.Module) -> str:
    """Hash of a model's weights and buffers: what a training begins with."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.float().numpy(force=True).tobytes())  # exact for every dtype of weights
    return digest.hexdigest()[:32]


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
    evaluate: Evaluate | None,
    show: Show | None,
    best: dict[str, Any] | None,
    best_metric: str,
    step: int,
    checkpoints: Checkpoints,
    history: list[dict[str, Any]],
) -> dict[str, Any] | None:
    """Measure and show the running mean of the weights, and keep them where they are the best so far; the best step's
    record."""
    model.eval()
    ema.swap()
    if evaluate is not None:
        metrics = evaluate(model)
        accelerator.log({f"validation/{k}": v for k, v in metrics.items() if isinstance(v, int | float)}, step=step)
        history.append({"step": step, "validation": metrics})
        if best is None or metrics[best_metric] > best["metrics"][best_metric]:
            best = {"step": step, "metrics": metrics}
            checkpoints.save_best(step)
    if show is not None:
        keep_sheet(accelerator, checkpoints.folder, show(step), step)
    ema.swap()
    return best
