from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from scalpel_hf.modeling.losses import mask_loss, soft_iou_loss, weighted_bce

Loss = Callable[..., torch.Tensor]
LOSSES = pytest.mark.parametrize("loss", [weighted_bce, soft_iou_loss])


def example(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 5, 6, generator=generator, dtype=dtype)
    target = torch.rand(2, 5, 6, generator=generator, dtype=dtype)
    return logits, target, 2 * torch.rand(2, 5, 6, generator=generator, dtype=dtype)


@LOSSES
def test_gradients(loss: Loss) -> None:
    logits, target, weight = example()
    assert gradcheck(lambda z: loss(z, target, weight), logits.requires_grad_())


def test_bce_against_its_definition() -> None:
    logits, target, weight = example()
    prob = logits.sigmoid()
    expected = -(target * prob.log() + (1 - target) * (1 - prob).log())
    torch.testing.assert_close(weighted_bce(logits, target), expected.mean())
    torch.testing.assert_close(weighted_bce(logits, target, weight), (expected * weight).sum() / weight.sum())


def test_soft_iou_against_its_definition() -> None:
    logits, target, weight = example()
    prob = logits.sigmoid()
    intersection = (weight * prob * target).sum()
    union = (weight * (prob + target - prob * target)).sum()
    torch.testing.assert_close(soft_iou_loss(logits, target, weight), 1 - (intersection + 1) / (union + 1))
    torch.testing.assert_close(soft_iou_loss(logits, target, weight, smooth=0), 1 - intersection / union)


def test_soft_iou_is_the_iou_of_hard_predictions() -> None:
    generator = torch.Generator().manual_seed(1)
    predicted, target = torch.rand(2, 3, 20, 20, generator=generator) > 0.7
    iou = (predicted & target).sum() / (predicted | target).sum()
    logits = torch.where(predicted, 100.0, -100.0)
    torch.testing.assert_close(1 - soft_iou_loss(logits, target, smooth=0), iou)


@LOSSES
def test_weights(loss: Loss) -> None:
    logits, target, weight = example()
    torch.testing.assert_close(loss(logits, target), loss(logits, target, torch.ones_like(target)))
    keep = weight > 1
    binary = keep.double()
    torch.testing.assert_close(loss(logits, target, binary), loss(logits[keep], target[keep]))
    torch.testing.assert_close(loss(logits, target, keep), loss(logits, target, binary))
    garbage = torch.where(keep, target, 255.0)
    torch.testing.assert_close(loss(logits, garbage, binary), loss(logits, target, binary))
    rows = torch.rand(2, 1, 1, dtype=torch.float64)
    torch.testing.assert_close(loss(logits, target, rows), loss(logits, target, rows.expand_as(logits)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_ignored_has_no_gradient(dtype: torch.dtype) -> None:
    logits, target, weight = example(dtype=dtype)
    mask_loss(logits.requires_grad_(), target, torch.zeros_like(weight)).backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@LOSSES
def test_all_ignored_is_a_finite_zero(loss: Loss) -> None:
    logits, target, weight = example()
    logits.requires_grad_()
    value = loss(logits, target, torch.zeros_like(weight))
    value.backward()
    assert value == 0 and logits.grad is not None and not logits.grad.any()


@LOSSES
def test_extreme_logits_stay_finite(loss: Loss) -> None:
    logits = torch.tensor([1e4, -1e4, 88.0, -104.0], requires_grad=True)
    value = loss(logits, torch.tensor([0.0, 1.0, 1.0, 0.0]))
    value.backward()
    assert torch.isfinite(value) and logits.grad is not None and torch.isfinite(logits.grad).all()


@LOSSES
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(loss: Loss, dtype: torch.dtype) -> None:
    logits = torch.full((1, 400, 400), 2.0, dtype=dtype)  # 140 927 expected target pixels overflow float16
    target = torch.ones(1, 400, 400)
    assert loss(logits, target).dtype == torch.float32
    torch.testing.assert_close(loss(logits, target), loss(logits.float(), target))


def test_perfect_and_empty() -> None:
    target = torch.zeros(1, 8, 8)
    confident = torch.full((1, 8, 8), -50.0)
    for loss in (weighted_bce, soft_iou_loss):
        assert loss(confident, target) < 1e-6
        assert loss(-confident, target) > 0.9
    target[0, 2, 3] = 1
    missed = soft_iou_loss(confident, target)
    assert missed == pytest.approx(0.5)  # 1 - (0 + 1) / (1 + 1)
    assert F.binary_cross_entropy_with_logits(confident, target) == weighted_bce(confident, target)
