"""Branches of convolutions: the same answers when added and merged, all trained, and gone in what is saved."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from scalpel_hf.modeling.configuration_scalpel_student import SIZES
from scalpel_hf.predictors.student import load_student, new_student
from scalpel_hf.training.branches import add_branches, merge_branches


def shaken(model: nn.Module) -> nn.Module:
    """Weights and statistics as some training may have left them."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.mul_(1 + 0.2 * torch.rand_like(tensor)).add_(0.05 * torch.rand_like(tensor))
    return model


def answers(model: nn.Module, frames: torch.Tensor) -> torch.Tensor:
    """Maps before anything is chosen of them."""
    with torch.no_grad():
        features = model.eval().features(frames)
        return model.head(features) if hasattr(model, "head") else model.classifier(features)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize(("task", "size"), [*(("segmentation", size) for size in SIZES), ("detection", "nano")])
def test_merged_answers_are_the_branches(task: str, size: str, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    model, frames = new_student(task, size=size).model.to(dtype), torch.randn(2, 1, 37, 50, dtype=dtype)
    names, fresh = [*model.state_dict()], answers(model, frames)
    add_branches(model)
    torch.testing.assert_close(answers(model, frames), fresh, atol=tolerance, rtol=tolerance)
    branched = answers(shaken(model), frames)
    assert (branched - fresh).abs().max() > 1e-2
    for _ in range(2):  # the second time there is nothing to merge
        merge_branches(model)
        assert [*model.state_dict()] == names
        torch.testing.assert_close(answers(model, frames), branched, atol=tolerance, rtol=tolerance)


def test_the_kernel_is_the_sum_of_four_convolutions() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(3, 5, 3, padding=1, bias=False), torch.randn(2, 3, 11, 8)
    add_branches(conv)
    shaken(conv)
    *kernels, scales = conv.parametrizations.weight.parameters()
    assert [tuple(kernel.shape[2:]) for kernel in kernels] == [(3, 3), (1, 3), (3, 1), (1, 1)]
    padding = [(1, 1), (0, 1), (1, 0), (0, 0)]
    branches = [torch.conv2d(x, kernel, padding=p) for kernel, p in zip(kernels, padding, strict=True)]
    expected = sum(s[:, None, None] * b for s, b in zip(scales.view(4, 5), branches, strict=True))
    torch.testing.assert_close(conv(x), expected)


def test_every_branch_learns() -> None:
    torch.manual_seed(2)
    model = new_student("segmentation", size="nano").model.train()
    add_branches(model)
    labels = (torch.rand(2, 48, 48) > 0.98).long()
    model(torch.randn(2, 1, 48, 48), labels=labels).loss.backward()
    branches = {name: p for name, p in model.named_parameters() if "original" in name}
    assert len(branches) == 5 * 14  # an entry of each coarser level, two convolutions a block, one a decoder's level
    for name, parameter in branches.items():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_what_is_saved_is_a_plain_student(tmp_path: Path) -> None:
    torch.manual_seed(0)
    student = new_student("segmentation", size="nano")
    student.save_pretrained(tmp_path / "plain")
    add_branches(student.model)
    merge_branches(shaken(student.model))
    student.save_pretrained(tmp_path / "merged")
    plain, merged = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "merged"))
    assert {name: t.shape for name, t in plain.items()} == {name: t.shape for name, t in merged.items()}
    frames = torch.randn(1, 1, 24, 31)
    assert torch.equal(answers(load_student(tmp_path / "merged").model, frames), answers(student.model, frames))
