"""The experts, the two routers and the token level of the hierarchical mixture-of-experts adapter.

- `PriorPyramid`: the four white-box operators on the frame, with normalised outputs.
- `ImageRouter` and `PositionRouter`: weights of the experts for the image, and at each position.
- `TokenAdapter`: a bottleneck adapter on the encoder's token map, with the same four operators as non-linearity.

The idea of a hierarchical mixture of white-box operators is that of Scalpel-SAM (arXiv 2512.22483); operators,
placement and routers are this project's own.
"""

from functools import cache
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_experts import OPERATOR_SCALES, ExpertsConfig
from .consensus_gate import NOISE_FLOOR, consensus
from .operators import OPERATORS, WhiteBoxOperator
from .unet import pad_to_multiple


def symlog(x: Tensor) -> Tensor:
    """`sign(x) · log(1 + |x|)`: close to x near 0, logarithmic for large |x|."""
    return torch.sign(x) * torch.log1p(x.abs())


def zero_(layer: nn.Module) -> None:
    """Set all parameters of a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class PriorPyramid(nn.Module):
    r"""
    Prior maps of a frame: one per operator and scale.

    Each map is normalised and compressed, `symlog(m / spread)`, since operators have different units (intensity,
    intensity squared). The spread at a position is half the mean magnitude over the frame plus half that of the
    surrounding 72 × 72 pixels. As in a CFAR detector, responses count less in clutter; and maps of a crop are similar
    to those of its frame. A noise floor is added, so that rounding errors in a uniform sky have no large response.

    Args:
        scales: for each operator the list of its scales in frame pixels.
        noise_floor: intensity in units of a normalised frame; responses far below it become almost 0.

    Shape: `(B, 1, H, W)` → list with `(B, S, H, W)` for each operator of S scales, and statistics `(B, sum(S), 2)`: for
    each map the logarithms of its mean magnitude and of 1 + its maximum / mean magnitude.

    Examples:
        >>> pyramid = PriorPyramid({"top_hat": [2, 4], "matched_filter": [1]})
        >>> maps, statistics = pyramid(torch.randn(1, 1, 64, 96))
        >>> [tuple(m.shape) for m in maps], tuple(statistics.shape)
        ([(1, 2, 64, 96), (1, 1, 64, 96)], (1, 3, 2))
    """

    def __init__(self, scales: dict[str, list[float]], noise_floor: float = NOISE_FLOOR):
        super().__init__()
        self.noise_floor = noise_floor
        self.operators = nn.ModuleDict({name: OPERATORS[name](tuple(s)) for name, s in scales.items()})
        self.num_maps = {name: len(s) for name, s in scales.items()}

    def forward(self, frame: Tensor) -> tuple[list[Tensor], Tensor]:
        maps, statistics = [], []
        for operator in self.operators.values():
            response = operator(frame).squeeze(1)  # (B, S, H, W)
            magnitude = response.abs()
            spread = magnitude.mean((-2, -1), keepdim=True) + 1e-6
            floor = self.noise_floor ** cast(WhiteBoxOperator, operator).power
            maps.append(symlog(response / (0.5 * spread + 0.5 * _surroundings(magnitude) + floor)))
            peak = magnitude.amax((-2, -1), keepdim=True) / spread
            statistics.append(torch.cat([spread.log(), (1 + peak).log()], -1).squeeze(-2))
        return maps, torch.cat(statistics, 1)


@torch.no_grad()
def classical_prior(frames: Tensor) -> Tensor:
    """
    The [`consensus`] of the four operators with classical parameters (not learned), in the units of [`PriorPyramid`].

    Shape: normalised frames `(B, 1, H, W)` → `(B, H, W)`.
    """
    return consensus(_classical_pyramid()(frames)[0])[:, 0]


@cache
def _classical_pyramid() -> PriorPyramid:
    return PriorPyramid(OPERATOR_SCALES).requires_grad_(False).eval()


def _surroundings(x: Tensor, cell: int = 8, reach: int = 4) -> Tensor:
    """Means over windows of (2 · reach + 1) · cell pixels, computed for each cell and interpolated. Keeps the shape."""
    cells = F.avg_pool2d(pad_to_multiple(x, cell), cell)
    means = F.avg_pool2d(F.pad(cells, (reach, reach, reach, reach), mode="replicate"), 2 * reach + 1, stride=1)
    grown = F.interpolate(means, scale_factor=cell, mode="bilinear", align_corners=False)
    return grown[..., : x.shape[-2], : x.shape[-1]]


class ImageRouter(nn.Module):
    """
    Log-weights of the experts for a whole image, from the prior maps' statistics.

    Shape: `(B, M, 2)` → `(B, E)`, the logarithm of a softmax: uniform at initialisation.
    """

    def __init__(self, num_maps: int, num_experts: int):
        super().__init__()
        self.norm = nn.LayerNorm(2 * num_maps)
        self.proj = nn.Linear(2 * num_maps, num_experts)
        zero_(self.proj)

    def forward(self, statistics: Tensor) -> Tensor:
        return F.log_softmax(self.proj(self.norm(statistics.flatten(1))), dim=-1)


class PositionRouter(nn.Module):
    """
    Weights of the experts at each position. The image's weights are added to the logits.

    The softmax is over the experts and one more choice, *none*, so that the experts' weights sum to at most 1. Only the
    `top_k` strongest experts of a position keep their weight. Experts with equal logits are all kept, so that in a new
    router, where all logits are equal, every expert has a gradient.

    Args:
        in_channels: channels C of the features.
        num_experts: number of experts E.
        hidden: channels of the hidden layer.
        top_k: number of experts that keep their weight.
        stride: stride of the first convolution; the logits are resized bilinearly to the features' size.

    Shape: features `(B, C, H, W)` and the image's log-weights `(B, E)` → `(B, E, H, W)`.
    """

    def __init__(
        self,
        in_channels: int,
        num_experts: int,
        hidden: int = 16,
        top_k: int = 4,
        stride: int = 1,
    ):
        super().__init__()
        self.top_k = top_k
        self.hidden = nn.Conv2d(in_channels, hidden, 3, stride=stride, padding=1)
        self.proj = nn.Conv2d(hidden, num_experts + 1, 1)
        zero_(self.proj)

    def forward(self, features: Tensor, image_weights: Tensor) -> Tensor:
        logits = self.proj(F.gelu(self.hidden(features)))  # (B, E + 1, H, W)
        if logits.shape[-2:] != features.shape[-2:]:
            logits = F.interpolate(logits, size=features.shape[-2:], mode="bilinear", align_corners=False)
        experts, none = logits.split([logits.shape[1] - 1, 1], 1)
        experts = experts + image_weights[:, :, None, None]
        if self.top_k < experts.shape[1]:
            weakest = experts.topk(self.top_k, dim=1).values[:, -1:]
            experts = experts.masked_fill(experts < weakest, float("-inf"))
        return torch.cat([experts, none], 1).softmax(1)[:, :-1]


def uniform_weights(like: Tensor, num_experts: int) -> Tensor:
    """Equal weights 1 / E, which replace the routers': `(B, C, H, W)` → `(B, E, H, W)`."""
    return like.new_full((like.shape[0], num_experts, *like.shape[-2:]), 1 / num_experts)


def load_balance_loss(weights: Tensor) -> Tensor:
    r"""
    How unevenly a batch uses its experts: \(E \sum_e p_e^2 - 1\), where \(p_e\) is expert e's share of all weight.

    It is 0 if all experts have the same share, and E − 1 if only one has weight. `weights` is `(B, E, H, W)`. Based on
    the Switch Transformer (arXiv 2101.03961), with soft weights instead of counts.

    Examples:
        >>> load_balance_loss(torch.full((1, 4, 8, 8), 0.25))
        tensor(0.)
    """
    share = weights.sum((0, 2, 3))
    share = share / share.sum().clamp(min=1e-6)
    return share.numel() * share.square().sum() - 1


class TokenAdapter(nn.Module):
    r"""
    Adapter beside an encoder block's MLP: down-project, four operators on the token map, route, up-project.

    With \(z = W_\downarrow\,\mathrm{norm}(h)\) the result is
    \(W_\uparrow\,\mathrm{gelu}(z + \sum_e w_e\, W_e\, O_e(z))\), where \(O_e\) are the operators' compressed
    responses and \(w_e\) the router's weights at each position. Without operators there is no sum; without routers
    \(w_e = 1 / E\).
    \(W_\uparrow\) is zero at initialisation. On tokens the operators measure learned contrasts between neighbours,
    without the physical meaning that they have on a frame.

    Shape: `(B, h, w, C)` → the same.
    """

    def __init__(self, dim: int, experts: ExpertsConfig):
        super().__init__()
        operators, bottleneck = list(experts.scales), experts.bottleneck
        self.norm = nn.LayerNorm(dim)
        self.down = nn.Linear(dim, bottleneck)
        self.operators = nn.ModuleList(OPERATORS[name]((1,)) for name in operators)
        self.mix = nn.ModuleList(nn.Conv2d(bottleneck, bottleneck, 1) for _ in operators)
        self.routers = experts.routers and bool(operators)
        if self.routers:
            self.image_router = ImageRouter(len(operators), len(operators))
            self.position_router = PositionRouter(bottleneck, len(operators), top_k=experts.top_k)
        self.up = nn.Linear(bottleneck, dim)
        zero_(self.up)

    def forward(self, hidden_states: Tensor) -> Tensor:
        tokens = self.down(self.norm(hidden_states)).permute(0, 3, 1, 2)  # (B, r, h, w)
        if len(self.operators):
            tokens = tokens + self._mix_operators(tokens)
        return self.up(F.gelu(tokens).permute(0, 2, 3, 1))

    def _mix_operators(self, tokens: Tensor) -> Tensor:
        """The operators' compressed responses, weighted by the routers and mixed across channels: `(B, r, h, w)`."""
        responses, statistics = [], []
        for operator in self.operators:
            response = operator(tokens).squeeze(2)
            spread = response.abs().mean((-3, -2, -1), keepdim=True) + 1e-6
            peak = response.abs().amax((-3, -2, -1), keepdim=True) / spread
            statistics.append(torch.cat([spread.log(), (1 + peak).log()], -1).flatten(1))  # (B, 2)
            responses.append(symlog(response / spread))
        if self.routers:
            weights = self.position_router(tokens, self.image_router(torch.stack(statistics, 1)))  # (B, E, h, w)
        else:
            weights = uniform_weights(tokens, len(responses))
        experts = enumerate(zip(self.mix, responses, strict=True))
        return cast(Tensor, sum(weights[:, e : e + 1] * mix(response) for e, (mix, response) in experts))
