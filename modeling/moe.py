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
    """`sign(x) · log(1 + |x|)`: about x near 0, logarithmic for large values."""
    return torch.sign(x) * torch.log1p(x.abs())


def zero_(layer: nn.Module) -> None:
    """Initialise a layer's weights with zeros."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class PriorPyramid(nn.Module):
    r"""
    Prior maps of a frame: one per operator and scale.

    Each map is normalised and compressed, `symlog(m / spread)`, since operators have different units (intensity,
    intensity squared). The spread at a position is half the mean magnitude over the frame plus half that of the
    surrounding 72 × 72 pixels: like in a CFAR detector, responses count less in clutter; and maps of a crop are similar
    to those of its frame. A noise floor is added, so that rounding errors in a uniform sky have no large response.

    Args:
        scales: for each operator the list of its scales in frame pixels.
        noise_floor: in units of a normalised frame; responses far below it become 0.

    Shape: `(B, 1, H, W)` → list over the operators of `(B, S, H, W)`, and their statistics `(B, sum(S), 2)`.
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
            peak = magnitude.amax((-2, -1), keepdim=True) / spread  # how far the strongest point stands out
            statistics.append(torch.cat([spread.log(), (1 + peak).log()], -1).squeeze(-2))
        return maps, torch.cat(statistics, 1)

    def describe(self) -> dict[str, object]:
        """The operators' learned parameters in physical units, by operator."""
        return {name: cast(WhiteBoxOperator, operator).describe() for name, operator in self.operators.items()}


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
    """Means over windows of (2 · reach + 1) · cell pixels, decided on a grid of cells: `(B, S, H, W)` → the same."""
    cells = F.avg_pool2d(pad_to_multiple(x, cell), cell)
    means = F.avg_pool2d(F.pad(cells, (reach, reach, reach, reach), mode="replicate"), 2 * reach + 1, stride=1)
    grown = F.interpolate(means, scale_factor=cell, mode="bilinear", align_corners=False)
    return grown[..., : x.shape[-2], : x.shape[-1]]


class ImageRouter(nn.Module):
    """
    Log-weights of the experts for a whole scene, from the prior maps' statistics.

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
    Weights of the experts at every position, with the scene's weights as prior.

    A softmax over the experts and one more choice, *none*, so that a place can be left alone; the weights of the
    experts therefore sum to at most 1. With `top_k` only the k strongest experts of a position keep their weight;
    equals stay together, so that a fresh router, to which all are equal, leaves no expert without a gradient.

    With `stride` the logits are decided on a grid so much coarser and resized bilinearly.

    Shape: `(B, C, H, W)` and `(B, E)` → `(B, E, H, W)`.
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
        self.hidden = nn.Conv2d(in_channels, hidden, 3, stride, padding=1)
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
    """Every expert alike at every position, in place of the two routers: `(B, C, H, W)` → `(B, E, H, W)`."""
    return like.new_full((like.shape[0], num_experts, *like.shape[-2:]), 1 / num_experts)


def load_balance_loss(weights: Tensor) -> Tensor:
    r"""
    How unevenly a batch uses its experts: \(E \sum_e p_e^2 - 1\), with \(p_e\) the expert's share of all weight.

    0 when all are used alike, E − 1 when only one is. `weights`: `(B, E, H, W)`. After Switch Transformer
    (arXiv 2101.03961), with the soft weights in place of counts.
    """
    share = weights.sum((0, 2, 3))
    share = share / share.sum().clamp(min=1e-6)
    return share.numel() * share.square().sum() - 1


class TokenAdapter(nn.Module):
    r"""
    Adapter beside an encoder block's MLP: down-project, four operators on the token map, route, up-project.

    \(\Delta = W_\uparrow \sum_e w_e(x)\, W_e\, O_e(W_\downarrow h)\). On tokens the operators are learned contrast
    between neighbours; only on the frame are they physics. \(W_\uparrow\) is zero at initialisation. Without operators
    it is a plain bottleneck, \(\Delta = W_\uparrow\,\mathrm{gelu}(W_\downarrow h)\); without routers, \(w_e = 1 / E\).

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
            tokens = tokens + self._mixed(tokens)
        return self.up(F.gelu(tokens).permute(0, 2, 3, 1))

    def _mixed(self, tokens: Tensor) -> Tensor:
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
