"""The pixel and mask levels: where SAM's embedding meets the prior pyramid, on the frame's own grid.

Notable:
- everything here is addressed by `frame_boxes`: the region of SAM's input that a frame covers, in input pixels. A
  whole frame, a crop of it and a padded one are the same case, and masks come out at the frame's own resolution.
- the branch is a small U-Net on the frame; SAM's up-scaled embedding enters at half, its image embedding at a quarter
  of the resolution; the routed experts enter at full resolution.
- the last layer is zero at initialisation and SAM's own logit keeps the weight 1, so that a fresh adapter's masks are
  SAM's masks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .frame_region import sample_region
from .moe import ImageRouter, PositionRouter, PriorPyramid, symlog, uniform_weights, zero_


class ResidualBlock(nn.Module):
    """Two 3 × 3 convolutions with group normalisation (per image, never per batch) around an identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = nn.GroupNorm(channels // 8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(channels // 8, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(F.silu(self.norm1(self.conv1(x)))))


class DetailBranch(nn.Module):
    """
    A U-Net of four resolutions on the frame that takes SAM's features in on the way down.

    Shape: frame features `(B, C, H, W)`, SAM's up-scaled embedding and image embedding, boxes → `(B, C, H, W)`.
    """

    def __init__(self, channels: int, upscaled_dim: int, embedding_dim: int):
        super().__init__()
        c1, c2, c3 = channels, 2 * channels, 4 * channels
        self.enc1, self.enc2, self.enc3, self.enc4 = (ResidualBlock(c) for c in (c1, c2, c3, c3))
        self.down1 = nn.Conv2d(c1, c2, 3, stride=2, padding=1)
        self.down2 = nn.Conv2d(c2, c3, 3, stride=2, padding=1)
        self.down3 = nn.Conv2d(c3, c3, 3, stride=2, padding=1)
        self.upscaled_proj = nn.Conv2d(upscaled_dim, c2, 1)
        self.embedding_proj = nn.Conv2d(embedding_dim, c3, 1)
        self.up3, self.up2, self.up1 = nn.Conv2d(c3, c3, 1), nn.Conv2d(c3, c2, 1), nn.Conv2d(c2, c1, 1)
        self.dec3, self.dec2, self.dec1 = ResidualBlock(c3), ResidualBlock(c2), ResidualBlock(c1)

    def forward(self, x: Tensor, upscaled: Tensor, embedding: Tensor, boxes: Tensor, input_size: int) -> Tensor:
        e1 = self.enc1(x)
        e2 = self.down1(e1)
        e2 = e2 + sample_region(self.upscaled_proj(upscaled), boxes, input_size, e2.shape[-2:])
        e2 = self.enc2(e2)
        e3 = self.down2(e2)
        e3 = e3 + sample_region(self.embedding_proj(embedding), boxes, input_size, e3.shape[-2:])
        e3 = self.enc3(e3)
        e4 = self.enc4(self.down3(e3))
        d3 = self.dec3(e3 + _resize(self.up3(e4), e3))
        d2 = self.dec2(e2 + _resize(self.up2(d3), e2))
        return self.dec1(e1 + _resize(self.up1(d2), e1))


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class MaskLevel(nn.Module):
    """
    Mask logits on the frame's grid from SAM's logits, SAM's features, and the routed prior pyramid.

    `logits = keep · SAM's logits + head(branch(stem(frame) + Σ_e w_e · expert_e(maps_e), SAM's features))`

    Args:
        scales: for each operator its scales in frame pixels; an empty dict leaves the operators out.
        upscaled_dim, embedding_dim: channels of SAM's up-scaled and image embedding.
        channels: width of the branch at full resolution.
        routers: off, every expert has the same weight everywhere.
        sam_features: off, SAM's logits and embeddings count as zero: the answer is the frame's alone.
    """

    def __init__(
        self,
        scales: dict[str, list[float]],
        upscaled_dim: int,
        embedding_dim: int,
        channels: int = 16,
        top_k: int = 4,
        temperature: float = 1.0,
        routers: bool = True,
        sam_features: bool = True,
    ):
        super().__init__()
        self.routers, self.sam_features = routers, sam_features
        self.stem = nn.Conv2d(1, channels, 3, padding=1)
        self.branch = DetailBranch(channels, upscaled_dim, embedding_dim)
        self.head = nn.Conv2d(channels, 1, 1)
        self.keep = nn.Parameter(torch.ones(()))
        zero_(self.head)
        self.pyramid = PriorPyramid(scales) if scales else None
        if self.pyramid is not None:
            counts = list(self.pyramid.num_maps.values())
            if routers:
                self.image_router = ImageRouter(sum(counts), len(counts))
                self.position_router = PositionRouter(1 + sum(counts), len(counts), channels, top_k, temperature)
            self.experts = nn.ModuleList(
                nn.Sequential(nn.Conv2d(n, channels, 3, padding=1), nn.SiLU(), nn.Conv2d(channels, channels, 1))
                for n in counts
            )
            self.scale_weights = nn.ParameterList(nn.Parameter(torch.full((n,), 1.0 / n)) for n in counts)

    def forward(
        self, frame: Tensor, boxes: Tensor, sam_logits: Tensor, upscaled: Tensor, embedding: Tensor, input_size: int
    ) -> dict[str, Tensor]:
        """
        Args:
            frame: `(B, 1, H, W)`, normalised. boxes: `(B, 4)`, see `sample_region`.
            sam_logits: `(B, 1, h, w)`; upscaled: `(B, 32, h, w)`; embedding: `(B, 256, h/4, w/4)`.

        Returns `logits` `(B, 1, H, W)` and, where there are operators, `router_weights` `(B, E, H, W)`,
        `image_weights` `(B, E)`, `prior_maps` `(B, M, H, W)` and `prior` `(B, 1, H, W)`, their routed mixture.
        """
        if not self.sam_features:
            sam_logits, upscaled, embedding = (torch.zeros_like(x) for x in (sam_logits, upscaled, embedding))
        compressed = symlog(frame)
        x = self.stem(compressed)
        outputs: dict[str, Tensor] = {}
        if self.pyramid is not None:
            maps, statistics = self.pyramid(frame)
            prior_maps = torch.cat(maps, 1)
            if self.routers:
                image_weights = self.image_router(statistics)
                weights = self.position_router(torch.cat([compressed, prior_maps], 1), image_weights)
            else:
                weights = uniform_weights(frame, len(maps))
                image_weights = weights.mean((-2, -1)).log()
            x = x + sum(weights[:, e : e + 1] * expert(maps[e]) for e, expert in enumerate(self.experts))
            prior = sum(
                weights[:, e : e + 1] * (maps[e] * w[:, None, None]).sum(1, keepdim=True)
                for e, w in enumerate(self.scale_weights)
            )
            outputs = {
                "router_weights": weights,
                "image_weights": image_weights.exp(),
                "prior_maps": prior_maps,
                "prior": prior,
            }
        x = self.branch(x, upscaled, embedding, boxes, input_size)
        base = sample_region(sam_logits, boxes, input_size, frame.shape[-2:])
        outputs["logits"] = self.keep * base + self.head(x)
        return outputs
