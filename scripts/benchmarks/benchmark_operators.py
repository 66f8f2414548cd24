"""Time the white-box operators beside scipy, scikit-image and NumPy doing the same, on one core, as a Markdown table.

OMP_NUM_THREADS=1 python scripts/benchmarks/benchmark_operators.py
OMP_NUM_THREADS=1 python scripts/benchmarks/benchmark_operators.py --size 512 --repeats 30
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from skimage.morphology import footprint_rectangle, white_tophat
from torch import nn

from scalpel_hf.cli.numbers import COUNT, SIDE
from scalpel_hf.cli.program import run_program
from scalpel_hf.modeling.operators import AnisotropicDiffusion, LocalContrast, MatchedFilter, TopHat


def mpcm(image: np.ndarray, cell: int) -> np.ndarray:
    height, width = image.shape
    padded = np.pad(image, cell + cell // 2, mode="edge")
    means = ndimage.uniform_filter(padded, cell)[cell // 2 :, cell // 2 :]
    at = {(i, j): means[i * cell : i * cell + height, j * cell : j * cell + width] for i, j in np.ndindex(3, 3)}
    contrast = {key: np.maximum(at[1, 1] - mean, 0) for key, mean in at.items()}
    return np.minimum.reduce([contrast[i, j] * contrast[2 - i, 2 - j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 0))])


def scipy_top_hat(image: np.ndarray, radius: int) -> np.ndarray:
    return ndimage.white_tophat(image, size=2 * radius + 1)


def skimage_top_hat(image: np.ndarray, radius: int) -> np.ndarray:
    side = 2 * radius + 1
    return white_tophat(image, footprint_rectangle((side, side), decomposition="separable"))


def laplacian_of_gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
    return -(sigma**2) * ndimage.gaussian_laplace(image, sigma, truncate=6)


def perona_malik(image: np.ndarray, distance: int) -> np.ndarray:
    u = image.copy()
    k, rate, steps = AnisotropicDiffusion.initial_k * image.std(), 1 / 6, AnisotropicDiffusion.steps
    for _ in range(steps):
        change = np.zeros_like(u)
        for source, target in ((u, change), (u.T, change.T)):
            difference = source[distance:] - source[:-distance]
            flux = difference * np.exp(-((difference / k) ** 2))
            target[:-distance] += flux
            target[distance:] -= flux
        u += rate * change
    return image - u


CASES: list[tuple[type, tuple[int, ...], dict[str, Callable[..., np.ndarray]]]] = [
    (LocalContrast, (3, 5, 9), {"NumPy + scipy": mpcm}),
    (TopHat, (2, 4, 8), {"scipy": scipy_top_hat, "scikit-image": skimage_top_hat}),
    (MatchedFilter, (1, 2, 4), {"scipy": laplacian_of_gaussian}),
    (AnisotropicDiffusion, (1, 2, 4), {"NumPy": perona_malik}),
]


def every_scale(reference: Callable[..., np.ndarray], image: np.ndarray, scales: tuple[int, ...]) -> np.ndarray:
    return np.stack([reference(image, scale) for scale in scales])


def forward(operator: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return operator(x)


def forward_and_backward(operator: nn.Module, x: torch.Tensor) -> None:
    operator(x).sum().backward()


def milliseconds(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, np.ndarray]:
    """Every function in turn, so that a busy machine disturbs all alike; two rounds of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 2):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: np.array(values[2:]) for name, values in times.items()}


def summary(times: np.ndarray) -> str:
    low, median, high = np.percentile(times, [10, 50, 90])
    return f"{median:.1f} ({low:.1f}-{high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=SIDE, default=256, help="side of the frame in pixels")
    parser.add_argument("--repeats", type=COUNT, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)

    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.standard_normal((args.size, args.size)), 5) * 15
    image = (image + 0.3 * rng.standard_normal(image.shape)).astype(np.float32)
    image = (image - image.mean()) / image.std()
    x = torch.from_numpy(image)[None, None]

    functions: dict[str, Callable[[], Any]] = {}
    for operator_class, scales, references in CASES:
        operator, name = operator_class(scales), operator_class.__name__
        functions[name] = partial(forward, operator, x)
        functions[f"{name} training"] = partial(forward_and_backward, operator, x)
        for other, reference in references.items():
            functions[f"{name} {other}"] = partial(every_scale, reference, image, scales)
    times = milliseconds(functions, args.repeats)

    print(f"{args.size} x {args.size}, float32, one frame, one thread, {args.repeats} repeats; ms: median (10 %-90 %).")
    print(f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})", end=", ")
    print(", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "scikit-image")) + "\n")
    print("| operator | scales (px) | forward | forward + backward | the same elsewhere | largest difference |")
    print("|---|---|---|---|---|---|")
    for operator_class, scales, references in CASES:
        name = operator_class.__name__
        ours = functions[name]().numpy()[0, 0]
        for index, other in enumerate(references):
            theirs = functions[f"{name} {other}"]()
            difference = np.abs(ours - theirs).max() / np.abs(theirs).max()
            own = [name, ", ".join(map(str, scales)), summary(times[name]), summary(times[f"{name} training"])]
            row = (own if index == 0 else [""] * 4) + [
                f"{other}: {summary(times[f'{name} {other}'])}",
                f"{difference:.0e}",
            ]
            print("| " + " | ".join(row) + " |")
    names = [operator_class.__name__ for operator_class, *_ in CASES]
    total = [summary(np.sum([times[n + suffix] for n in names], 0)) for suffix in ("", " training")]
    elsewhere = np.sum([times[f"{c.__name__} {next(iter(references))}"] for c, _, references in CASES], 0)
    print(f"| **all four** | | **{total[0]}** | **{total[1]}** | the first of each: {summary(elsewhere)} | |")


if __name__ == "__main__":
    run_program(main)
