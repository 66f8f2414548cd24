"""What one model of the students' benchmark holds at most, in MiB, above what its process held before it was loaded.

    python scripts/benchmarks/benchmark_memory.py small 640x512
    python scripts/benchmarks/benchmark_memory.py student.onnx 640x512

One thread, three frames; on Linux, whose /proc it reads. A process measures one model: what another had left behind
would count, or be used again. It imports that model's library alone, before it counts.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from scalpel_hf.cli.program import run_program

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def held(field: str) -> float:
    """A field of this process's status that is in kB, in MiB."""
    return (
        int(next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith(field)).split()[1])
        / 1024
    )


def onnx_loader(path: str) -> Callable[[], Callable[[np.ndarray], Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1

    def load() -> Callable[[np.ndarray], Any]:
        session = onnxruntime.InferenceSession(path, options)
        return lambda frames: session.run(None, {"frames": frames})

    return load


def eager_loader(name: str) -> Callable[[], Callable[[np.ndarray], Any]]:
    import torch
    from benchmark_models import build

    torch.set_num_threads(1)
    torch.conv2d(torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 3, 3))  # with what the first of all brings with it

    def load() -> Callable[[np.ndarray], Any]:
        model = build(name)
        return lambda frames: model(torch.from_numpy(frames))

    return load


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="an ONNX file, or a model's name in the benchmark")
    parser.add_argument("size", help="width x height, such as 640x512")
    args = parser.parse_args(argv)
    width, height = (int(side) for side in args.size.split("x"))
    load = (onnx_loader if args.model.endswith(".onnx") else eager_loader)(args.model)
    before = held("VmRSS")
    CLEAR.write_text("5", encoding="utf-8")  # the peak counts from here
    run = load()
    for _ in range(3):
        run(np.zeros((1, 1, height, width), np.float32))
    print(held("VmHWM") - before)


if __name__ == "__main__":
    run_program(main)
