"""What the adapter computes: identity at first, each image alone, the link to the frames, its routers."""

import gc
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scalpel_hf import link_frames, record_router
from scalpel_hf.adapter import call as link
from scalpel_hf.modeling.mask_level import FrameRegion, MaskLevel
from scalpel_hf.modeling.modeling_scalpel_sam import ScalpelSamModel
from scalpel_hf.predictors.sam import resize_sam
from tests.adapter.adapted import BASES, SCALES, adapted, assert_close, masks, operations
from tests.small_models import SIZE, perturb, random_inputs, small_mobile_sam, small_sam


def test_fresh_adapter_is_the_base_bitwise_on_its_own_grid(base: nn.Module) -> None:
    pixel_values = random_inputs()["pixel_values"]
    with torch.no_grad():
        expected = base(pixel_values, multimask_output=True)
        model = adapted(base, moved=False, mask_grid="base")
        actual = model(pixel_values=pixel_values, multimask_output=True)
    assert expected.pred_masks.std() > 0
    assert torch.equal(actual.pred_masks, expected.pred_masks)
    assert torch.equal(actual.iou_scores, expected.iou_scores)


def test_fresh_adapter_on_the_frames_grid_is_the_bases_masks_resized(base: nn.Module) -> None:
    pixel_values = random_inputs()["pixel_values"]
    with torch.no_grad():
        expected = F.interpolate(masks(base, pixel_values=pixel_values)[:, 0], size=(SIZE, SIZE), mode="bilinear")
        actual = masks(adapted(base, moved=False), pixel_values=pixel_values)[:, 0]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_identity_is_bitwise_on_a_grid_that_is_no_power_of_two() -> None:
    base, pixel_values = resize_sam(small_sam(), 96).eval(), torch.randn(2, 3, 96, 96)
    expected = base(pixel_values).pred_masks
    assert torch.equal(adapted(base, moved=False, mask_grid="base")(pixel_values).pred_masks, expected)


def test_a_frame_that_covers_part_of_the_input_gets_that_part_of_the_masks() -> None:
    model = adapted(small_mobile_sam(), moved=False)
    inputs = random_inputs(1)
    with torch.no_grad():
        whole = masks(model, pixel_values=inputs["pixel_values"])[:, 0]
        frames = torch.randn(1, 1, 24, 20)
        boxes = torch.tensor([[8.0, 16.0, 28.0, 40.0]])
        part = masks(model, pixel_values=inputs["pixel_values"], frames=frames, frame_boxes=boxes)[:, 0]
    torch.testing.assert_close(part, whole[..., 16:40, 8:28], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_frame_as_large_as_sams_masks_gets_its_part_when_prompted() -> None:
    model, pixel_values = adapted(small_mobile_sam()), random_inputs(1)["pixel_values"]
    inputs = {"pixel_values": pixel_values, "input_points": torch.tensor([[[[20.0, 24.0]]]])}
    whole = masks(model, **inputs)
    box = torch.tensor([[16.0, 24.0, 32.0, 40.0]])
    part = masks(model, **inputs, frames=torch.randn(1, 1, 16, 16), frame_boxes=box)
    torch.testing.assert_close(part, whole[..., 24:40, 16:32], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_disabled_adapter_is_the_base_bitwise_and_costs_nothing(base: nn.Module) -> None:
    inputs = random_inputs()
    base.requires_grad_(False)
    with operations() as own:
        expected = base(inputs["pixel_values"]).pred_masks
    model = adapted(base)
    assert not torch.equal(model(**inputs).pred_masks, expected)
    with model.disable_adapter(), operations() as disabled:
        actual = model(inputs["pixel_values"]).pred_masks
    assert torch.equal(actual, expected)
    assert disabled == own and len(own) > 100


def test_batch_equals_singles(base: nn.Module) -> None:
    model, inputs = adapted(base), random_inputs(3)
    inputs["frames"][1] *= 100
    with torch.no_grad():
        batch = masks(model, **inputs)
        singles = torch.cat([masks(model, **{k: v[i : i + 1] for k, v in inputs.items()}) for i in range(3)])
    assert_close(batch, singles)


@torch.no_grad()
def test_sdpa_equals_eager() -> None:
    models = [adapted(small_sam(attn_implementation=kind)) for kind in ("eager", "sdpa")]
    names = [type(m.get_base_model().vision_encoder.layers[0].attn).__name__ for m in models]
    assert names == ["SamVisionAttention", "SamVisionSdpaAttention"]
    assert_close(masks(models[1], **random_inputs()), masks(models[0], **random_inputs()))


@pytest.mark.parametrize("shape", [(1, 3, 48, 64), (1, 3, 96, 96), (1, 1, 64, 64)], ids=str)
def test_an_input_of_another_shape_is_refused(base: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"Input image size|The input is|channel"):
        masks(adapted(base), pixel_values=torch.zeros(shape))


def backward(model: nn.Module, inputs: dict[str, torch.Tensor]) -> list[str]:
    """A loss on masks and prior; the trainable tensors that got no gradient."""
    model.zero_grad()
    with record_router() as records:
        loss = (masks(model, **inputs).float() - 1).square().mean()
    (loss + records[0]["prior"].square().mean()).backward()
    assert all(p.grad is None or p.requires_grad for p in model.parameters())
    trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    assert all(p.grad.isfinite().all() for _, p in trainable if p.grad is not None)
    return [n for n, p in trainable if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_every_trainable_tensor_gets_a_gradient(base: nn.Module, training: bool) -> None:
    model = adapted(base)
    for module in model.modules():
        if isinstance(module, MaskLevel):
            module.train(training)
    assert not backward(model, random_inputs())


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_with_top_k_exactly_the_chosen_experts_learn(top_k: int) -> None:
    model = adapted(small_sam(), top_k=top_k, levels=["pixel", "mask"])
    with record_router() as records, torch.no_grad():
        masks(model, **random_inputs())
    chosen = records[0]["router_weights"].amax((0, 2, 3)) > 0
    asleep = backward(model, random_inputs())
    stem = model.get_submodule("base_model.model.mask_decoder.scalpel_moe_mask.default.full_resolution.before.0.0")
    by_expert = stem.weight.grad[:, 2:].split([len(scales) for scales in SCALES.values()], 1)  # after the frame, twice
    assert [bool(part.any()) for part in by_expert] == chosen.tolist()
    assert [int(name.rsplit(".")[-1]) for name in asleep] == (~chosen).nonzero().flatten().tolist()
    assert all(".scale_weights." in name for name in asleep)


def test_a_fresh_adapter_learns_everywhere_within_a_few_steps(base: nn.Module) -> None:
    """What comes last is zero at first, and so are the routers before it: they wake one after the other."""
    model = adapted(base, moved=False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    asleep = [set(backward(model, random_inputs(seed=0)))]
    assert any(".down." in name for name in asleep[0]) and not any(".up." in name for name in asleep[0])
    for seed in range(1, 4):
        optimizer.step()
        asleep.append(set(backward(model, random_inputs(seed=seed))))
    assert not set.intersection(*asleep[1:])


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(base: nn.Module, reentrant: bool) -> None:
    if not base.supports_gradient_checkpointing:
        pytest.skip(f"transformers has no checkpointing for {type(base).__name__}")
    # in float64: the gradient of a single weight is a sum over all pixels, whose order rounding depends on
    model, inputs = adapted(base).double(), {name: value.double() for name, value in random_inputs().items()}

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        masks(model, **inputs).square().mean().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    model.get_base_model().activation_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    ran: list[nn.Module] = []
    token = next(m for m in model.modules() if type(m).__name__ == "TokenAdapter")
    token.register_forward_pre_hook(lambda module, *_: ran.append(module))
    actual = gradients()
    assert len(ran) == 2  # once forward, once again on the way back
    assert expected.keys() == actual.keys()
    for name in expected:
        assert_close(actual[name], expected[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["sam-global-sdpa", "mobile-sam"])
def test_a_half_precision_base(name: str, dtype: torch.dtype) -> None:
    inputs = random_inputs()
    expected = masks(adapted(BASES[name]()), **inputs).float()
    model = adapted(BASES[name]().to(dtype))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    half = {k: v.to(dtype) if k != "frame_boxes" else v for k, v in inputs.items()}
    output = masks(model, **half)
    assert output.dtype == dtype
    assert F.cosine_similarity(output.float().flatten(), expected.flatten(), dim=0) > 0.95
    assert not backward(model, half)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_prompts_to_a_half_precision_base(base: nn.Module, dtype: torch.dtype) -> None:
    """SAM's own masks, put on the frame's grid with no position rounded."""
    model, inputs = adapted(base.to(dtype), levels=["pixel", "mask"]), random_inputs()
    prompt = {
        "pixel_values": inputs["pixel_values"].to(dtype),
        "input_points": torch.tensor([[[[20.0, 24.0]]]], dtype=dtype).expand(2, 1, 1, 2),
    }
    prompted = masks(model, **prompt, frames=inputs["frames"], frame_boxes=inputs["frame_boxes"])
    with model.disable_adapter():
        own = masks(model, **prompt)
    region = FrameRegion(inputs["frames"], inputs["frame_boxes"], SIZE)
    assert prompted.dtype == dtype and torch.equal(prompted, region.sample(own.float()).to(dtype))


@pytest.mark.parametrize(
    "prompt",
    [
        {"input_points": torch.tensor([[[[20.0, 24.0]]]])},
        {"input_boxes": torch.tensor([[[10.0, 12.0, 20.0, 30.0]]])},
        {"input_masks": torch.linspace(-5, 5, 256).reshape(1, 1, 16, 16)},
    ],
    ids=lambda prompt: next(iter(prompt)),
)
@torch.no_grad()
def test_sam_itself_answers_every_kind_of_prompt(prompt: dict[str, torch.Tensor]) -> None:
    peft_model, inputs = adapted(small_mobile_sam(), levels=["pixel", "mask"]), random_inputs(1)
    with peft_model.disable_adapter():
        own = masks(peft_model, pixel_values=inputs["pixel_values"], **prompt)
    expected = FrameRegion(inputs["frames"], inputs["frame_boxes"], SIZE).sample(own)
    assert_close(masks(peft_model, **inputs, **prompt), expected)
    standalone = ScalpelSamModel.from_peft(peft_model).eval()
    output = standalone(**inputs, **prompt, output_router=True)
    assert output.router_weights is None
    assert_close(output.pred_masks, expected)


def test_embeddings_first_and_prompts_later() -> None:
    model, inputs = adapted(small_sam()), random_inputs()
    with torch.no_grad():
        expected = masks(model, **inputs)
        embeddings = model.get_image_embeddings(**inputs)
        assert torch.equal(masks(model, image_embeddings=embeddings), expected)
        points = torch.tensor([[[[10.0, 12.0]], [[30.0, 40.0]]]]).expand(2, 2, 1, 2)  # two prompts an image
        prompted = masks(model, image_embeddings=embeddings, input_points=points)
        alone = [masks(model, image_embeddings=embeddings, input_points=points[:, i : i + 1]) for i in (0, 1)]
    assert prompted.shape == (2, 2, 1, 40, 48) and not torch.equal(alone[0], alone[1])
    assert_close(prompted, torch.cat(alone, 1))
    with pytest.raises(ValueError, match="link_frames"):
        masks(model, image_embeddings=embeddings.clone())
    copy = embeddings.clone()
    link_frames(copy, inputs["frames"], inputs["frame_boxes"], SIZE)
    with torch.no_grad():
        assert torch.equal(masks(model, image_embeddings=copy), expected)


def test_the_link_is_freed_with_the_embedding() -> None:
    model, inputs = adapted(small_sam()), random_inputs()
    frames = inputs["frames"].clone()
    embeddings = model.get_image_embeddings(inputs["pixel_values"], frames=frames, frame_boxes=inputs["frame_boxes"])
    gone = weakref.ref(frames)
    gc.collect()
    before = len(link._LINKS)
    del frames
    assert gone() is not None
    del embeddings
    gc.collect()
    assert gone() is None and len(link._LINKS) == before - 1


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_two_threads_share_a_model(training: bool) -> None:
    model = adapted(small_sam())
    inputs = [random_inputs(seed=s) for s in (1, 2)]
    parameters = [p for p in model.parameters() if p.requires_grad]

    def answer(k: int) -> list[torch.Tensor]:
        with torch.set_grad_enabled(training), record_router() as records:
            output = masks(model, **inputs[k])
        assert len(records) == 1
        if not training:
            return [output]
        return [output, *torch.autograd.grad(output.square().mean(), parameters, allow_unused=True)]

    expected = [answer(0), answer(1)]
    failures: list[str] = []

    def work(k: int) -> None:
        try:
            for _ in range(10):
                assert all(torch.equal(a, e) for a, e in zip(answer(k), expected[k], strict=True) if e is not None)
        except Exception as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
@torch.no_grad()
def test_router_outputs(top_k: int) -> None:
    model, inputs = adapted(small_sam(), top_k=top_k), random_inputs()
    with record_router() as records:
        output = masks(model, **inputs)
    record = records[0]
    assert record["router_weights"].shape == (2, 4, 40, 48) and record["prior_maps"].shape == (2, 8, 40, 48)
    assert ((record["router_weights"] > 0).sum(1) == top_k).all() and (record["router_weights"].sum(1) <= 1.00001).all()
    torch.testing.assert_close(record["image_weights"].sum(1), torch.ones(2))
    assert torch.equal(record["logits"], output[:, 0])


@torch.no_grad()
def test_without_routers_the_experts_weigh_alike() -> None:
    model = adapted(small_sam(), routers=False)
    assert not any("router" in name for name, _ in model.named_parameters())
    with record_router() as records:
        masks(model, **random_inputs())
    assert (records[0]["router_weights"] == 0.25).all() and records[0]["prior"].std() > 0
    torch.testing.assert_close(records[0]["image_weights"], torch.full((2, 4), 0.25))


@torch.no_grad()
def test_without_sam_features_the_answer_is_the_frames_alone() -> None:
    model, inputs = adapted(small_sam(), sam_features=False, levels=["pixel", "mask"]), random_inputs()
    expected = masks(model, **inputs)
    perturb_base = model.get_base_model().vision_encoder.patch_embed
    perturb_base.requires_grad_(True)
    perturb(perturb_base)
    assert torch.equal(masks(model, **inputs), expected) and expected.std() > 0
    inputs["frames"] = inputs["frames"].flip(-1)
    assert not torch.equal(masks(model, **inputs), expected)


@torch.no_grad()
def test_without_operators_and_without_mask_level() -> None:
    inputs = random_inputs()
    plain = adapted(small_sam(), scales={}, levels=["token", "mask"])
    with record_router() as records:
        masks(plain, **inputs)
    assert list(records[0]) == ["logits"]
    token = adapted(small_sam(), levels=["token"])
    assert masks(token, **inputs).shape == (2, 1, 1, SIZE // 4, SIZE // 4)  # SAM's own masks, on its own grid
    assert not torch.equal(masks(token, **inputs), masks(small_sam(), pixel_values=inputs["pixel_values"]))
