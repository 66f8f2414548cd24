"""What a GPU has to give as a CPU does. Run by tests/test_gpu.py, in a process of its own that sees the GPU."""

import tempfile
from pathlib import Path

import datasets
import numpy as np
import torch
from peft import get_peft_model
from torch import Tensor

from scalpel_hf import ScalpelMoeConfig, SyntheticInfrared, Teacher
from scalpel_hf.modeling.operators import OPERATORS
from scalpel_hf.recipes import distill
from tests.small_models import perturb, small_mobile_sam

SCALES = {
    "local_contrast": (3, 5, 9),
    "top_hat": (2, 4, 6),
    "matched_filter": (1, 2, 4),
    "anisotropic_diffusion": (1, 2, 4),
}


def check_close(what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Relative to the largest value."""
    error = (found.double().cpu() - expected.double()).abs().max() / expected.double().abs().max()
    print(f"{what}: {error:.1e}")
    assert error < tolerance, what


def operators() -> None:
    frame = 20_000 * torch.rand(2, 1, 61, 75, generator=torch.Generator().manual_seed(0))
    for name, scales in SCALES.items():
        exact = OPERATORS[name](scales).double()(frame.double())
        check_close(name, OPERATORS[name](scales).cuda()(frame.cuda()), exact, 1e-5)
        check_close(f"{name} in float64", OPERATORS[name](scales).double().cuda()(frame.double().cuda()), exact, 1e-12)


def adapter() -> None:
    model = get_peft_model(small_mobile_sam(), ScalpelMoeConfig()).eval()
    perturb(model)
    size = model.config.vision_config.image_size
    inputs = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(pixel_values=inputs, multimask_output=False).pred_masks
        torch.backends.cudnn.allow_tf32 = False  # on by default: three digits fewer in convolutions
        found = model.cuda()(pixel_values=inputs.cuda(), multimask_output=False).pred_masks
        torch.backends.cudnn.allow_tf32 = True
    check_close("adapter", found, expected, 1e-4)


def training(folder: Path) -> None:
    """A teacher trained in bf16, as by default, and what it predicts when it is loaded again on the GPU."""
    camera = SyntheticInfrared(size=(40, 56), n_targets=(1, 2), extent=(2, 5), seed=3)
    datasets.DatasetDict({"train": camera.to_dataset(4)}).save_to_disk(str(folder / "data"))
    small_mobile_sam().save_pretrained(str(folder / "base"))
    frame, answered = np.asarray(camera.frame(9)["image"]), []
    save = Teacher.save_pretrained

    def save_pretrained(teacher: Teacher, to: str | Path) -> None:
        answered.append(teacher.probabilities(frame))
        save(teacher, to)

    Teacher.save_pretrained = save_pretrained  # type: ignore[method-assign]
    flags = {"dataset": folder / "data", "base_model": folder / "base", "output_dir": folder / "teacher"}
    short = {
        "image_size": 64,
        "views": 2,
        "max_steps": 4,
        "batch_size": 2,
        "crop_size": 32,
        "feature_cache_dtype": "float32",
    }
    argv = [str(part) for name, value in (flags | short).items() for part in (f"--{name}", value)]
    distill.main([*argv, "--eval_split", ""])
    teacher = Teacher.from_pretrained(folder / "teacher")
    teacher.model.to("cuda")
    check_close("teacher", torch.from_numpy(teacher.probabilities(frame)), torch.from_numpy(answered[0]), 1e-3)


if __name__ == "__main__":
    operators()
    adapter()
    with tempfile.TemporaryDirectory() as folder:
        training(Path(folder))
