"""Frames beside SAM's input: which region of it each covers, and features sampled on their grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_region(
    features: Tensor,
    boxes: Tensor,
    input_size: int,
    size: Sequence[int],
    stride: int = 1,
    frame_size: Sequence[int] | None = None,
) -> Tensor:
    """
    Bilinear samples of a feature map at the pixel centres of a frame that covers a region of SAM's input.

    Args:
        features: `(B, C, h, w)`, a map over the whole input.
        boxes: `(B, 4)`, the region (x0, y0, x1, y1) in input pixels.
        input_size: side of SAM's input in pixels.
        size: `(H, W)` of the samples.
        stride: side in the frame's pixels of the cell that a sample is the centre of.
        frame_size: of the frame in pixels, where that isn't `size`; cells may reach beyond it.

    Returns `(B, C, H, W)` in the features' own type, computed in float32 at least: eight bits of a position are a pixel
    off, and torch 2.13 gives NaN for maps in half precision on a CPU. For the full region this is
    `F.interpolate(..., mode="bilinear")`.
    """
    wide = at_least_float32(features)
    height, width = size
    frame_height, frame_width = frame_size or size
    u = (torch.arange(width, device=boxes.device, dtype=wide.dtype) + 0.5) * stride / frame_width
    v = (torch.arange(height, device=boxes.device, dtype=wide.dtype) + 0.5) * stride / frame_height
    x = boxes[:, None, 0] + u * (boxes[:, None, 2] - boxes[:, None, 0])  # (B, W)
    y = boxes[:, None, 1] + v * (boxes[:, None, 3] - boxes[:, None, 1])  # (B, H)
    grid = torch.stack([x[:, None].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)], -1)
    grid = (2 * grid / input_size - 1).to(wide.dtype)
    samples = F.grid_sample(wide, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return samples.to(features.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass
class FrameRegion:
    """A normalised frame `(B, 1, H, W)` and the region `(B, 4)` of SAM's input, of side `input_size`, it covers."""

    frames: Tensor
    boxes: Tensor
    input_size: int
    base_grid: bool = False  # the frame was sampled on the grid of SAM's masks

    @classmethod
    def whole(cls, pixel_values: Tensor) -> "FrameRegion":
        """The whole input as its own frame: mean over the channels, zero mean and unit spread an image."""
        frames = at_least_float32(pixel_values).mean(1, keepdim=True)
        frames = frames - frames.mean((-2, -1), keepdim=True)
        frames = frames / frames.square().mean((-2, -1), keepdim=True).sqrt().clamp(min=1e-6)
        size = pixel_values.shape[-1]
        boxes = torch.tensor([0.0, 0.0, size, pixel_values.shape[-2]], device=pixel_values.device)
        return cls(frames, boxes.expand(len(frames), 4), size)

    def on_base_grid(self, grid: Sequence[int]) -> "FrameRegion":
        """The frames sampled on a grid over the whole input, of which they may cover a part."""
        full = torch.tensor([0.0, 0.0, self.input_size, self.input_size], device=self.boxes.device)
        corner, sides = self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]
        in_frame = torch.cat([-corner / sides, (self.input_size - corner) / sides], 1)  # as shares of the frame
        frames = sample_region(self.frames, in_frame, 1, (int(grid[0]), int(grid[1])))
        return FrameRegion(frames, full.expand(frames.shape[0], 4), self.input_size, base_grid=True)

    def sample(self, masks: Tensor) -> Tensor:
        """Masks `(B, P, M, h, w)` over the whole input, on the frames' grid: `(B, P, M, H, W)`."""
        if self.base_grid:  # the very same: sampling would leave rounding errors
            return masks
        boxes, size = self.boxes.to(masks.device), self.frames.shape[-2:]
        flat = sample_region(masks.flatten(1, 2), boxes, self.input_size, size)
        return flat.unflatten(1, masks.shape[1:3])
