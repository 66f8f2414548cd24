"""The pixel and mask levels: combine SAM's features with the operators' prior maps at the frame's resolution.

Notable:
- `frame_boxes` are the regions of SAM's input that frames cover, in pixels of the input. So whole frames, crops and
  padded frames are all treated in the same way, and masks have the frame's own resolution.
- a residual U-Net processes the frame and the routed prior maps. SAM's upscaled embedding is added at a quarter of the
  resolution, its image embedding at an eighth.
- the last layer is initialised with zeros and SAM's logits with weight 1, so a new adapter's masks are SAM's.
- in evaluation, an image's masks don't depend on the other images of the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_experts import ExpertsConfig
from .consensus_gate import ConsensusGate
from .moe import ImageRouter, PositionRouter, PriorPyramid, symlog, uniform_weights, zero_
from .unet import FullResolution, decode, decoder_levels, encoder_levels, pad_to_multiple


def sample_region(
    features: Tensor,
    boxes: Tensor,
    input_size: int,
    size: Sequence[int],
    stride: int = 1,
    frame_size: Sequence[int] | None = None,
) -> Tensor:
    """
    Sample a feature map bilinearly at the pixel centres of a frame that covers a region of SAM's input.

    Args:
        features: `(B, C, h, w)`, a map over the whole input.
        boxes: `(B, 4)`, the region (x0, y0, x1, y1) in input pixels.
        input_size: side of SAM's input in pixels.
        size: `(H, W)` of the samples.
        stride: distance between neighbouring samples, in pixels of the frame.
        frame_size: `(height, width)` of the frame in pixels. Default: `size`. Samples outside of the frame are allowed.

    Returns `(B, C, H, W)`, in the features' dtype. If the region is the whole input, this equals
    `F.interpolate(features, size, mode="bilinear")`.

    Examples:
        >>> features = torch.arange(4.0).view(1, 1, 2, 2)
        >>> left_half = torch.tensor([[0.0, 0.0, 32.0, 64.0]])  # of an input of 64 × 64 pixels
        >>> sample_region(features, left_half, input_size=64, size=(2, 1))
        tensor([[[[0.],
                  [2.]]]])
    """
    # At least float32: bfloat16 positions would be wrong by a pixel, and torch 2.13 gives NaN for maps in half
    # precision on a CPU.
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
    """The tensor as float32, if its dtype has lower precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@dataclass
class FrameRegion:
    """Normalised frames `(B, 1, H, W)`, and the regions `(B, 4)` of SAM's input (side `input_size`) that they cover."""

    frames: Tensor
    boxes: Tensor
    input_size: int
    base_grid: bool = False  # whether the frames were resampled to the resolution of SAM's masks

    @classmethod
    def whole(cls, pixel_values: Tensor) -> "FrameRegion":
        """Use SAM's input `(B, 3, S, S)` as the frames: mean over channels, standardised for each image."""
        frames = at_least_float32(pixel_values).mean(1, keepdim=True)
        frames = frames - frames.mean((-2, -1), keepdim=True)
        frames = frames / frames.square().mean((-2, -1), keepdim=True).sqrt().clamp(min=1e-6)
        size = pixel_values.shape[-1]
        boxes = torch.tensor([0.0, 0.0, size, pixel_values.shape[-2]], device=pixel_values.device)
        return cls(frames, boxes.expand(len(frames), 4), size)

    def on_base_grid(self, grid: Sequence[int]) -> "FrameRegion":
        """Resample the frames to a grid `(h, w)` over SAM's whole input, with their border repeated outside of them."""
        full = torch.tensor([0.0, 0.0, self.input_size, self.input_size], device=self.boxes.device)
        corner, sides = self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]
        # The input's corners, as fractions of the frame.
        in_frame = torch.cat([-corner / sides, (self.input_size - corner) / sides], 1)
        frames = sample_region(self.frames, in_frame, input_size=1, size=(int(grid[0]), int(grid[1])))
        return FrameRegion(frames, full.expand(frames.shape[0], 4), self.input_size, base_grid=True)

    def sample(self, masks: Tensor) -> Tensor:
        """Resample masks over SAM's whole input, `(B, P, M, h, w)`, to the frames, `(B, P, M, H, W)`."""
        if self.base_grid:  # resampling would only add rounding errors
            return masks
        boxes, size = self.boxes.to(masks.device), self.frames.shape[-2:]
        flat = sample_region(masks.flatten(1, 2), boxes, input_size=self.input_size, size=size)
        return flat.unflatten(1, masks.shape[1:3])


# Initial weights of the prior maps in the first layer, relative to the frame's. With 1, the maps' values would dominate
# those of some frames (docs/log.md).
PRIOR_SCALE = 0.3
HEAD_SCALE = 10.0  # factor of the head's output, which must reach the size of SAM's logits in few steps


class FeatureEntry(nn.Sequential):
    """Projects SAM's features to the channels of a level of the U-Net, with a batch norm."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels))


class MaskLevel(nn.Module):
    r"""
    Mask logits on the frame's grid from SAM's logits, SAM's features, and the routed prior pyramid.

    \(\text{logits} = k \cdot \text{SAM's logits} + \text{head}(\text{U-Net}(f, \log f, E w_1 m_1, \dots, E w_E m_E))\)

    where k is learned (`sam_logit_scale`), f is the frame, \(m_e\) are the prior maps of expert e, and \(w_e\) are its
    router weights at each position. SAM's features are added in the U-Net's encoder.

    In evaluation, the [`ConsensusGate`] lowers logits where the operators respond too weakly for a target. In training
    the gate is off, so that the network learns to decide on its own.

    Args:
        experts: the operators on the frame, the network's widths, the routers and the gate.
        upscaled_dim: channels of SAM's up-scaled embedding.
        embedding_dim: channels of SAM's image embedding.
        fine_dims: channels of the encoder's finer maps, at strides 4 and 8 of SAM's input, if the encoder has them.
    """

    def __init__(self, experts: ExpertsConfig, upscaled_dim: int, embedding_dim: int, fine_dims: Sequence[int] = ()):
        super().__init__()
        scales, channels, fine = experts.operator_scales, experts.channels, experts.full_resolution_channels
        self.routers, self.sam_features = experts.routers, experts.sam_features
        self.gate = ConsensusGate(**experts.consensus_gate)
        self.pyramid = PriorPyramid(scales, self.gate.noise_floor) if scales else None
        counts = list(self.pyramid.num_maps.values()) if self.pyramid is not None else []
        if counts and self.routers:
            self.image_router = ImageRouter(sum(counts), len(counts))
            self.position_router = PositionRouter(
                1 + sum(counts), len(counts), hidden=16, top_k=experts.top_k, stride=2
            )
        self.scale_weights = nn.ParameterList(nn.Parameter(torch.full((n,), 1.0 / n)) for n in counts)
        sizes = [channels, 2 * channels, 3 * channels, 4 * channels]  # strides 2, 4, 8, 16
        in_channels = 2 + sum(counts)
        self.full_resolution = FullResolution(in_channels, fine, channels) if fine else None
        self.encoder = encoder_levels(fine or in_channels, sizes, (1, 1, 1, 1))
        first = self.encoder if self.full_resolution is None else self.full_resolution
        _scale_stem_weights(next(m for m in first.modules() if isinstance(m, nn.Conv2d)), frame_channels=2)
        self.upscaled_entry = FeatureEntry(upscaled_dim, sizes[0])
        self.embedding_entry = FeatureEntry(embedding_dim, sizes[1])
        self.fine_entries = nn.ModuleList(FeatureEntry(*dims) for dims in zip(fine_dims, sizes, strict=False))
        self.decoder = decoder_levels(sizes)
        # One logit for each pixel, or four for each cell of 2 × 2 pixels.
        self.head: nn.Conv2d = nn.Conv2d(fine or channels, 1 if fine else 4, 3, padding=1)
        self.sam_logit_scale = nn.Parameter(torch.ones(()))
        zero_(self.head)

    def forward(
        self,
        frame: Tensor,
        boxes: Tensor,
        sam_logits: Tensor,
        upscaled: Tensor,
        embedding: Tensor,
        input_size: int,
        fine: Sequence[Tensor] = (),
    ) -> dict[str, Tensor]:
        """
        Args:
            frame: `(B, 1, H, W)`, normalised.
            boxes: `(B, 4)`, the regions of SAM's input that frames cover, see [`sample_region`].
            sam_logits: `(B, M, H, W)`, SAM's logits, resampled to the frame's grid.
            upscaled: `(B, 32, h, w)`, SAM's up-scaled embedding of the whole input.
            embedding: `(B, 256, h/4, w/4)`, SAM's image embedding of the whole input.
            input_size: side of SAM's input in pixels.
            fine: finer maps of the whole input, one for each of `fine_dims`.

        Returns `logits` `(B, M, H, W)` and, if there are operators, `router_weights` `(B, E, H, W)`, `image_weights`
        `(B, E)`, `prior_maps` `(B, N, H, W)`, one for each operator and scale, and `prior` `(B, 1, H, W)`, their sum,
        weighted by the routers and by learned weights of the scales.
        """
        if not self.sam_features:
            # Not `zeros_like`, which tracing makes a constant of one frame size.
            sam_logits, upscaled, embedding, *fine = (0 * x.detach() for x in (sam_logits, upscaled, embedding, *fine))
        compressed = symlog(frame)
        inputs = [frame, compressed]
        outputs: dict[str, Tensor] = {}
        maps: list[Tensor] = []
        if self.pyramid is not None:
            maps, statistics = self.pyramid(frame)
            outputs, routed = self._route(maps, statistics, compressed)
            inputs += routed
        features = [(1, self.upscaled_entry(upscaled)), (2, self.embedding_entry(embedding))]
        features += [(i + 1, entry(x)) for i, (entry, x) in enumerate(zip(self.fine_entries, fine, strict=True))]
        residual = self._unet_logits(torch.cat(inputs, 1), boxes, features=features, input_size=input_size)
        outputs["logits"] = self.sam_logit_scale * sam_logits + residual
        # `head.training`, as a training loop may leave a level with frozen operators in evaluation mode.
        if maps and self.gate.is_active and not self.head.training:
            outputs["logits"] = outputs["logits"] - self.gate.shortfall(maps)
        return outputs

    def set_gate(self, gate: ConsensusGate) -> None:
        """Replace the gate. Its noise floor is also used for the prior maps."""
        self.gate = gate
        if self.pyramid is not None:
            self.pyramid.noise_floor = gate.noise_floor

    def without_sam(self, frame: Tensor) -> dict[str, Tensor]:
        """[`~MaskLevel.forward`] for normalised frames `(B, 1, H, W)`, with zeros in place of SAM's outputs."""
        entries = [cast(FeatureEntry, e)[0] for e in (self.upscaled_entry, self.embedding_entry, *self.fine_entries)]
        widths = [cast(nn.Conv2d, entry).in_channels for entry in entries]
        upscaled, embedding, *fine = (frame.new_zeros(len(frame), width, 2, 2) for width in widths)
        whole = frame.new_tensor([0.0, 0.0, 2.0, 2.0]).expand(len(frame), 4)
        return self(
            frame,
            boxes=whole,
            sam_logits=torch.zeros_like(frame),
            upscaled=upscaled,
            embedding=embedding,
            input_size=2,
            fine=fine,
        )

    @torch.no_grad()
    def add_to_logits(self, amount: float) -> None:
        """Add a constant to the bias of the logits."""
        cast(Tensor, self.head.bias).add_(amount / HEAD_SCALE)

    def _route(
        self, maps: list[Tensor], statistics: Tensor, compressed: Tensor
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The outputs besides logits, and each expert's prior maps `(B, S, H, W)` times its router weights."""
        prior_maps = torch.cat(maps, 1)
        if self.routers:
            image_weights = self.image_router(statistics)
            weights = self.position_router(torch.cat([compressed, prior_maps], 1), image_weights)
        else:
            weights = uniform_weights(compressed, len(maps))
            image_weights = weights.mean((-2, -1)).log()
        routed = [weights[:, e : e + 1] * expert for e, expert in enumerate(maps)]
        prior = sum(
            (expert * w[:, None, None]).sum(1, keepdim=True)
            for expert, w in zip(routed, self.scale_weights, strict=True)
        )
        outputs = {
            "router_weights": weights,
            "image_weights": image_weights.exp(),
            "prior_maps": prior_maps,
            "prior": prior,
        }
        return outputs, [len(maps) * expert for expert in routed]

    def _unet_logits(self, x: Tensor, boxes: Tensor, features: list[tuple[int, Tensor]], input_size: int) -> Tensor:
        """
        The U-Net's logits `(B, 1, H, W)`, which are added to SAM's.

        Args:
            x: `(B, C, H, W)`, the frame and the prior maps.
            boxes, input_size: see [`sample_region`].
            features: SAM's feature maps, each with the index of the encoder level that it is added to.
        """
        height, width = x.shape[-2:]
        x = pad_to_multiple(x, 2 ** len(self.encoder))
        if self.full_resolution is not None:
            x = fine = self.full_resolution.before(x)
        levels: list[Tensor] = []
        for index, level in enumerate(self.encoder):
            x = F.max_pool2d(x, 2) if levels else x
            for feature in (feature for at, feature in features if at == index):
                x = x + sample_region(
                    feature,
                    boxes,
                    input_size=input_size,
                    size=x.shape[-2:],
                    stride=2 ** (index + 1),
                    frame_size=(height, width),
                )
            x = level(x)
            levels.append(x)
        decoded = decode(self.decoder, levels)
        if self.full_resolution is not None:
            residual = HEAD_SCALE * self.head(self.full_resolution.join(fine, decoded))
        else:
            residual = F.pixel_shuffle(HEAD_SCALE * self.head(decoded), 2)
        return residual[:, :, :height, :width]


@torch.no_grad()
def _scale_stem_weights(stem: nn.Conv2d, frame_channels: int) -> None:
    """
    Scale the first layer's initial weights in place.

    The weights of its first `frame_channels` get the size that they would have without prior maps. Those of the prior
    maps get this size times `PRIOR_SCALE`.
    """
    stem.weight *= (stem.in_channels / frame_channels) ** 0.5
    stem.weight[:, frame_channels:] *= PRIOR_SCALE
