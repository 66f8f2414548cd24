"""Parameters, FLOPs, latency and memory of the students beside SegFormer-B0 and a plain U-Net, as a Markdown table.

    python scripts/benchmarks/benchmark_students.py --out students.md
    python scripts/benchmarks/benchmark_students.py --models small unet --sizes 256x256 --backends eager ONNX
    python scripts/benchmarks/benchmark_students.py --backends ONNX --sizes 256x256 --threads 1 --picture frontier.svg

Weights are random: what is measured does not depend on them. Every model takes normalised frames (1, 1, H, W) and gives
logits at full size. Models and backends take turns, so that a busy machine disturbs all alike. A cell is the median in
milliseconds, the 10th to 90th percentile, and the least. With one thread the clock is that thread's CPU time, to which
waiting for a core does not count; with more it is the wall's. Memory is what a fresh process holds at most with one
thread at the last size, in MiB, above what it held before it loaded the model; of compiled models it isn't measured,
whose compiler would count too.
"""

import argparse
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmark_models import MODELS, build, runner, write_files
from frontier import draw
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scalpel_hf.cli.numbers import COUNT, THREADS
from scalpel_hf.cli.program import run_program
from scalpel_hf.utils.files import write_text

BACKENDS = ["eager", "compiled", "ONNX", "INT8"]
WARM_UP = 3
PICTURED = ("ONNX", 256, 256, 1)  # backend, width, height and threads
FRONTIER = Path(__file__).parents[2] / "results" / "frontier"
NOTES = """\
Weights are random, frames normalised, logits at the frame's size. A cell is the median in milliseconds, the 10th to
90th percentile, and the least; models take turns. With one thread the clock is that thread's CPU time, with more the
wall's. Memory is a fresh process's peak with one thread at the last size, above what it held before the model was
loaded; of compiled models it is not measured. GFLOP counts a multiplication and an addition as two. `unet` is that of
`plain_unet.py`, of ACM's size; `segformer-b0` answers at a quarter of the resolution, and is resized.
"""


def milliseconds(runs: dict[Any, Callable[[], Any]], threads: int, repeats: int) -> dict[Any, list[float]]:
    """Of every run in turn, after a warm-up of each."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    times: dict[Any, list[float]] = {key: [] for key in runs}
    for _ in range(WARM_UP + repeats):
        for key, run in runs.items():
            start = clock()
            run()
            times[key].append(1e3 * (clock() - start))
    return {key: values[WARM_UP:] for key, values in times.items()}


def cell(values: list[float]) -> str:
    low, median, high = np.percentile(values, [10, 50, 90])
    return f"{median:.1f} ({low:.1f}–{high:.1f}), {min(values):.1f}"


def flops(model: nn.Module, side: int = 256) -> int:
    """Of one square frame, a multiplication and an addition counted as two."""
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, side, side))
    return counter.get_total_flops()


def memory(name: str, backend: str, files: dict[str, Path], size: tuple[int, int]) -> str:
    if backend == "compiled" or not Path("/proc/self/clear_refs").exists():
        return ""
    model = name if backend == "eager" else str(files[backend])
    script = Path(__file__).with_name("benchmark_memory.py")
    command = [sys.executable, str(script), model, "x".join(str(side) for side in size)]
    return f"{float(subprocess.run(command, capture_output=True, text=True, check=True).stdout):.0f}"


def parse_size(text: str) -> tuple[int, int]:
    width, height = text.split("x")
    return int(width), int(height)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    sizes = [(256, 256), (512, 512), (640, 512)]
    parser.add_argument("--sizes", nargs="+", type=parse_size, default=sizes, help="width x height, such as 640x512")
    parser.add_argument("--threads", nargs="+", type=THREADS, default=[1, 2])
    parser.add_argument("--repeats", type=COUNT, default=50, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, help="Markdown file to write (default: standard output)")
    parser.add_argument(
        "--picture", type=Path, help="SVG file to write: IoU over milliseconds (ONNX, 256x256, 1 thread)"
    )
    args = parser.parse_args(argv)
    if "compiled" in args.backends and not shutil.which("g++"):
        raise ValueError("torch.compile needs a C++ compiler on a CPU: install g++, or name other `--backends`")

    models = {name: build(name) for name in args.models}
    rows = list(product(args.models, args.backends))
    cells: dict[tuple[str, str], list[str]] = {row: [] for row in rows}
    medians: dict[str, float] = {}  # of what the picture shows
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        files: dict[str, dict[str, Path]] = {name: {} for name in models}
        if {"ONNX", "INT8"} & set(args.backends):
            files = {name: write_files(model, Path(work), name) for name, model in models.items()}
        for name, backend in rows:
            cells[name, backend].append(memory(name, backend, files=files[name], size=args.sizes[-1]))
        for (width, height), threads in product(args.sizes, args.threads):
            torch.set_num_threads(threads)
            frames = np.random.default_rng(0).standard_normal((1, 1, height, width)).astype(np.float32)
            runs: dict[Any, Callable[[], Any]] = {
                (n, b): partial(runner(b, models[n], files=files[n], threads=threads), frames) for n, b in rows
            }
            for row, values in milliseconds(runs, threads, args.repeats).items():
                cells[row].append(cell(values))
                if (row[1], width, height, threads) == PICTURED:
                    medians[row[0]] = float(np.median(values))
            print(f"{width} x {height}, {threads} threads: done", file=sys.stderr)

    if args.picture:
        write_text(args.picture, draw(FRONTIER, medians))
    lines = table({name: facts(name, model) for name, model in models.items()}, cells, args)
    text = "\n".join([*heading(sys.argv[1:] if argv is None else argv, args.repeats), *lines, ""])
    if args.out is None:
        print(text)
    else:
        write_text(args.out, text)


def heading(argv: list[str], repeats: int) -> list[str]:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "transformers"))
    return [
        "# Benchmark of the students",
        "",
        f"`{shlex.join(['python', 'scripts/benchmarks/benchmark_students.py', *argv])}`",
        "",
        f"{processor()}, {torch.backends.cpu.get_cpu_capability()}; {versions}; one frame, {repeats} repeats.",
        "",
        NOTES,
    ]


def processor() -> str:
    """The machine's processor by name, where Linux knows it."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text(encoding="utf-8")) if info.exists() else []
    return f"{os.cpu_count()} cores, {names[0] if names else platform.machine()}"


def facts(name: str, model: nn.Module) -> list[str]:
    """Name, parameters and FLOPs, as the table has them."""
    return [name, f"{sum(p.numel() for p in model.parameters()) / 1e6:.3f}", f"{flops(model) / 1e9:.2f}"]


def table(
    about: dict[str, list[str]], cells: dict[tuple[str, str], list[str]], args: argparse.Namespace
) -> Iterator[str]:
    columns = [f"{w} × {h}, {t} thread{'s' * (t > 1)}" for (w, h), t in product(args.sizes, args.threads)]
    yield "| " + " | ".join(["model", "parameters, M", "GFLOP at 256²", "backend", "memory, MiB", *columns]) + " |"
    yield "|---" * (5 + len(columns)) + "|"
    for name, backend in cells:
        known = about[name] if backend == args.backends[0] else [""] * 3
        yield "| " + " | ".join([*known, backend, *cells[name, backend]]) + " |"


if __name__ == "__main__":
    run_program(main)
