"""Time a student's training step on one core, of this code and of another commit's side by side.

    git worktree add ../before COMMIT
    python scripts/benchmarks/benchmark_training_step.py --dataset data/nuaa-10pct --before ../before \\
        --out results/benchmarks/training_step_nuaa.json

A step makes a batch of crops, and is then what recipes/transfer.py does: forward, loss, backward, AdamW. Each code runs
in a process of its own with one thread; they take turns, so that what else the machine does falls on both alike. Times
are of the CPU, which other work lengthens less than those that pass. Every frame has been asked for once before.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from scalpel_hf.cli.numbers import BATCH_SIZE, COUNT, SIDE
from scalpel_hf.cli.program import run_program
from scalpel_hf.utils.files import write_json

ROOT = Path(__file__).parents[2]
PARTS = ("crops", "model")
SERVE = "serve"  # this file's first argument where it is one of the two processes


def serve(dataset: str, size: str, batch_size: int, crop_size: int) -> None:
    """Take a step for every line of the input, and answer with the seconds of CPU time of its parts."""
    import torch
    from torch.utils.data import default_collate

    from scalpel_hf.data import load_split
    from scalpel_hf.predictors.student import new_student
    from scalpel_hf.training.knowledge_transfer import StudentSamples, transfer_loss

    torch.set_num_threads(1)
    rows = load_split(dataset, "train").filter(
        lambda source: source != "none", input_columns="label_source", keep_in_memory=True
    )
    student = new_student("segmentation", size=size)
    model = student.model.to(memory_format=torch.channels_last).train()
    samples, loss_function = StudentSamples(rows, student.processor, crop_size, seed=0), transfer_loss(1.0, 0)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    for i in range(len(rows)):
        samples[i]
    for number, _ in enumerate(sys.stdin):
        began = time.process_time()
        batch = default_collate([samples[number * batch_size + i] for i in range(batch_size)])
        made = time.process_time()
        loss, _ = loss_function(model, batch, number)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(json.dumps([made - began, time.process_time() - made]), flush=True)


class Code:
    """A process with the code of one checkout."""

    def __init__(self, checkout: Path, arguments: list[str]):
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
        command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), SERVE, *arguments]
        self.process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True
        ).stdout.strip()
        self.seconds: list[list[float]] = []

    def step(self) -> list[float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the code of {self.commit[:7]} could not take a step: see above")
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def record(self, batch_size: int) -> dict[str, Any]:
        steps = np.array(self.seconds)  # (repeats, parts)
        total = steps.sum(1)
        return {
            "commit": self.commit,
            **{f"{part}_ms": round(1e3 * median(steps[:, i]), 2) for i, part in enumerate(PARTS)},
            "step_ms": round(1e3 * median(total), 2),
            "step_ms_10_90": [round(1e3 * float(q), 2) for q in np.quantile(total, (0.1, 0.9))],
            "crops_a_second": round(batch_size / median(total), 1),
        }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a folder made by `scalpel-hf prepare`")
    parser.add_argument("--before", type=Path, required=True, help="checkout of the commit to compare with")
    parser.add_argument("--size", default="small", help="of the student (default: %(default)s)")
    parser.add_argument("--batch-size", type=BATCH_SIZE, default=8, help="crops a step (default: %(default)s)")
    parser.add_argument("--crop-size", type=SIDE, default=160, help="their side in pixels (default: %(default)s)")
    parser.add_argument("--repeats", type=COUNT, default=30, help="steps of each code (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args(argv)
    if not (args.before / "scalpel_hf").is_dir():
        raise ValueError(f"{args.before} is no checkout of this project")
    arguments = [str(Path(args.dataset).resolve()), args.size, str(args.batch_size), str(args.crop_size)]
    codes = {"before": Code(args.before.resolve(), arguments), "now": Code(ROOT, arguments)}
    for code in codes.values():
        code.step()  # a warm-up
    for _ in range(args.repeats):
        for code in codes.values():
            code.seconds.append(code.step())
    for code in codes.values():
        code.close()
    ratios = [sum(a) / sum(b) for a, b in zip(codes["before"].seconds, codes["now"].seconds, strict=True)]
    record = {
        "dataset": Path(args.dataset).name,
        **{name: getattr(args, name) for name in ("size", "batch_size", "crop_size", "repeats")},
        **{name: code.record(args.batch_size) for name, code in codes.items()},
        "times_the_crops": round(median(ratios), 2),
        "times_the_crops_10_90": [round(float(q), 2) for q in np.quantile(ratios, (0.1, 0.9))],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, record)
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    if sys.argv[1:2] == [SERVE]:
        dataset, size, batch_size, crop_size = sys.argv[2:]
        serve(dataset, size, batch_size=int(batch_size), crop_size=int(crop_size))
    else:
        run_program(main)
