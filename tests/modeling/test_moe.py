"""Experts and routers against their formulas, written out in NumPy."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import maximum_filter
from torch import Tensor, nn

from scalpel_hf.modeling.configuration_experts import ExpertsConfig
from scalpel_hf.modeling.consensus_gate import ConsensusGate
from scalpel_hf.modeling.mask_level import MaskLevel
from scalpel_hf.modeling.moe import (
    ImageRouter,
    PositionRouter,
    PriorPyramid,
    TokenAdapter,
    load_balance_loss,
    symlog,
    uniform_weights,
)
from tests.classical_operators import surroundings

SCALES: dict[str, list[float]] = {
    "local_contrast": [3, 5],
    "top_hat": [2],
    "matched_filter": [1, 2, 4],
    "anisotropic_diffusion": [2],
}


def experts(scales: dict | None = None, **settings: Any) -> ExpertsConfig:
    small = {"bottleneck": 8, "channels": 8, "full_resolution_channels": 0}
    return ExpertsConfig(**{"scales": SCALES if scales is None else scales, **small, **settings})


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def test_symlog_is_odd_monotonic_and_the_identity_near_zero() -> None:
    x = torch.linspace(-50, 50, 1001, dtype=torch.float64)
    assert torch.equal(symlog(-x), -symlog(x)) and (symlog(x).diff() > 0).all()
    small = torch.tensor([1e-4], dtype=torch.float64)
    torch.testing.assert_close(symlog(small), small, rtol=1e-4, atol=0)
    assert symlog(torch.tensor(np.e - 1)).item() == pytest.approx(1)


@pytest.mark.parametrize("noise_floor", [1 / 256, 0.2])
def test_each_prior_map_is_in_its_own_spread(noise_floor: float) -> None:
    pyramid, frame = PriorPyramid(SCALES, noise_floor), noise(2, 1, 90, 131)
    frame[:, :, 12:15, 20:23] += 8
    maps, statistics = pyramid(frame)
    assert [m.shape[1] for m in maps] == [2, 1, 3, 1] and statistics.shape == (2, 7, 2)
    index = 0
    for name, own in zip(SCALES, maps, strict=True):
        for image in range(2):
            for scale in range(len(SCALES[name])):
                response = pyramid.operators[name](frame[image : image + 1])[0, 0, scale].detach().numpy()
                spread = np.abs(response).mean() + 1e-6
                power = 2 if name == "local_contrast" else 1  # its response is in intensity squared
                bar = (spread + surroundings(np.abs(response))) / 2 + noise_floor**power
                expected = np.sign(response) * np.log1p(np.abs(response) / bar)
                np.testing.assert_allclose(own[image, scale].detach(), expected, atol=1e-5)
                peak = np.abs(response).max() / spread
                expected = [np.log(spread), np.log1p(peak)]
                np.testing.assert_allclose(statistics[image, index + scale].detach(), expected, rtol=1e-4)
        index += len(SCALES[name])


def test_prior_maps_ignore_offset_and_above_the_floor_gain() -> None:
    pyramid, frame = PriorPyramid(SCALES), 100 * noise(1, 1, 30, 40)
    for ours, theirs in zip(pyramid(frame)[0], pyramid(40 * frame + 7)[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_the_rounding_of_an_even_frame_is_no_clutter() -> None:
    pyramid, even = PriorPyramid(SCALES), 0.3 + 3e-4 * noise(1, 1, 60, 80)  # of a frame by its range, 8 bits are 0.004
    for quiet, loud in zip(pyramid(even)[0], pyramid(1000 * even)[0], strict=True):
        assert (quiet.abs().amax((-2, -1)) < 0.4).all() and (loud.abs().amax((-2, -1)) > 1).all()


def test_a_constant_frame_has_empty_priors_and_finite_gradients() -> None:
    pyramid = PriorPyramid(SCALES)
    maps, statistics = pyramid(torch.full((1, 1, 9, 11), 3.0))
    assert all(not m.any() for m in maps) and statistics.isfinite().all()
    (sum(m.sum() for m in maps) + statistics.sum()).backward()
    assert all(p.grad.isfinite().all() for p in pyramid.parameters())


def test_routers_are_uniform_at_first() -> None:
    image = ImageRouter(7, 4)(noise(3, 7, 2))
    torch.testing.assert_close(image.exp(), torch.full((3, 4), 0.25))
    weights = PositionRouter(5, 4)(noise(3, 5, 6, 8), image)
    torch.testing.assert_close(weights, torch.full((3, 4, 6, 8), 0.125))  # the other half is none's


@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
def test_the_position_router_by_the_book(top_k: int) -> None:
    router = randomised(PositionRouter(5, 4, top_k=top_k))
    features, image = noise(2, 5, 6, 8), noise(2, 4).log_softmax(1)
    weights = router(features, image).detach().numpy()
    logits = router.proj(torch.nn.functional.gelu(router.hidden(features))).detach().double().numpy()
    for b, y, x in np.ndindex(2, 6, 8):
        experts = logits[b, :4, y, x] + image[b].numpy()
        kept = np.argsort(experts)[-top_k:]
        choices = softmax(np.append(experts[kept], logits[b, 4, y, x]))
        expected = np.zeros(4)
        expected[kept] = choices[:-1]
        np.testing.assert_allclose(weights[b, :, y, x], expected, atol=1e-5)
    assert ((weights > 0).sum(1) == top_k).all()


def test_an_image_never_sees_its_neighbours() -> None:
    """Not approximately: the gradient from one image's answer to another's input is zero."""
    level = randomised(MaskLevel(experts(top_k=2), 4, 8)).eval()
    frame = noise(3, 1, 16, 20).requires_grad_()
    boxes = torch.tensor([0.0, 0.0, 64.0, 51.2]).expand(3, 4)
    outputs = level(frame, boxes, noise(3, 1, 16, 20), noise(3, 4, 16, 16), noise(3, 8, 4, 4), 64)
    for name in ("logits", "router_weights", "image_weights", "prior"):
        (gradient,) = torch.autograd.grad(outputs[name][1].square().sum(), frame, retain_graph=True)
        assert gradient[1].any() and not gradient[0].any() and not gradient[2].any()
    adapter = randomised(TokenAdapter(12, experts(top_k=2)))
    tokens = noise(3, 4, 5, 12).requires_grad_()
    (gradient,) = torch.autograd.grad(adapter(tokens)[1].square().sum(), tokens)
    assert gradient[1].any() and not gradient[0].any() and not gradient[2].any()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 3), (16, 17), (41, 64)], ids=str)
@torch.no_grad()
def test_the_mask_level_takes_frames_of_any_size(size: tuple[int, int]) -> None:
    level = randomised(MaskLevel(experts(), 4, 8))
    frame, boxes = noise(2, 1, *size), torch.tensor([0.0, 0.0, 64.0, 64.0]).expand(2, 4)
    logits = noise(2, 3, *size)
    outputs = level(frame, boxes, logits, noise(2, 4, 16, 16), noise(2, 8, 4, 4), 64)
    assert outputs["logits"].shape == (2, 3, *size) and outputs["router_weights"].shape == (2, 4, *size)
    assert all(value.isfinite().all() for value in outputs.values())
    added = outputs["logits"] - level.sam_logit_scale * logits
    assert added.any() and torch.allclose(added[:, :1].expand_as(added), added, atol=1e-4)  # one residual, three masks


@torch.no_grad()
def test_a_place_where_no_operator_answers_loses_logits() -> None:
    """4 for each unit that the strongest consensus within 6 pixels falls short of the bar; in evaluation only."""
    level = randomised(MaskLevel(experts(), 4, 8)).double().eval()
    frame = 0.1 * noise(2, 1, 48, 50).double()
    frame[0, 0, 20, 30] += 9  # a target; the second frame has none
    boxes = torch.tensor([0.0, 0.0, 64.0, 64.0], dtype=torch.float64).expand(2, 4)
    rest = (noise(2, 3, 48, 50).double(), noise(2, 4, 16, 16).double(), noise(2, 8, 4, 4).double())
    inputs = frame, boxes, *rest, 64
    assert level.pyramid is not None
    without = level(*inputs)["logits"]
    maps = [expert.numpy() for expert in level.pyramid(frame)[0]]
    agreed = np.mean([expert.max(1) for expert in maps], 0)
    nearby = np.stack([maximum_filter(one, 13, mode="constant", cval=-np.inf) for one in agreed])
    threshold = float(np.median(nearby))
    level.set_gate(ConsensusGate(threshold))
    lost = (without - level(*inputs)["logits"]).numpy()
    expected = 4 * np.maximum(threshold - nearby, 0)[:, None]
    np.testing.assert_allclose(lost, np.broadcast_to(expected, lost.shape), atol=1e-4)
    assert 0.4 < (expected > 0.01).mean() < 0.6 and not expected[0, 0, 14:27, 24:37].any()
    level.set_gate(ConsensusGate(threshold, share=0.3))  # of the target in the one frame, and of noise in the other
    lost = (without - level(*inputs)["logits"]).numpy()
    asked = np.log1p(0.3 * np.expm1(agreed.max((1, 2), keepdims=True)))
    assert asked[0].item() > threshold
    expected = 4 * np.maximum(np.maximum(threshold, asked) - nearby, 0)[:, None]
    np.testing.assert_allclose(lost, np.broadcast_to(expected, lost.shape), atol=1e-4)
    assert not expected[0, 0, 14:27, 24:37].any() and (expected[0] > 0).mean() > 0.8
    level.train()
    trained = level(*inputs)["logits"]
    level.set_gate(ConsensusGate())
    assert torch.allclose(trained, level(*inputs)["logits"])


def test_the_first_layer_starts_from_the_frame() -> None:
    """The frame and its logarithm weigh what they do without operators, the maps 0.3 of it."""
    torch.manual_seed(0)
    alone, beside = (
        MaskLevel(experts(scales, channels=64), 4, 8).encoder[0][0][0].weight.detach() for scales in ({}, SCALES)
    )
    assert alone.shape[1] == 2 and beside.shape[1] == 9
    assert alone.abs().max() == pytest.approx((2 * 36) ** -0.5, rel=1e-2)  # torch's own bound for 2 inputs of 6 x 6
    assert beside[:, :2].std().item() == pytest.approx(alone.std().item(), rel=0.05)
    assert beside[:, 2:].std().item() == pytest.approx(0.3 * alone.std().item(), rel=0.05)


@torch.no_grad()
def test_sams_features_stay_with_the_frame_whatever_is_cut_from_it() -> None:
    """Another frame that begins on the network's grid and covers its own part of SAM's input: the same answer there."""
    level = randomised(MaskLevel(experts({}), 4, 8)).double()
    features = noise(1, 4, 128, 128).double(), noise(1, 8, 32, 32).double()

    def answer(x: int, y: int, width: int, height: int) -> Tensor:
        nothing = torch.zeros(1, 1, height, width, dtype=torch.float64)
        box = torch.tensor([[x, y, x + width, y + height]], dtype=torch.float64)
        return level(nothing, box, nothing, *features, 512)["logits"][0, 0]

    whole = answer(10, 20, 368, 352)
    part = answer(10 + 32, 20 + 16, 331, 315)  # sides that are no multiples of anything
    centre = slice(140, 170)  # farther from every border than the network sees
    expected = whole[16:, 32:][centre, centre]
    assert expected.std() > 0.01 * whole.std()
    torch.testing.assert_close(part[centre, centre], expected, rtol=0, atol=1e-9 * whole.abs().max().item())


def test_batch_norms_use_the_batch_in_training_alone() -> None:
    level = randomised(MaskLevel(experts(), 4, 8))
    boxes = torch.tensor([0.0, 0.0, 64.0, 64.0]).expand(3, 4)
    inputs = noise(3, 1, 32, 32), boxes, noise(3, 1, 32, 32), noise(3, 4, 16, 16), noise(3, 8, 4, 4)

    def answer(count: int) -> Tensor:
        return level(*(x[:count] for x in inputs), 64)["logits"][0]

    statistics = {name: value.clone() for name, value in level.named_buffers()}
    expected = answer(3)
    torch.testing.assert_close(answer(1), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert all(torch.equal(value, statistics[name]) for name, value in level.named_buffers())
    level.train()
    assert not torch.allclose(answer(1), answer(3), rtol=1e-2, atol=1e-2)
    moved = {name for name, value in level.named_buffers() if not torch.equal(value, statistics[name])}
    assert moved == set(statistics) and len(moved) > 20


def test_load_balance() -> None:
    even, one = torch.full((2, 4, 3, 3), 0.2), torch.zeros(2, 4, 3, 3)
    one[:, 1] = 0.7
    assert load_balance_loss(even).item() == pytest.approx(0, abs=1e-6)
    assert load_balance_loss(one).item() == pytest.approx(3)
    shares = np.array([0.1, 0.2, 0.3, 0.4])
    weights = torch.tensor(shares, dtype=torch.float32)[None, :, None, None].expand(2, 4, 3, 3)
    assert load_balance_loss(weights).item() == pytest.approx(4 * (shares**2).sum() - 1)
    assert load_balance_loss(torch.zeros(1, 4, 2, 2)).isfinite()
    x = noise(2, 3, 4, 4).double().abs().requires_grad_()
    assert torch.autograd.gradcheck(load_balance_loss, (x,))


@pytest.mark.parametrize("kwargs", [{}, {"routers": False}, {"top_k": 1}], ids=str)
@pytest.mark.parametrize("operators", [list(SCALES), ["top_hat"], []], ids=len)
def test_a_fresh_token_adapter_adds_nothing(operators: list[str], kwargs: dict) -> None:
    tokens = noise(2, 4, 5, 12)
    adapter = TokenAdapter(12, experts({name: [1] for name in operators}, **kwargs))
    assert not adapter(tokens).any()
    answer = randomised(adapter)(tokens)
    assert answer.shape == tokens.shape and answer.std() > 0


def test_a_token_adapter_without_operators_is_a_plain_bottleneck() -> None:
    adapter = randomised(TokenAdapter(12, experts({})))
    assert sorted({name.split(".")[0] for name, _ in adapter.named_parameters()}) == ["down", "norm", "up"]
    tokens = noise(2, 4, 5, 12)
    expected = adapter.up(nn.functional.gelu(adapter.down(adapter.norm(tokens))))
    torch.testing.assert_close(adapter(tokens), expected)


def test_without_routers_the_mixture_is_the_mean() -> None:
    adapter = randomised(TokenAdapter(12, experts({"top_hat": [1], "matched_filter": [1]}, routers=False)))
    tokens = noise(1, 4, 5, 12)
    down = adapter.down(adapter.norm(tokens)).permute(0, 3, 1, 2)
    mixed = []
    for operator, mix in zip(adapter.operators, adapter.mix, strict=True):
        response = operator(down).squeeze(2)
        mixed.append(mix(symlog(response / (response.abs().mean() + 1e-6))))
    expected = adapter.up(nn.functional.gelu(down + (mixed[0] + mixed[1]) / 2).permute(0, 2, 3, 1))
    torch.testing.assert_close(adapter(tokens), expected)
    assert uniform_weights(down, 2).unique().item() == 0.5
