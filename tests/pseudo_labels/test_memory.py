"""What labelling holds in memory: `pytest -m slow -s tests/pseudo_labels/test_memory.py` prints the metrics."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from peft import get_peft_model
from scipy import ndimage
from torch import nn

from scalpel_hf import InfraredImageProcessor, MobileSamConfig, MobileSamModel, ScalpelMoeConfig, Teacher
from scalpel_hf.pseudo_labels import add_pseudo_labels, label_in_shards
from tests.pseudo_labels.helpers import FakeTeacher, frames_dataset, png

MB = 2**20
HEAD = "base_model.model.mask_decoder.scalpel_moe_mask.default.head.weight"


def resident() -> dict[str, float]:
    """Of this process, in MB: `anon` is its own, `file` what it reads of files, which the kernel takes back at will."""
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return {"anon": int(fields["RssAnon"]) / 1024, "file": int(fields["RssFile"]) / 1024}


class Watch(threading.Thread):
    """Samples resident memory, with the time, until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float, float]] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.2):
            now = resident()
            self.samples.append((time.monotonic(), now["anon"], now["file"]))

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        self.join()

    def peak(self, start: float = 0.0, stop: float = float("inf")) -> float:
        return max(anon for at, anon, _ in self.samples if start <= at <= stop)


def many_frames(count: int, folder: Path) -> datasets.Dataset:
    """Frames of 256 x 256 with a few bright dots, a tenth of them labelled by people."""
    rng = np.random.default_rng(0)
    images, masks = [], []
    for _ in range(50):
        mask = np.zeros((256, 256), bool)
        mask[tuple(rng.integers(5, 250, (2, rng.integers(0, 4))))] = True
        mask = ndimage.binary_dilation(mask)
        frame = ndimage.gaussian_filter(rng.normal(0, 1, mask.shape), 8) * 400 + 60 + 150 * mask
        images.append(png(frame.clip(0, 255).astype(np.uint8)))
        masks.append(png(mask.astype(np.uint8) * 255))

    def rows() -> Iterator[dict]:
        for i in range(count):
            human = i % 10 == 0
            mask = {"bytes": masks[i % 49], "path": None} if human else None
            image = {"bytes": images[i % 49], "path": None}
            yield {"name": f"{i:06d}", "image": image, "mask": mask, "label_source": "human" if human else "none"}

    features = {"name": datasets.Value("string"), "image": datasets.Image(), "mask": datasets.Image()}
    features = datasets.Features({**features, "label_source": datasets.Value("string")})
    return datasets.Dataset.from_generator(rows, features=features, cache_dir=str(folder), fingerprint="many")


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_twenty_thousand_frames_in_flat_memory(tmp_path: Path) -> None:
    dataset, times = many_frames(20_000, tmp_path / "data"), []
    datasets.disable_progress_bars()
    with Watch() as watch:
        label_in_shards(
            dataset,
            FakeTeacher(),
            tmp_path / "out",
            0.8,
            calibration="labelled",
            report=lambda line: times.append(time.monotonic()),
        )
        end = time.monotonic()
    assert len(times) == 313
    quarters = [watch.peak(times[i * 78], times[(i + 1) * 78]) for i in range(4)]
    finishing = watch.peak(times[-1], end)
    print(f"\n20,000 frames of 256 x 256, {times[-1] - times[0]:.0f} s to predict, {end - times[-1]:.0f} s to finish")
    print(f"own memory, peak in each quarter of the predictions: {', '.join(f'{q:.0f}' for q in quarters)} MB")
    print(f"own memory, peak while finishing: {finishing:.0f} MB")
    assert max(quarters[1:]) - quarters[0] < 30
    assert finishing - quarters[0] < 60


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_frame_of_4000_pixels_a_side_in_bounded_memory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = get_peft_model(MobileSamModel(MobileSamConfig(vision_config={"image_size": 512})), ScalpelMoeConfig())
    nn.init.normal_(model.get_parameter(HEAD), std=0.03)  # not trained, but its prediction is large where the frame is
    teacher = Teacher(model, InfraredImageProcessor(sam_size=512))
    rng = np.random.default_rng(0)
    peaks = {}
    for side in (512, 2000, 4000):
        frame = rng.integers(7000, 7200, (side, side)).astype(np.uint16)
        for y, x in rng.integers(10, side - 10, (side // 100, 2)):
            frame[y : y + 3, x : x + 3] += 2000
        rows = frames_dataset([frame])
        with Watch() as watch:
            before, began = resident()["anon"], time.monotonic()
            labelled = add_pseudo_labels(rows, teacher, 0.9, keep_in_memory=True)
            seconds = time.monotonic() - began
        peaks[side] = watch.peak() - before
        assert labelled[0]["label_source"] == "pseudo"
        print(f"\n{side} x {side}: {peaks[side]:.0f} MB above what there was, {seconds:.0f} s")
    tile = peaks[512]
    bytes_a_pixel = (peaks[4000] - tile) * MB / 4000**2
    print(f"beyond one tile: {bytes_a_pixel:.0f} bytes a pixel")
    assert bytes_a_pixel < 64  # the frame, its maps and labels, and not 81 tiles' activations
