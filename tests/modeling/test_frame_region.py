"""Where a frame lies on SAM's input, and what is sampled there."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scalpel_hf.modeling.mask_level import FrameRegion, sample_region

INPUT = 256


def ramps(side: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Two channels that are x and y, in input pixels from the middle, at the centres of the cells of a map."""
    at = (torch.arange(side, dtype=dtype) + 0.5) * (INPUT / side) - INPUT / 2
    return torch.stack([at.expand(side, side), at[:, None].expand(side, side)])[None]


@pytest.mark.parametrize("size", [(1, 1), (40, 75), (256, 256), (301, 300)], ids=str)
def test_the_whole_input_is_a_bilinear_resize(size: tuple[int, int]) -> None:
    features = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    samples = sample_region(features, torch.tensor([0.0, 0.0, INPUT, INPUT]).expand(2, 4), INPUT, size)
    torch.testing.assert_close(samples, F.interpolate(features, size=size, mode="bilinear"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 4, 8])
def test_a_sample_is_what_lies_at_the_centre_of_its_cell(stride: int) -> None:
    height, width, (x0, y0, x1, y1) = 45, 30, (50.0, 60.0, 110.0, 195.0)  # 2 and 3 input pixels a frame pixel
    size = (-(-height // stride), -(-width // stride))
    samples = sample_region(ramps(64), torch.tensor([[x0, y0, x1, y1]]), INPUT, size, stride, (height, width))
    x = x0 + (torch.arange(size[1]) + 0.5) * stride * (x1 - x0) / width - INPUT / 2
    y = y0 + (torch.arange(size[0]) + 0.5) * stride * (y1 - y0) / height - INPUT / 2
    torch.testing.assert_close(samples[0, 0], x.expand(size), rtol=0, atol=1e-3)
    torch.testing.assert_close(samples[0, 1], y[:, None].expand(size), rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_positions_are_no_coarser_in_another_precision(dtype: torch.dtype) -> None:
    boxes, features = torch.tensor([[0.0, 0.0, INPUT, INPUT]]), ramps(256).to(dtype)  # halves: exact in none but these
    samples = sample_region(features, boxes, INPUT, (300, 300))
    expected = sample_region(features.double(), boxes, INPUT, (300, 300))
    assert samples.dtype == dtype
    step = torch.finfo(dtype).eps * features.abs().max().double().item()
    torch.testing.assert_close(samples.double(), expected, rtol=0, atol=max(step, 1e-3))


def test_masks_as_large_as_the_frame_are_sampled_where_the_frame_is() -> None:
    masks = ramps(64)[:, None]
    region = FrameRegion(torch.zeros(1, 1, 64, 64), torch.tensor([[64.0, 128.0, 128.0, 192.0]]), INPUT)
    x = torch.arange(64) + 64.5 - INPUT / 2
    torch.testing.assert_close(region.sample(masks)[0, 0, 0], x.expand(64, 64), rtol=0, atol=1e-3)
    assert region.on_base_grid((64, 64)).sample(masks) is masks


def test_the_input_as_its_own_frame_is_standardised_in_float32() -> None:
    pixel_values = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + 1
    frames = FrameRegion.whole(pixel_values).frames
    expected = pixel_values.mean(1, keepdim=True).numpy()
    expected = expected - expected.mean((2, 3), keepdims=True)
    expected = expected / expected.std((2, 3), keepdims=True)
    torch.testing.assert_close(frames, torch.from_numpy(expected))
    half = pixel_values.bfloat16()
    assert torch.equal(FrameRegion.whole(half).frames, FrameRegion.whole(half.float()).frames)
