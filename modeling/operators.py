"""Four classical detectors of infrared small targets as differentiable layers.

A white-box operator is, at its initial parameters, the classical operator to floating-point accuracy; what it learns
stays in that operator's own units and can be read with `describe()`. Which four, and how each is made learnable, is
this project's own choice; `docs/explanation/operators.md` has formulas, references and speed.

Notable:
- every operator maps `(B, C, H, W)` to `(B, C, S, H, W)`: each channel on its own, one map a scale.
- every raw parameter is zero at initialisation, so weight decay pulls towards the classical operator.
- half-precision input is computed in float32 and returned in its own type.
- there is no branch on a parameter's value: the operators can be traced, exported and compiled.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .filters import cosine_basis, gaussian_symbols, opening, window_sum


class WhiteBoxOperator(nn.Module):
    """What the four operators share: checked scales, the working precision, and the table of learned values.

    Attributes: `power`, that of the intensity which a response is in.
    """

    power = 1

    def __init__(self, scales: Sequence[float]):
        super().__init__()
        self.scales = tuple(float(s) for s in scales)
        name = type(self).__name__
        if not self.scales:
            raise ValueError(f"{name} needs at least one scale, for example scales=(3, 5).")
        for scale in self.scales:
            if not (math.isfinite(scale) and scale > 0):
                raise ValueError(f"{name}: a scale is a length in pixels, greater than 0; got {scale}.")

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` → `(B, C, S, H, W)`."""
        if x.ndim != 4:
            raise ValueError(f"{type(self).__name__} takes (batch, channels, height, width); got {tuple(x.shape)}.")
        work = (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).contiguous()
        with torch.autocast(x.device.type, enabled=False):
            return self.respond(work).to(x.dtype)

    def respond(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def learned(self) -> dict[str, tuple[Tensor, str]]:
        """Name → (values per scale, unit)."""
        raise NotImplementedError

    def describe(self) -> list[dict[str, float | str]]:
        """One row per scale and parameter: `scale` (px), `parameter`, `value`, `unit`."""
        with torch.no_grad():
            columns = {name: (values.tolist(), unit) for name, (values, unit) in self.learned().items()}
        return [
            {"scale": scale, "parameter": name, "value": values[i], "unit": unit}
            for i, scale in enumerate(self.scales)
            for name, (values, unit) in columns.items()
        ]

    def extra_repr(self) -> str:
        return f"scales={self.scales}"


class LocalContrast(WhiteBoxOperator):
    r"""
    Multiscale patch-based contrast measure: a target is brighter than its surroundings in every direction.

    With \(m_0\) the mean of the s × s cell around a pixel, \(m_i\) those of the eight cells around it at distance s
    and \(d_i = m_0 - m_i\), the four opposite pairs give \(p_i = \mathrm{relu}(d_i)\,\mathrm{relu}(d_{i+4})\) and

    \(\mathrm{relu}(\min_i p_i + w\,(\mathrm{mean}_i p_i - \min_i p_i)), \quad w \in (-1, 1).\)

    `tolerance` w is learned per scale. At 0 the response is the exact minimum; above, a weak side is tolerated; below,
    unequal sides are held against the pixel. Unlike a soft minimum's sharpness it has an exact starting point, a
    gradient of the response's own size there, and no unit. The response is in intensity squared. Beyond the border the
    nearest pixel is repeated.

    Wei, You, Li: Multiscale patch-based contrast measure for small infrared target detection, Pattern Recognition 58,
    2016.

    Args:
        scales: side of the cells in pixels, odd.
    """

    power = 2

    def __init__(self, scales: Sequence[float]):
        super().__init__(scales)
        if any(s % 2 != 1 for s in self.scales):
            raise ValueError(f"LocalContrast's scales are sides of cells with a centre pixel: odd; got {self.scales}.")
        self.raw_tolerance = nn.Parameter(torch.zeros(len(self.scales)))

    def learned(self) -> dict[str, tuple[Tensor, str]]:
        return {"tolerance": (self.raw_tolerance.tanh(), "1")}

    def respond(self, x: Tensor) -> Tensor:
        tolerance = self.raw_tolerance.to(x.dtype).tanh()
        x = _centred(x)
        maps = []
        for index, scale in enumerate(self.scales):
            p0, p1, p2, p3 = self._pairs(x, int(scale))
            lowest = torch.minimum(torch.minimum(p0, p1), torch.minimum(p2, p3))
            mean = (p0 + p1).add_(p2).add_(p3).mul_(0.25)
            maps.append(torch.lerp(lowest, mean, tolerance[index]).relu_())
        return torch.stack(maps, 2)

    @staticmethod
    def _pairs(x: Tensor, cell: int) -> list[Tensor]:
        height, width = x.shape[-2:]
        margin = cell + cell // 2
        padded = F.pad(x, (margin, margin, margin, margin), mode="replicate")
        means = window_sum(window_sum(padded, cell, -1), cell, -2) / cell**2  # (B, C, H + 2 cell, W + 2 cell)

        def contrast(row: int, column: int) -> Tensor:
            return (centre - means[..., row * cell :, column * cell :][..., :height, :width]).relu_()

        centre = means[..., cell:, cell:][..., :height, :width]
        return [contrast(r, c) * contrast(2 - r, 2 - c) for r, c in ((0, 0), (0, 1), (0, 2), (1, 0))]


class TopHat(WhiteBoxOperator):
    r"""
    White top-hat: a target is bright and smaller than a known size.

    \(f - (f \ominus b_\rho) \oplus b_\rho\) with b a flat square of side \(2\rho + 1\), non-negative, in intensity.

    `radius` ρ is learned per scale within one pixel of its start and never below 1: between whole radii the opening is
    interpolated linearly, at a whole radius it is the classical one. Borders as in `scipy.ndimage.white_tophat`.

    Serra: Image Analysis and Mathematical Morphology, 1982.

    Args:
        scales: radii in pixels, at least 1. Fractions are allowed.
    """

    def __init__(self, scales: Sequence[float]):
        super().__init__(scales)
        if min(self.scales) < 1:
            raise ValueError(f"TopHat's scales are radii in pixels, at least 1; got {self.scales}.")
        self.raw_radius = nn.Parameter(torch.zeros(len(self.scales)))

    def learned(self) -> dict[str, tuple[Tensor, str]]:
        whole = self.raw_radius.new_tensor([round(s) for s in self.scales])
        return {"radius": ((whole + self._offset()).clamp(min=1), "px")}

    def _offset(self) -> Tensor:
        """Signed distance of the radius from the nearest whole scale, in (-1, 1)."""
        start = self.raw_radius.new_tensor([s - round(s) for s in self.scales])
        return start + (1 - start.abs()) * self.raw_radius.tanh()

    def respond(self, x: Tensor) -> Tensor:
        offset = self._offset().to(x.dtype)
        # At an offset of 0 the derivative of |offset| is 0: the gradient is the central difference of the openings.
        larger, smaller = (offset.abs() + offset) / 2, (offset.abs() - offset) / 2
        maps = []
        for index, scale in enumerate(self.scales):
            radius = round(scale)
            here, above = opening(x, radius), opening(x, radius + 1)
            below = opening(x, radius - 1) if radius > 1 else here
            background = here + larger[index] * (above - here) + smaller[index] * (below - here)
            maps.append((x - background).clamp(min=0))
        return torch.stack(maps, 2)


class MatchedFilter(WhiteBoxOperator):
    r"""
    Scale-normalised Laplacian of Gaussian: a target is the point-spread function.

    \(-\sigma^2 \nabla^2 G_\sigma * f\), in intensity, signed: bright blobs are positive, dark ones negative. A
    Gaussian blob answers most strongly where σ is its own. `sigma` is learned per scale, above a quarter of a pixel.

    The kernel is the sampled Gaussian and its second derivative as in `scipy.ndimage.gaussian_laplace`, untruncated,
    less the part that would make a constant image respond (below 1e-6 of the kernel from σ = 1). With scipy's
    reflecting border such a filter is diagonal under the discrete cosine transform, which is how it is computed: exact
    for every σ and every image size, at a cost that does not depend on σ.

    Marr, Hildreth: Theory of edge detection, 1980; Lindeberg: Feature detection with automatic scale selection,
    IJCV 30, 1998.

    Args:
        scales: initial σ in pixels, greater than 0.25.
    """

    min_sigma = 0.25  # below, a sampled Gaussian is a single pixel

    def __init__(self, scales: Sequence[float]):
        super().__init__(scales)
        if min(self.scales) <= self.min_sigma:
            raise ValueError(
                f"MatchedFilter's scales are σ in pixels, greater than {self.min_sigma}; got {self.scales}."
            )
        self.raw_sigma = nn.Parameter(torch.zeros(len(self.scales)))

    def learned(self) -> dict[str, tuple[Tensor, str]]:
        return {"sigma": (self._sigma(self.raw_sigma), "px")}

    def _sigma(self, raw: Tensor) -> Tensor:
        return self.min_sigma + (raw.new_tensor(self.scales) - self.min_sigma) * raw.exp()

    def respond(self, x: Tensor) -> Tensor:
        (rows, weight_h), (columns, weight_w) = cosine_basis(x, -2), cosine_basis(x, -1)
        sigma = self._sigma(self.raw_sigma.to(x.dtype))[:, None]  # (S, 1)
        gauss_h, second_h = gaussian_symbols(sigma, x.shape[-2])  # (S, H)
        gauss_w, second_w = gaussian_symbols(sigma, x.shape[-1])  # (S, W)
        along_h = torch.stack([second_h, gauss_h], 2) * (-sigma.square() * weight_h)[:, :, None]  # (S, H, 2)
        along_w = torch.stack([gauss_w, second_w], 1) * weight_w  # (S, 2, W)
        symbol = along_h @ along_w  # (S, H, W): d²/dy² + d²/dx²
        spectrum = rows @ _centred(x) @ columns.T
        return rows.T @ (spectrum[:, :, None] * symbol) @ columns


class AnisotropicDiffusion(WhiteBoxOperator):
    r"""
    Residual of Perona-Malik diffusion: the background is what survives edge-preserving smoothing.

    \(u \leftarrow u + \lambda \sum_d g(\nabla_d u)\,\nabla_d u\) over the four neighbours at distance s, with
    \(g(a) = \exp(-a^2 / K^2)\) and no flux through the border, `steps` times; the response is \(u_0 - u_T\), in
    intensity, signed: bright targets positive, dark ones negative.

    `k` is learned per scale in standard deviations of the map (per image and channel), `lambda` per scale in (0, ¼).
    At scale 1 this is the textbook scheme, at scale s the same on each of the s × s interleaved grids. Where g = 1, it
    smooths like a Gaussian of \(s\sqrt{2 \lambda T}\) pixels, at first (T = 3, λ = 1/6) of s pixels; the textbook
    scheme needs s² times as many steps for that.

    Perona, Malik: Scale-space and edge detection using anisotropic diffusion, PAMI 12, 1990.

    Args:
        scales: distance of the neighbours in pixels, whole numbers.
    """

    steps = 3
    initial_k = 8.0

    def __init__(self, scales: Sequence[float]):
        super().__init__(scales)
        if any(s != round(s) for s in self.scales):
            raise ValueError(f"AnisotropicDiffusion's scales are whole pixels; got {self.scales}.")
        self.raw_k = nn.Parameter(torch.zeros(len(self.scales)))
        self.raw_lambda = nn.Parameter(torch.zeros(len(self.scales)))

    def learned(self) -> dict[str, tuple[Tensor, str]]:
        return {
            "k": (self.initial_k * self.raw_k.exp(), "standard deviations of the map"),
            "lambda": (self._rate(self.raw_lambda), "1"),
        }

    @staticmethod
    def _rate(raw: Tensor) -> Tensor:
        return (raw + math.log(2)).sigmoid() / 4  # starts at 1/6

    def respond(self, x: Tensor) -> Tensor:
        k = self.initial_k * self.raw_k.to(x.dtype).exp()
        rate = self._rate(self.raw_lambda.to(x.dtype))
        x = _centred(x)
        variance = x.var((-2, -1), correction=0, keepdim=True)
        maps = []
        for index, scale in enumerate(self.scales):
            # A constant map has no spread and no differences: any finite factor gives it zero flux and gradient.
            sharpness = -1 / (k[index].square() * variance + torch.finfo(x.dtype).eps ** 2)
            u = x
            for _ in range(self.steps):
                change = _divergence(u, sharpness, distance=int(scale), dim=-1)
                change = change.add_(_divergence(u, sharpness, distance=int(scale), dim=-2))
                u = torch.addcmul(u, change, rate[index])
            maps.append(x - u)
        return torch.stack(maps, 2)


def _centred(x: Tensor) -> Tensor:
    """The map without its offset, which a filter that sums to zero ignores, and which rounding does not."""
    x = x - x.detach().amin((-2, -1), keepdim=True)  # first, so that a constant map becomes exactly 0
    return x - x.detach().mean((-2, -1), keepdim=True)


def _divergence(u: Tensor, sharpness: Tensor, distance: int, dim: int) -> Tensor:
    """Net edge-stopped flux into each pixel from its two neighbours along `dim`."""
    size = u.shape[dim]
    # No branch for sides that are no longer than the distance, of which nothing is left: an exported graph would take
    # one of the two for good.
    along_rows = dim == -1
    difference = u[..., distance:] - u[..., :-distance] if along_rows else u[..., distance:, :] - u[..., :-distance, :]
    flux = difference * difference.square().mul_(sharpness).exp_()
    flux = F.pad(flux, (distance, distance) if along_rows else (0, 0, distance, distance))
    return flux.narrow(dim, distance, size) - flux.narrow(dim, 0, size)


# In the order in which a mixture has them.
OPERATORS: dict[str, type[WhiteBoxOperator]] = {
    "local_contrast": LocalContrast,
    "top_hat": TopHat,
    "matched_filter": MatchedFilter,
    "anisotropic_diffusion": AnisotropicDiffusion,
}
