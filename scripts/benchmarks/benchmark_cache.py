"""Time a teacher's training step with the frozen features read from its cache and computed anew, as a Markdown table.

    OMP_NUM_THREADS=1 python scripts/benchmarks/benchmark_cache.py --mobile-sam models/mobile-sam
    OMP_NUM_THREADS=1 python scripts/benchmarks/benchmark_cache.py --mobile-sam models/mobile-sam --batch-size 1 \\
        --repeats 3

A step is what recipes/distill.py does: the frozen features, the encoder's last two blocks, the mask
decoder and the adapter on 256-pixel crops, the loss, the way back, AdamW. Frames are noise: no time here depends on
what is in them. All cases take turns, so that what else the machine does falls on all of them alike; CPU time, which
other work doesn't lengthen, is given beside the time that passed.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from peft import get_peft_model
from torch import Tensor
from transformers import SamConfig, SamModel
from transformers.models.sam.configuration_sam import SamPromptEncoderConfig, SamVisionConfig

from scalpel_hf import FeatureCache, FrozenFeatures, ScalpelMoeConfig
from scalpel_hf.cli.numbers import BATCH_SIZE, COUNT
from scalpel_hf.cli.program import run_program
from scalpel_hf.predictors.sam import load_sam
from scalpel_hf.training.distillation import distillation_loss

CROP = 256  # pixels


def vit_b(size: int) -> SamModel:
    """A `SamModel` of ViT-B's shape with random weights."""
    prompt = SamPromptEncoderConfig(image_size=size, image_embedding_size=size // 16)
    config = SamConfig(
        vision_config=SamVisionConfig(image_size=size, initializer_range=0.02),
        prompt_encoder_config=prompt.to_dict(),
        initializer_range=0.02,
    )
    return SamModel(config).requires_grad_(False).eval()


class Case:
    """A base at an input size, with a batch of inputs and the cache of their activations."""

    def __init__(self, base: SamModel, batch_size: int, folder: Path):
        self.model = get_peft_model(base, ScalpelMoeConfig()).eval().to(memory_format=torch.channels_last)
        self.frozen = FrozenFeatures(self.model)
        self.cache = FeatureCache(self.frozen, folder)
        size = self.frozen.input_size
        self.pixel_values = torch.randn(batch_size, 3, size, size)
        self.batch = {
            "frames": torch.randn(batch_size, 1, CROP, CROP),
            "frame_boxes": torch.tensor([0.0, 0.0, size, size]).expand(batch_size, 4),
            "labels": (torch.rand(batch_size, CROP, CROP) > 0.999).float(),
            "weights": torch.ones(batch_size, CROP, CROP),
        }
        self.loss = distillation_loss(self.frozen, 1.0, prior=0.3, balance=0.01)
        self.optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], 1e-4)
        for image in self.pixel_values:
            self.cache.get(image)
        self.keys = [self.cache.key(image) for image in self.pixel_values]  # a data set knows them

    def computed(self) -> Tensor:
        return self.frozen.states(self.pixel_values)

    def cached(self) -> Tensor:
        return torch.stack([state for key in self.keys if (state := self.cache.load(key)) is not None])

    def step(self, states: Callable[[], Tensor]) -> tuple[float, float]:
        """Seconds of one step that passed, and of CPU time."""
        began, worked = time.perf_counter(), time.process_time()
        loss, _ = self.loss(self.model, {"states": states(), **self.batch}, 0)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - began, time.process_time() - worked

    def entry_bytes(self) -> float:
        return np.mean([file.stat().st_size for file in self.cache.folder.iterdir()]).item()


def summary(seconds: np.ndarray) -> str:
    low, middle, high = np.quantile(seconds, (0.1, 0.5, 0.9))
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mobile-sam", required=True, help="MobileSAM as `scalpel-hf convert mobile-sam` makes it")
    parser.add_argument("--batch-size", type=BATCH_SIZE, default=4, help="crops a step (default: %(default)s)")
    parser.add_argument("--repeats", type=COUNT, default=7, help="steps of each case (default: %(default)s)")
    args = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            "MobileSAM, 512": Case(load_sam(args.mobile_sam, 512), args.batch_size, Path(folder) / "mobile-512"),
            "MobileSAM, 1024": Case(load_sam(args.mobile_sam, 1024), args.batch_size, Path(folder) / "mobile-1024"),
            "ViT-B's shape, 512": Case(vit_b(512), args.batch_size, Path(folder) / "vit-b-512"),
        }
        times: dict[tuple[str, str], list[tuple[float, float]]] = {
            (n, way): [] for n in cases for way in ("computed", "cached")
        }
        for repeat in range(args.repeats + 1):
            for (name, way), own in times.items():
                seconds = cases[name].step(getattr(cases[name], way))
                if repeat:  # the first is a warm-up
                    own.append(seconds)
        threads = torch.get_num_threads()
        print(f"{args.batch_size} crops of {CROP} pixels a step, {args.repeats} steps, {threads} thread(s),")
        print(f"torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()}); seconds: median (10 %-90 %).\n")
        columns = ("computed", "cached", "computed, CPU", "cached, CPU", "times faster, CPU")
        print(f"| base, input | frozen features | an entry, float16 | {' | '.join(columns)} |")
        print("|---|---|---|" + "---|" * len(columns))
        for name, case in cases.items():
            computed, cached = np.array(times[name, "computed"]).T, np.array(times[name, "cached"]).T  # (2, repeats)
            cells = [summary(seconds) for seconds in (computed[0], cached[0], computed[1], cached[1])]
            cells.append(f"{np.median(computed[1]) / np.median(cached[1]):.1f}")
            prefix = f"{case.frozen.names[0]} to {case.frozen.names[-1]}"
            print(f"| {name} | {prefix} | {case.entry_bytes() / 1e6:.2f} MB | {' | '.join(cells)} |")


if __name__ == "__main__":
    run_program(main)
