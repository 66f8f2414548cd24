import gc
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from peft import AutoPeftModel, LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import safe_open
from torch import nn
from transformers import AutoModel

from scalpel_hf import ScalpelMoeConfig, link_frames, record_router
from scalpel_hf.adapter import link
from tests.small_models import SIZE, perturb, random_inputs, small_mobile_sam, small_sam

BASES = {
    "sam-windowed-sdpa": lambda: small_sam(()),
    "sam-global-sdpa": lambda: small_sam((0, 1, 2)),
    "sam-eager": lambda: small_sam(attn_implementation="eager"),
    "mobile-sam": small_mobile_sam,
}
SCALES = {"local_contrast": [3, 5], "top_hat": [2, 4], "matched_filter": [1, 2], "anisotropic_diffusion": [1, 2]}


@pytest.fixture(params=BASES, ids=list(BASES))
def base(request: pytest.FixtureRequest) -> nn.Module:
    return BASES[request.param]()


def adapted(base: nn.Module, moved: bool = True, **kwargs: object) -> PeftModel:
    model = get_peft_model(base, ScalpelMoeConfig(scales=SCALES, bottleneck=8, **kwargs)).eval()
    if moved:
        perturb(model)
    return model


def masks(model: nn.Module, **inputs: object) -> torch.Tensor:
    return model(**inputs, multimask_output=False).pred_masks


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


def test_a_frame_that_covers_part_of_the_input_gets_that_part_of_the_masks() -> None:
    model = adapted(small_mobile_sam(), moved=False)
    inputs = random_inputs(1)
    with torch.no_grad():
        whole = masks(model, pixel_values=inputs["pixel_values"])[:, 0]
        frames = torch.randn(1, 1, 24, 20)
        boxes = torch.tensor([[8.0, 16.0, 28.0, 40.0]])
        part = masks(model, pixel_values=inputs["pixel_values"], frames=frames, frame_boxes=boxes)[:, 0]
    torch.testing.assert_close(part, whole[..., 16:40, 8:28], rtol=1e-4, atol=1e-5)


def test_disabled_adapter_is_the_base_bitwise(base: nn.Module) -> None:
    inputs = random_inputs()
    with torch.no_grad():
        expected = base(inputs["pixel_values"]).pred_masks
        model = adapted(base)
        assert not torch.equal(model(**inputs).pred_masks, expected)
        with model.disable_adapter():
            actual = model(**inputs).pred_masks
    assert torch.equal(actual, expected)


def test_batch_equals_singles(base: nn.Module) -> None:
    model, inputs = adapted(base), random_inputs(3)
    with torch.no_grad():
        batch = masks(model, **inputs)
        singles = torch.cat([masks(model, **{k: v[i : i + 1] for k, v in inputs.items()}) for i in range(3)])
    torch.testing.assert_close(batch, singles, rtol=1e-4, atol=1e-4)


def test_every_trainable_tensor_gets_a_gradient(base: nn.Module) -> None:
    model, inputs = adapted(base), random_inputs()
    with record_router() as records:
        loss = masks(model, **inputs).square().mean()
    (loss + records[0]["prior"].square().mean()).backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not without
    assert all(p.grad is None for n, p in model.named_parameters() if not p.requires_grad)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_gives_the_same_gradients(base: nn.Module, reentrant: bool) -> None:
    model, inputs = adapted(base), random_inputs()

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        masks(model, **inputs).square().mean().backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    expected = gradients()
    model.get_base_model().gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    actual = gradients()
    assert expected.keys() == actual.keys()
    for name in expected:
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(actual[name], expected[name], rtol=0, atol=1e-5 * scale)


def test_save_and_load_under_another_name(base: nn.Module, tmp_path) -> None:
    model, inputs = adapted(base), random_inputs()
    expected = masks(model, **inputs)
    model.save_pretrained(str(tmp_path))
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        keys = set(file.keys())
    trained = sum(p.requires_grad for p in model.parameters())
    assert len(keys) == trained and not any("default" in k or "vision_encoder.patch_embed" in k for k in keys)
    fresh = model.unload()
    again = PeftModel.from_pretrained(fresh, str(tmp_path), adapter_name="night").eval()
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        for name, value in again.state_dict().items():
            if ".night." in name:
                assert torch.equal(value, file.get_tensor(name.replace(".night.", ".")))
    torch.testing.assert_close(masks(again, **inputs), expected, rtol=1e-5, atol=1e-3)  # sdpa's own rounding varies
    assert isinstance(PeftConfig.from_pretrained(str(tmp_path)), ScalpelMoeConfig)


def test_unload_gives_the_base_back(base: nn.Module) -> None:
    inputs = random_inputs()
    with torch.no_grad():
        expected = base(inputs["pixel_values"]).pred_masks
        keys = set(base.state_dict())
        unloaded = adapted(base).unload()
        assert torch.equal(unloaded(inputs["pixel_values"]).pred_masks, expected)
    assert set(unloaded.state_dict()) == keys
    assert not unloaded.vision_encoder._forward_hooks
    assert not unloaded.mask_decoder.upscale_conv2._forward_hooks


def test_loading_by_the_auto_classes(tmp_path) -> None:
    small_mobile_sam().save_pretrained(str(tmp_path / "base"))
    base = AutoModel.from_pretrained(str(tmp_path / "base"))
    model, inputs = adapted(base), random_inputs()
    expected = masks(model, **inputs)
    model.save_pretrained(str(tmp_path / "adapter"))
    auto = AutoPeftModel.from_pretrained(str(tmp_path / "adapter"), import_allowlist=["scalpel_hf"]).eval()
    assert torch.equal(masks(auto, **inputs), expected)
    assert torch.equal(masks(AutoModel.from_pretrained(str(tmp_path / "adapter")).eval(), **inputs), expected)


def test_missing_and_surplus_keys_are_not_silent(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    adapted(small_sam()).save_pretrained(str(tmp_path))
    weights = load_file(tmp_path / "adapter_model.safetensors")
    name = sorted(weights)[0]
    save_file({k: v for k, v in weights.items() if k != name}, tmp_path / "adapter_model.safetensors")
    with pytest.warns(UserWarning, match="missing"):
        PeftModel.from_pretrained(small_sam(), str(tmp_path))


def test_two_adapters_switch_and_delete() -> None:
    inputs, model = random_inputs(), adapted(small_sam())
    first = masks(model, **inputs)
    model.add_adapter("second", ScalpelMoeConfig(scales={"top_hat": [3]}, levels=["pixel", "mask"]))
    assert torch.equal(masks(model, **inputs), first)
    model.set_adapter("second")
    second = masks(model, **inputs)
    assert not torch.equal(second, first)
    model.set_adapter("default")
    assert torch.equal(masks(model, **inputs), first)
    model.delete_adapter("second")
    assert torch.equal(masks(model, **inputs), first)
    assert not any("second" in n for n, _ in model.named_parameters())


def test_merging_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="can't be merged"):
        adapted(small_sam()).merge_and_unload()
    with pytest.raises(ValueError, match="can't be merged"):
        adapted(small_sam()).merge_adapter()


def test_bfloat16_base() -> None:
    inputs = random_inputs()
    model = adapted(small_sam().to(torch.bfloat16))
    trained = {p.dtype for p in model.parameters() if p.requires_grad}
    output = masks(model, **{k: v.to(torch.bfloat16) if k != "frame_boxes" else v for k, v in inputs.items()})
    assert trained == {torch.float32} and output.dtype == torch.bfloat16 and torch.isfinite(output).all()


def test_embeddings_first_and_prompts_later() -> None:
    model, inputs = adapted(small_sam()), random_inputs()
    with torch.no_grad():
        expected = masks(model, **inputs)
        embeddings = model.get_image_embeddings(**inputs)
        assert torch.equal(masks(model, image_embeddings=embeddings), expected)
        points = torch.tensor([[[[10.0, 12.0]], [[30.0, 40.0]]]]).expand(2, 2, 1, 2)  # two prompts an image
        prompted = masks(model, image_embeddings=embeddings, input_points=points)
    assert prompted.shape == (2, 2, 1, 40, 48)
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


def test_two_threads_share_a_model() -> None:
    model = adapted(small_sam())
    inputs = [random_inputs(seed=s) for s in (1, 2)]
    with torch.no_grad():
        expected = [masks(model, **i) for i in inputs]
    failures: list[int] = []

    def work(k: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                with record_router() as records:
                    same = torch.equal(masks(model, **inputs[k]), expected[k])
                if not same or len(records) != 1:
                    failures.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_router_outputs() -> None:
    model, inputs = adapted(small_sam(), top_k=2), random_inputs()
    with record_router() as records, torch.no_grad():
        output = masks(model, **inputs)
    record = records[0]
    assert record["router_weights"].shape == (2, 4, 40, 48) and record["prior_maps"].shape == (2, 8, 40, 48)
    assert ((record["router_weights"] > 0).sum(1) <= 2).all() and (record["router_weights"].sum(1) <= 1.00001).all()
    torch.testing.assert_close(record["image_weights"].sum(1), torch.ones(2))
    assert torch.equal(record["logits"], output[:, 0])


def test_default_adapter_is_small_on_vit_b() -> None:
    from transformers import SamConfig, SamModel

    with torch.device("meta"):
        base = SamModel(SamConfig())
    total = sum(p.numel() for p in base.parameters())
    model = get_peft_model(base, ScalpelMoeConfig(), low_cpu_mem_usage=True)
    trainable, _ = model.get_nb_trainable_parameters()
    assert trainable <= 0.012 * total


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"scales": {"laplace": [1]}}, "unknown operators"),
        ({"scales": {"top_hat": []}}, "non-empty"),
        ({"scales": {"top_hat": [-1]}}, "positive"),
        ({"levels": ["pixels"]}, "levels"),
        ({"levels": ["pixel", "token"]}, "mask"),
        ({"blocks": 0}, "blocks"),
        ({"channels": 12}, "multiple of 8"),
        ({"top_k": 5}, "top_k"),
        ({"temperature": 0.0}, "temperature"),
        ({"mask_grid": "fine"}, "mask_grid"),
    ],
)
def test_wrong_values_are_errors_at_construction(kwargs: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ScalpelMoeConfig(**kwargs)


def test_wrong_bases_and_blocks_are_errors_at_injection() -> None:
    with pytest.raises(ValueError, match="Segment Anything"):
        get_peft_model(nn.Sequential(nn.Linear(2, 2)), ScalpelMoeConfig())
    with pytest.raises(ValueError, match="last 9 of 3"):
        adapted(small_sam(), blocks=9)
    with pytest.raises(ValueError, match="matches none"):
        adapted(small_sam(), blocks="layers.7.*")
    assert adapted(small_sam(), blocks=["layers.0"]).targeted_module_names[0] == "vision_encoder.layers.0.mlp"


def test_lora_as_a_second_adapter_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="LORA"):
        adapted(small_sam()).add_adapter("low_rank", LoraConfig(target_modules=["qkv"]))
