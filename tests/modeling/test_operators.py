import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from skimage.morphology import footprint_rectangle, white_tophat
from torch import nn

from scalpel_hf.modeling.operators import AnisotropicDiffusion, LocalContrast, MatchedFilter, TopHat, WhiteBoxOperator
from tests.classical_operators import laplacian_of_gaussian, mpcm, perona_malik, top_hat

OPERATORS = {
    LocalContrast: (1, 3, 5),
    TopHat: (1, 2, 5),
    MatchedFilter: (0.5, 1, 2.5),
    AnisotropicDiffusion: (1, 2, 4),
}
SIZES = [(17, 23), (16, 16), (1, 9), (7, 1), (2, 3), (1, 1)]
every_operator = pytest.mark.parametrize("operator_class", OPERATORS)


def make(operator_class: type[WhiteBoxOperator]) -> WhiteBoxOperator:
    return operator_class(OPERATORS[operator_class])


def off_start(operator_class: type[WhiteBoxOperator]) -> WhiteBoxOperator:
    """Away from the initial parameters, so that interpolation and every gradient take part."""
    operator = make(operator_class)
    generator = torch.Generator().manual_seed(0)
    for parameter in operator.parameters():
        nn.init.uniform_(parameter, 0.1, 0.4, generator=generator)
    return operator


def frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Clouds, noise and a few blurred targets, standardised, exact in float32."""
    rng = np.random.default_rng(seed)
    image = 3 * ndimage.gaussian_filter(rng.standard_normal((height, width)), 4, mode="wrap")
    image += 0.1 * rng.standard_normal((height, width))
    targets = np.zeros((height, width))
    targets[rng.integers(height, size=3), rng.integers(width, size=3)] = 10
    image += ndimage.gaussian_filter(targets, 1.2)
    image = (image - image.mean()) / max(image.std(), 1e-3)
    return image.astype(np.float32).astype(np.float64)


CLASSICAL: dict[type[WhiteBoxOperator], Callable] = {
    LocalContrast: mpcm,
    TopHat: top_hat,
    MatchedFilter: laplacian_of_gaussian,
    AnisotropicDiffusion: perona_malik,
}


def assert_close(actual: torch.Tensor, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """Relative to the largest response, borders included; 1e-11 is what float64 leaves of an offset of 14,000."""
    error = np.abs(actual.detach().double().numpy() - expected).max()
    assert error <= tolerance * np.abs(expected).max() + 1e-11, error


@every_operator
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("raw", [False, True], ids=["standardised", "raw"])
def test_starts_as_the_classical_operator(operator_class, size, dtype, raw):
    f = frame(*size)
    if raw:  # a 14-bit scene: the operators ignore its offset, and float32 must not drown in it
        f = np.rint(14_000 + 300 * f)
    operator = make(operator_class)
    response = operator(torch.tensor(f, dtype=dtype)[None, None])
    assert response.shape == (1, 1, len(operator.scales), *size)
    assert response.dtype == dtype
    for index, scale in enumerate(OPERATORS[operator_class]):
        assert_close(response[0, 0, index], CLASSICAL[operator_class](f, scale))


@pytest.mark.parametrize("radius", [1, 3, 6])
def test_top_hat_is_that_of_skimage(radius):
    f = frame(20, 25)
    expected = white_tophat(f, footprint_rectangle((2 * radius + 1, 2 * radius + 1)))
    assert_close(TopHat([radius])(torch.tensor(f)[None, None])[0, 0, 0], expected)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 4.0])
def test_matched_filter_is_scipy_s_own_once_nothing_is_truncated(sigma):
    f = frame(40, 50)
    expected = -(sigma**2) * ndimage.gaussian_laplace(f, sigma, truncate=6)
    assert_close(MatchedFilter([sigma])(torch.tensor(f)[None, None])[0, 0, 0], expected)


@pytest.mark.parametrize("scale", [2, 3])
def test_diffusion_at_a_scale_is_the_textbook_scheme_on_interleaved_grids(scale):
    x = torch.tensor(frame(24, 30))[None, None]
    k = 8 * x.std(correction=0).item()
    response = AnisotropicDiffusion([scale])(x)[0, 0, 0]
    for i, j in np.ndindex(scale, scale):
        grid = x[0, 0, i::scale, j::scale].numpy()
        assert_close(response[i::scale, j::scale], perona_malik(grid, 1, k=k / grid.std()))


@every_operator
def test_gradients_of_input_and_parameters(operator_class):
    operator = off_start(operator_class).double()
    x = torch.tensor(np.random.default_rng(1).standard_normal((1, 2, 6, 7)), requires_grad=True)  # off every kink

    def response(x, *parameters):
        names = [name for name, _ in operator.named_parameters()]
        return torch.func.functional_call(operator, dict(zip(names, parameters, strict=True)), x)

    assert torch.autograd.gradcheck(response, (x, *operator.parameters()))


@every_operator
def test_every_parameter_learns_from_the_start(operator_class):
    operator = make(operator_class)
    operator(torch.tensor(frame(64, 64), dtype=torch.float32)[None, None]).square().mean().backward()
    for name, parameter in operator.named_parameters():
        assert torch.isfinite(parameter.grad).all() and (parameter.grad != 0).all(), (name, parameter.grad)


@every_operator
def test_every_parameter_learns_from_a_real_frame(operator_class, shared_dir: Path):
    path = sorted((shared_dir / "data" / "NUAA-SIRST" / "images").iterdir())[0]
    image = torch.tensor(np.asarray(Image.open(path).convert("L"), dtype=np.float32))[None, None]
    operator = make(operator_class)
    operator((image - image.mean()) / image.std()).square().mean().backward()
    assert all((p.grad != 0).all() for p in operator.parameters())


@pytest.mark.parametrize("sign", [1, -1], ids=["hot", "cold"])
@every_operator
def test_a_single_pixel(operator_class, sign):
    x = torch.zeros(1, 1, 31, 31)
    x[..., 15, 15] = sign * 2.0
    for scale, response in zip(OPERATORS[operator_class], make(operator_class)(x)[0, 0], strict=True):
        if operator_class in (LocalContrast, TopHat):
            assert (response >= 0).all()
            if sign < 0:  # a dark hole is no target
                assert response.abs().max() == 0
        if operator_class is TopHat and sign > 0:  # smaller than every radius: all of it, and nothing else
            assert torch.equal(response, x[0, 0])
        if operator_class is LocalContrast and sign > 0:
            assert response[15, 15] == response.max()
            torch.testing.assert_close(response[15, 15], torch.tensor((2 / scale**2) ** 2))
            assert response[:, : 15 - scale].max() == 0
        if operator_class in (MatchedFilter, AnisotropicDiffusion):
            assert sign * response[15, 15] == response.abs().max()
            assert sign * response[15, 15 + int(np.ceil(2 * scale))] < 1e-6  # what surrounds it answers the other way
            assert abs(response.sum()) < 1e-4


@every_operator
def test_a_wide_plateau_is_no_target(operator_class):
    x = torch.zeros(1, 1, 96, 96)
    x[..., 16:80, 16:80] = 1.0
    assert make(operator_class)(x)[..., 46:50, 46:50].abs().max() < 1e-4


@every_operator
@pytest.mark.parametrize("value", [0.0, -3.7, 0.1, 65535.0])
def test_constant_images_give_zero_and_finite_gradients(operator_class, value):
    x = torch.full((1, 2, 13, 20), value, requires_grad=True)
    operator = off_start(operator_class)
    response = operator(x)
    response.sum().backward()
    assert response.abs().max() == 0
    assert torch.isfinite(x.grad).all() and all(torch.isfinite(p.grad).all() for p in operator.parameters())


@every_operator
def test_sixteen_bit_range_stays_finite(operator_class):
    x = torch.tensor(np.random.default_rng(0).choice([0.0, 65535.0], (1, 1, 40, 40)).astype(np.float32))
    x.requires_grad_()
    response = make(operator_class)(x)
    response.sum().backward()
    assert torch.isfinite(response).all() and torch.isfinite(x.grad).all()


@every_operator
@settings(max_examples=15, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    gain=st.floats(0.01, 1000),
    offset=st.floats(-1e4, 1e4),
    seed=st.integers(0, 1000),
)
def test_offset_is_ignored_and_gain_comes_through(operator_class, size, gain, offset, seed):
    operator = off_start(operator_class).double()
    x = torch.tensor(np.random.default_rng(seed).standard_normal((1, 1, *size)))
    expected = operator(x) * (gain**2 if operator_class is LocalContrast else gain)
    torch.testing.assert_close(operator(gain * x + offset), expected, rtol=1e-6, atol=1e-8 * gain**2 + 1e-8)


@every_operator
def test_rotation_and_mirroring_change_nothing(operator_class):
    operator = off_start(operator_class).double()
    x = torch.tensor(frame(21, 30))[None, None]
    torch.testing.assert_close(operator(x.mT), operator(x).mT)
    torch.testing.assert_close(operator(x.flip(-1, -2)), operator(x).flip(-1, -2))


@every_operator
def test_images_and_channels_are_each_on_their_own(operator_class):
    operator = off_start(operator_class)
    x = torch.randn(5, 3, 33, 48, generator=torch.Generator().manual_seed(0))
    x[2] *= 100
    response = operator(x)
    assert torch.equal(response, torch.cat([operator(image[None]) for image in x]))
    assert torch.equal(response, torch.cat([operator(x[:, c : c + 1]) for c in range(3)], 1))
    assert torch.equal(response, operator(x.to(memory_format=torch.channels_last)))


@every_operator
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_autocast(operator_class, dtype):
    operator = make(operator_class)
    x = torch.tensor(frame(32, 32), dtype=dtype)[None, None]
    expected = operator(x.float())
    assert operator(x).dtype == dtype
    assert torch.equal(operator(x), expected.to(dtype))
    assert torch.equal(copy.deepcopy(operator).to(dtype)(x), expected.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(operator(x.float()), expected)


def test_sigma_finds_the_size_of_a_target():
    distance = torch.arange(-20.0, 21)
    blob = torch.exp(-(distance[:, None] ** 2 + distance**2) / (2 * 2.3**2))[None, None]
    operator = MatchedFilter([1.2])
    optimizer = torch.optim.Adam(operator.parameters(), 0.05)
    for _ in range(120):
        optimizer.zero_grad()
        (-operator(blob)[..., 20, 20]).sum().backward()
        optimizer.step()
    assert operator.describe()[0]["value"] == pytest.approx(2.3, rel=0.01)


def test_radius_between_whole_numbers_lies_between_their_responses():
    x = torch.tensor(frame(40, 40))[None, None]
    two, nearer_two, nearer_three, three = TopHat([2, 2.25, 2.75, 3])(x)[0, 0].detach().numpy()
    np.testing.assert_allclose(nearer_two, 0.75 * two + 0.25 * three, atol=1e-12)
    np.testing.assert_allclose(nearer_three, 0.25 * two + 0.75 * three, atol=1e-12)


def test_radius_stays_at_least_one():
    operator = TopHat([1])
    nn.init.constant_(operator.raw_radius, -5.0)
    x = torch.tensor(frame(20, 20))[None, None]
    assert operator.describe()[0]["value"] == 1
    assert_close(operator(x)[0, 0, 0], top_hat(x[0, 0].numpy(), 1))


def test_tolerance_forgives_one_weak_side():
    x = torch.zeros(1, 1, 15, 15)
    x[..., 7, 7:11] = 1.0  # a target with a tail to its right
    operator = LocalContrast([1, 1])
    operator.raw_tolerance.data[1] = 0.5
    strict, tolerant = operator(x)[0, 0, :, 7, 7]
    assert strict == 0 < tolerant


def test_describe_gives_units_and_start_values():
    for operator_class, scales in OPERATORS.items():
        operator = make(operator_class)
        assert operator.scales == tuple(map(float, scales))
        assert {row["scale"] for row in operator.describe()} == set(operator.scales)
    k, rate = AnisotropicDiffusion([3]).describe()
    assert k == {"scale": 3.0, "parameter": "k", "value": 8.0, "unit": "standard deviations of the map"}
    assert rate == {"scale": 3.0, "parameter": "lambda", "value": pytest.approx(1 / 6), "unit": "1"}
    assert [r["value"] for r in MatchedFilter([0.7, 3]).describe()] == pytest.approx([0.7, 3])
    assert [r["value"] for r in TopHat([1, 2.25]).describe()] == [1, 2.25]


@every_operator
def test_parameters_cannot_leave_their_range(operator_class):
    operator = make(operator_class)
    x = torch.tensor(frame(16, 16), dtype=torch.float32)[None, None]
    bounds = {"tolerance": (-1, 1), "radius": (1, 6), "sigma": (0.25, np.inf), "k": (0, np.inf), "lambda": (0, 0.25)}
    for value in (-20.0, 20.0):
        for parameter in operator.parameters():
            nn.init.constant_(parameter, value)
        assert torch.isfinite(operator(x)).all()
        for row in operator.describe():
            low, high = bounds[row["parameter"]]
            assert low <= row["value"] <= high


@pytest.mark.parametrize(
    ("operator_class", "scales", "message"),
    [
        (LocalContrast, [], "at least one scale"),
        (LocalContrast, [4], "odd"),
        (TopHat, [0.5], "at least 1"),
        (MatchedFilter, [0.25], "greater than 0.25"),
        (MatchedFilter, [-1], "greater than 0"),
        (AnisotropicDiffusion, [1.5], "whole"),
        (AnisotropicDiffusion, [float("nan")], "greater than 0"),
    ],
)
def test_wrong_scales_are_refused(operator_class, scales, message):
    with pytest.raises(ValueError, match=message):
        operator_class(scales)


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="batch, channels, height, width"):
        TopHat([1])(torch.zeros(8, 8))
