"""The training loop of both stages.

Notable:
- sample i and the random numbers of a step are pure functions of the seed and of i or the step. So a run that was
  killed and resumed gives the same result as an uninterrupted one.
- gradients are averaged over processes here, not by DistributedDataParallel, which doesn't support weights that are
  used outside the model's `forward`, such as the teacher's prior and its last encoder blocks.
- a module is in training mode (dropout, running statistics of batch norm) if all its weights are trained; a frozen base
  is in evaluation mode. The running statistics are averaged like the weights (EMA).
- all processes have the same model after every step: gradients and running statistics are averaged over them, and the
  main process alone evaluates. Batch norm normalises by the batch of its own process, so two processes differ from one
  with twice the batch size (docs/how_to/several_gpus.md).
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
from torch.utils.data import DataLoader, Dataset
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


def make_accelerator(args: LoopArguments) -> Accelerator:
    """
    An `Accelerator` with the arguments' precision, gradient accumulation and tracker. Sets all random seeds.

    Raises `ValueError` if `output_dir` can't be written to, or `fp16` is set without a GPU.
    """
    check_can_be_made(args.output_dir, "output_dir")
    precision, on_cpu = args.mixed_precision, default_device() == "cpu"
    if precision == "auto":
        precision = "bf16" if not on_cpu and torch.cuda.is_bf16_supported() else "no"
    if precision == "fp16" and on_cpu:
        raise ValueError("`mixed_precision: fp16` needs a GPU, and none is in use: set it to `auto` or `no`")
    accelerator = Accelerator(
        mixed_precision=precision,
        cpu=on_cpu,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=None if args.report_to == "none" else args.report_to,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))],  # other processes wait while one evaluates
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
    Train a model's trainable weights by AdamW.

    Afterwards the model holds the exponential moving average of its weights, of the best step if `evaluate` is given,
    else of the last one, and is in evaluation mode.

    Args:
        accelerator: from [`make_accelerator`].
        dataset: its item i is a dict of tensors and a pure function of i.
        loss_function: `(model, batch, step) → (loss, metrics to log)`.
        args: from the recipe.
        evaluate: `model → metrics` on held-out labelled frames. Called in the main process only.
        best_metric: the metric whose highest value makes a step the best.
        collate: of the `DataLoader`, if samples can't be stacked.
        made_of: hashes of what the result depends on besides the arguments, such as rows and initial weights, by name.
        show: `step → picture` of the model's predictions, called every `eval_steps`, after `evaluate`.

    Returns `steps`, `samples`, `seconds`, `last` (losses of the last step) and `best` (`step` and `metrics` of the best
    one; `None` without `evaluate`).

    Raises:
        FloatingPointError: if the loss isn't finite.
        ValueError: if the checkpoint in `output_dir` is damaged, or of a run with other arguments, rows or model.
    """
    # Model and optimiser. The model first: this may replace its buffers by other tensors.
    wrapped = accelerator.prepare_model(model, evaluation_mode=True)  # mixed precision, no DistributedDataParallel
    weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
    buffers = _trained_buffers(model)
    statistics = {name: b for name, b in buffers.items() if b.is_floating_point()}
    ema = Ema({**weights, **statistics}, args.ema_decay)
    optimizer = _optimizer([*weights.values()], args)
    scheduler = LambdaLR(optimizer, lambda step: _learning_rate_factor(step, args))

    # Start or resume
    values = {**weights, **buffers}
    checkpoints = Checkpoints(
        Path(args.output_dir),
        model=model,
        values=values,
        ema=ema,
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=accelerator.scaler,
    )
    arguments = {**decide_the_result(args), "processes": accelerator.num_processes}
    run = {"arguments": arguments, "made_of": {**(made_of or {}), "version of scalpel-hf": __version__}}
    state = checkpoints.load(**run) if args.resume else NEW_RUN
    step, best, logs, history = state["step"], state["best"], state["last"], [*state.get("history", [])]
    began = time.monotonic() - state["seconds"]
    if step < args.max_steps and accelerator.is_main_process:
        (Path(args.output_dir) / METRICS_FILE).unlink(missing_ok=True)  # they are of weights that this run replaces
    if step:
        accelerator.print(f"resuming from step {step} of {args.max_steps}")

    # The optimiser isn't moved: the weights are on their device already, and AdamW's step counts, moved to a GPU, would
    # make every step wait for it.
    per_step = args.batch_size * accelerator.num_processes * args.gradient_accumulation_steps
    sampler = range(step * per_step, args.max_steps * per_step)  # of the samples' numbers
    loader = DataLoader(
        dataset, batch_size=args.batch_size, sampler=sampler, num_workers=args.num_workers, collate_fn=collate
    )
    optimizer, loader = accelerator.prepare(optimizer, loader, device_placement=[False, True])
    _set_training_mode(wrapped)
    if args.report_to != "none":
        accelerator.init_trackers(_tracker_name(accelerator, args), config={k: str(v) for k, v in vars(args).items()})

    # Train
    bar = tqdm(total=args.max_steps, initial=step, disable=not accelerator.is_main_process, unit="step")
    for number, batch in enumerate(loader):
        if number % args.gradient_accumulation_steps == 0:
            torch.manual_seed(_step_seed(args.seed, step, accelerator.process_index))
        with accelerator.accumulate(wrapped):
            loss, metrics = loss_function(wrapped, batch, step)
            _check_finite(loss, step, args)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                _average_over_processes(accelerator, _gradients(accelerator, [*weights.values()]))
                if args.max_grad_norm:
                    accelerator.clip_grad_norm_(weights.values(), args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        if not accelerator.sync_gradients:
            continue
        step += 1
        is_last = step == args.max_steps
        scheduler.step()
        _average_over_processes(accelerator, [*statistics.values()])
        ema.update(step)

        # Log, evaluate, save
        logs = {"loss": loss.item(), **metrics}
        bar.update()
        if is_last or step % args.logging_steps == 0:
            bar.set_postfix({k: f"{v:.3f}" for k, v in logs.items()})
            accelerator.log({**logs, "learning_rate": scheduler.get_last_lr()[0]}, step=step)
            history.append({"step": step, **logs})
        if (evaluate or show) and (is_last or step % args.eval_steps == 0):
            if accelerator.is_main_process:
                model.eval()
                ema.swap()
                if evaluate:
                    validation = evaluate(model)
                    numbers = {k: v for k, v in validation.items() if isinstance(v, int | float)}
                    accelerator.log({f"validation/{k}": v for k, v in numbers.items()}, step=step)
                    history.append({"step": step, "validation": validation})
                    best = _best_step(best, validation, metric=best_metric, step=step)
                    if best["step"] == step:
                        checkpoints.save_best(step)
                if show:
                    keep_sheet(accelerator, checkpoints.folder, sheet=show(step), step=step)
                ema.swap()
                write_history(args.output_dir, history)
                _set_training_mode(wrapped)
            best = broadcast_object_list([best])[0]
        if accelerator.is_main_process and (is_last or step % args.checkpoint_steps == 0):
            seconds = time.monotonic() - began
            checkpoints.save({"step": step, "seconds": seconds, "best": best, "last": logs, "history": history, **run})
    bar.close()
    if accelerator.is_main_process:
        write_history(args.output_dir, history)

    model.eval()
    accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)  # evaluated, used and saved in full precision
    ema.swap()
    if best is not None:
        accelerator.wait_for_everyone()  # the main process may still be writing the file
        checkpoints.load_best(best["step"])
    for tracker in accelerator.trackers:
        tracker.finish()
    accelerator.trackers = []  # the next training in this process has its own
    return {
        "steps": step,
        "samples": step * per_step,
        "seconds": round(time.monotonic() - began, 1),
        "last": logs,
        "best": best,
    }


def _tracker_name(accelerator: Accelerator, args: LoopArguments) -> str:
    """`scalpel`, with the folder within the run's of a committee's member or an arm of the guard."""
    within = Path(args.output_dir).parts[len(Path(accelerator.project_dir or args.output_dir).parts) :]
    return "-".join(["scalpel", *within])


def _gradients(accelerator: Accelerator, weights: list[nn.Parameter]) -> list[Tensor]:
    """The weights' gradients; of several processes, which must all average the same ones, with zeros for missing."""
    if accelerator.num_processes > 1:
        for weight in weights:
            weight.grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
    return [weight.grad for weight in weights if weight.grad is not None]


def _optimizer(weights: list[nn.Parameter], args: LoopArguments) -> torch.optim.Optimizer:
    """AdamW. Biases and the scales of norms don't decay."""
    decayed, others = [p for p in weights if p.ndim > 1], [p for p in weights if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": args.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=args.learning_rate)


def _check_finite(loss: Tensor, step: int, args: LoopArguments) -> None:
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {loss.item()} at step {step}: lower `learning_rate`, or resume from the last checkpoint in "
            f"{args.output_dir} with another `seed`"
        )


def _best_step(best: dict[str, Any] | None, metrics: dict[str, float], metric: str, step: int) -> dict[str, Any]:
    """The better of the best step so far and this one, with its metrics. One whose metric is 0 is always replaced."""
    if best is None or not best["metrics"][metric] or metrics[metric] > best["metrics"][metric]:
        return {"step": step, "metrics": metrics}
    return best


@torch.no_grad()
def _average_over_processes(accelerator: Accelerator, tensors: list[Tensor]) -> None:
    """Replace tensors by their mean over all processes, in place."""
    if accelerator.num_processes == 1 or not tensors:
        return
    mean = accelerator.reduce(torch.cat([t.flatten() for t in tensors]), "mean")
    for tensor, part in zip(tensors, mean.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def _trained_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that have weights and train all of them."""
    for name, module in model.named_modules():
        parameters = list(module.parameters())
        if parameters and all(p.requires_grad for p in parameters):
            yield name, module


def _set_training_mode(model: nn.Module) -> None:
    """Training mode for trained modules; evaluation mode for frozen ones, so that running statistics don't change."""
    model.eval()
    for _, module in _trained_modules(model):
        module.train()


def _trained_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The buffers (running statistics) of the trained modules, by name."""
    return {
        f"{name}.{key}" if name else key: buffer
        for name, module in _trained_modules(model)
        for key, buffer in module.named_buffers(recurse=False)
    }


def hash_weights(model: nn.Module) -> str:
    """Hash of a model's weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.float().numpy(force=True).tobytes())  # exact for every dtype of weights
    return digest.hexdigest()[:32]


def _step_seed(seed: int, step: int, process: int) -> int:
    return int(np.random.SeedSequence([seed, step, process]).generate_state(1)[0])


def _learning_rate_factor(step: int, args: LoopArguments) -> float:
    warmup = max(1, round(args.warmup_ratio * args.max_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, args.max_steps - warmup)))
