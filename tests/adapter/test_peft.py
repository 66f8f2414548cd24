"""What PEFT, and transformers with it, promise of every adapter."""

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModel, LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMaskGeneration,
    Sam2VideoConfig,
    Sam2VideoModel,
    SamModel,
    SamVisionConfig,
    SamVisionModel,
    ViTConfig,
    ViTModel,
)

from scalpel_hf import ScalpelMoeConfig
from scalpel_hf.modeling import ScalpelSamConfig, ScalpelSamModel
from tests.adapter.adapted import SCALES, adapted, assert_close, masks, small_config
from tests.small_models import FAMILIES, SIZE, perturb, random_inputs, small_mobile_sam, small_sam

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """An adapter of `small_sam()`."""
    adapted(small_sam()).save_pretrained(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_save_and_load_under_another_name(base: nn.Module, tmp_path: Path) -> None:
    model, inputs = adapted(base), random_inputs()
    expected = masks(model, **inputs)
    model.save_pretrained(str(tmp_path))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["README.md", "adapter_config.json", WEIGHTS]
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        keys = set(file.keys())
    trained = sum(p.requires_grad for p in model.parameters())
    statistics = sum(".scalpel_moe_" in name for name, _ in model.named_buffers())
    assert len(keys) == trained + statistics and not any(
        "default" in k or "vision_encoder.patch_embed" in k for k in keys
    )
    fresh = model.unload()
    again = PeftModel.from_pretrained(fresh, str(tmp_path), adapter_name="night").eval()
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        for name, value in again.state_dict().items():
            if ".night." in name:
                assert torch.equal(value, file.get_tensor(name.replace(".night.", ".")))
    assert torch.equal(masks(again, **inputs), expected)


@pytest.mark.parametrize("levels", [["token"], ["mask"], ["pixel", "mask"], ["token", "mask"]], ids=" ".join)
def test_configuration_and_weights_survive_with_fewer_levels(tmp_path: Path, levels: list[str]) -> None:
    given = {"levels": levels, "top_k": 2, "routers": False}
    given["sam_features"] = {"token", "mask"} <= set(levels)
    model = adapted(small_sam(), scales={"matched_filter": [2], "local_contrast": [3]}, **given)
    model.save_pretrained(str(tmp_path))
    config = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(config, ScalpelMoeConfig) and {k: getattr(config, k) for k in given} == given
    assert list(config.scales) == ["local_contrast", "matched_filter"]  # in the order of the experts' weights
    again = PeftModel.from_pretrained(small_sam(), str(tmp_path), low_cpu_mem_usage=True).eval()
    assert torch.equal(masks(again, **random_inputs()), masks(model, **random_inputs()))


@torch.no_grad()
@pytest.mark.parametrize("gate", [{"threshold": 5.0}, {"share": 0.8}], ids=str)
def test_a_consensus_gate_lowers_masks_and_is_saved(gate: dict, tmp_path: Path) -> None:
    inputs = random_inputs()
    without, model = adapted(small_sam()), adapted(small_sam(), consensus_gate=gate)
    lost = masks(without, **inputs) - masks(model, **inputs)
    assert lost.min() >= 0 and lost.max() > 1 and not lost.isclose(lost.max()).all()
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(small_sam(), str(tmp_path)).eval()
    assert torch.equal(masks(again, **inputs), masks(model, **inputs))
    boxes = torch.tensor([[[10.0, 12.0, 20.0, 30.0]]]).expand(2, 1, 4)  # prompted, the answer is SAM's own
    assert torch.equal(masks(model, **inputs, input_boxes=boxes), masks(without, **inputs, input_boxes=boxes))


@pytest.mark.parametrize("family", FAMILIES)
def test_loading_by_the_auto_classes(family: str, tmp_path: Path) -> None:
    FAMILIES[family]().save_pretrained(str(tmp_path / "base"))
    model, inputs = adapted(AutoModelForMaskGeneration.from_pretrained(str(tmp_path / "base"))), random_inputs()
    expected = masks(model, **inputs)
    model.save_pretrained(str(tmp_path / "adapter"))
    auto = AutoPeftModel.from_pretrained(
        str(tmp_path / "adapter"), import_allowlist=["scalpel_hf", "transformers"]
    ).eval()
    assert torch.equal(masks(auto, **inputs), expected)
    assert torch.equal(masks(AutoModel.from_pretrained(str(tmp_path / "adapter")), **inputs), expected)


def test_print_trainable_parameters(capsys: pytest.CaptureFixture) -> None:
    model = adapted(small_sam())
    model.print_trainable_parameters()
    count = sum(p.numel() for n, p in model.named_parameters() if "scalpel_moe_" in n)
    assert f"trainable params: {count:,}" in capsys.readouterr().out


def test_a_copy_answers_as_its_model_and_leaves_that_as_it_is(base: nn.Module) -> None:
    model, inputs = adapted(base), random_inputs()
    expected = masks(model, **inputs)
    other = copy.deepcopy(model)
    assert torch.equal(masks(other, **inputs), expected)
    with other.disable_adapter():
        assert not torch.equal(other(**inputs).pred_masks, expected)
    assert torch.equal(masks(model, **inputs), expected)


def experts(model: nn.Module) -> list[nn.Module]:
    return [module for name, module in model.named_modules() if re.search(r"\.scalpel_moe_\w+\.", name)]


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_a_new_adapter_is_in_the_mode_of_its_base(training: bool) -> None:
    """Else its batch norms would use the batch, under a base that `from_pretrained` has put into evaluation mode."""
    model = get_peft_model(small_sam().train(training), small_config())
    model.add_adapter("second", small_config())
    assert {module.training for module in experts(model)} == {training}
    base = small_sam().train(training)
    base.add_adapter(small_config())
    assert {module.training for module in experts(base)} == {training}


def test_an_adapter_is_where_its_base_is() -> None:
    with torch.device("meta"):
        base = SamModel(small_sam().config)
    model = get_peft_model(base, small_config())
    assert {t.device.type for t in (*model.parameters(), *model.buffers())} == {"meta"}


def test_a_saved_adapter_is_trained_further(saved: Path) -> None:
    model, inputs = PeftModel.from_pretrained(small_sam(), str(saved), is_trainable=True), random_inputs()
    assert torch.equal(masks(model.eval(), **inputs), masks(adapted(small_sam()), **inputs))
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {name for name, _ in model.named_parameters() if ".scalpel_moe_" in name}
    with torch.enable_grad():
        masks(model, **inputs).square().mean().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.parameters())
    frozen = PeftModel.from_pretrained(small_sam(), str(saved))
    assert not any(p.requires_grad for n, p in frozen.named_parameters() if ".scalpel_moe_" in n)
    assert not any(module.training for module in frozen.modules())


def test_unload_gives_the_base_back(base: nn.Module) -> None:
    inputs = random_inputs()
    expected = base(inputs["pixel_values"]).pred_masks
    keys = set(base.state_dict())
    unloaded = adapted(base).unload()
    assert torch.equal(unloaded(inputs["pixel_values"]).pred_masks, expected)
    assert set(unloaded.state_dict()) == keys
    hooked = [n for n, m in unloaded.named_modules() if m._forward_hooks or m._load_state_dict_pre_hooks]
    assert not hooked and not hasattr(unloaded, "_scalpel_hooks")
    again = adapted(unloaded, levels=["token"]).unload()  # with no mask level there is no link to take back
    assert torch.equal(again(inputs["pixel_values"]).pred_masks, expected)


def test_merging_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="can't be merged"):
        adapted(small_sam()).merge_and_unload()
    with pytest.raises(ValueError, match="can't be merged"):
        adapted(small_sam()).merge_adapter()


def test_adapters_are_added_switched_and_deleted() -> None:
    inputs, model = random_inputs(), adapted(small_sam())
    first = masks(model, **inputs)
    model.add_adapter("second", small_config(levels=["pixel", "mask"], mask_grid="base"))
    model.add_adapter("third", small_config())
    assert torch.equal(masks(model, **inputs), first)
    tokens = {name: getattr(module, "scalpel_moe_token", None) for name, module in model.named_modules()}
    assert {n for n, t in tokens.items() if t and "third" in t} == {n for n, t in tokens.items() if t} != set()
    model.set_adapter("second")
    second = masks(model, **inputs)
    assert second.shape[-2:] == (16, 16)
    model.set_adapter("default")
    model.delete_adapter("second")
    assert torch.equal(masks(model, **inputs), first)
    assert not any("second" in n for n, _ in model.named_parameters())
    model.add_adapter("second", small_config(levels=["pixel", "mask"]))
    model.set_adapter("second")
    assert masks(model, **inputs).shape[-2:] == (40, 48)
    model.base_model.set_adapter(["second", "third"])
    with pytest.raises(ValueError, match="only one Scalpel adapter can be active"):
        masks(model, **inputs)


# --- modules_to_save --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["neck", "final_attn_token_to_image"])
def test_modules_to_save(name: str, tmp_path: Path) -> None:
    inputs, model = random_inputs(), adapted(small_sam(), modules_to_save=[name])
    expected = masks(model, **inputs)
    model.save_pretrained(str(tmp_path))
    copied = {k for k in load_file(tmp_path / WEIGHTS) if "scalpel_moe_" not in k}
    assert copied and all(name in k for k in copied)
    again = PeftModel.from_pretrained(small_sam(), str(tmp_path), adapter_name="night").eval()
    assert torch.equal(masks(again, **inputs), expected)
    with model.disable_adapter():
        own = model(inputs["pixel_values"]).pred_masks
    assert torch.equal(own, small_sam()(inputs["pixel_values"]).pred_masks)
    unloaded = model.unload()  # what was trained of the base stays trained, as in all of peft
    assert set(unloaded.state_dict()) == set(small_sam().state_dict())
    assert not torch.equal(unloaded(inputs["pixel_values"]).pred_masks, own)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mask_decoder", "is wrapped by the mask level"),
        ("upscale_conv2", "is wrapped by the mask level"),
        ("mask_decoder.transformer.final_attn_token_to_image", "without 'mask_decoder.'"),
        ("necks", "names no module of SamModel"),
    ],
)
def test_modules_that_peft_would_pass_over_are_an_error(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapted(small_sam(), modules_to_save=[name])


def test_the_whole_mask_decoder_is_trained_without_a_mask_level() -> None:
    model = adapted(small_sam(), levels=["token"], modules_to_save=["mask_decoder"])
    assert any("mask_decoder.modules_to_save" in n for n, p in model.named_parameters() if p.requires_grad)


# --- files that don't fit ---------------------------------------------------------------------------------------------


def changed(folder: Path, change) -> str:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)
    return str(folder)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_missing_key_is_not_silent(saved: Path, low_cpu_mem_usage: bool) -> None:
    folder = changed(saved, lambda weights: weights.pop(sorted(weights)[0]))
    with pytest.warns(UserWarning, match="missing adapter keys"):
        PeftModel.from_pretrained(small_sam(), folder, low_cpu_mem_usage=low_cpu_mem_usage)
    assert len(small_sam().load_adapter(folder).missing_keys) == 1  # and logged


@pytest.mark.parametrize(
    "surplus",
    ["mask_decoder.scalpel_moe_mask.stem.scale", "vision_encoder.layers.0.mlp.scalpel_moe_token.up.weight"],
)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_surplus_key_is_an_error(saved: Path, surplus: str, low_cpu_mem_usage: bool) -> None:
    folder = changed(saved, lambda weights: weights.update({f"base_model.model.{surplus}": torch.zeros(3)}))
    with pytest.raises(RuntimeError, match=r"1 weights of an adapter don't fit this model"):
        PeftModel.from_pretrained(small_sam(), folder, low_cpu_mem_usage=low_cpu_mem_usage)
    assert len(small_sam().load_adapter(folder).unexpected_keys) == 1  # and logged


def test_a_wrong_shape_is_an_error(saved: Path) -> None:
    folder = changed(saved, lambda weights: weights.update({sorted(weights)[0]: torch.zeros(7, 7)}))
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(small_sam(), folder)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        small_sam().load_adapter(folder)


def test_weights_of_another_configuration_are_an_error(saved: Path) -> None:
    config = json.loads((saved / "adapter_config.json").read_text())
    config["scales"].pop("top_hat")
    (saved / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(RuntimeError, match=r"size mismatch|have no place"):
        PeftModel.from_pretrained(small_sam(), str(saved))


@pytest.mark.parametrize("damage", [lambda b: b[:1000], lambda b: b[:-5], lambda b: b"\xff" * 8 + b[8:]])
def test_damaged_files_are_refused(saved: Path, damage) -> None:
    whole = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(damage(whole))
    with pytest.raises(Exception, match=r"[Ee]rror while deserializing|header"):
        PeftModel.from_pretrained(small_sam(), str(saved))


class Payload:
    ran = False

    def __reduce__(self):
        return setattr, (Payload, "ran", True)


def test_pickled_weights_are_not_run(saved: Path) -> None:
    (saved / WEIGHTS).unlink()
    torch.save(
        {"base_model.model.mask_decoder.scalpel_moe_mask.sam_logit_scale": Payload()}, saved / "adapter_model.bin"
    )
    with pytest.raises(Exception, match="Weights only load failed"):
        PeftModel.from_pretrained(small_sam(), str(saved))
    assert not Payload.ran


# --- in transformers, and LoRA beside it ------------------------------------------------------------------------------


def test_adapters_in_transformers(base: nn.Module, tmp_path: Path) -> None:
    inputs = random_inputs()
    own = base(inputs["pixel_values"]).pred_masks
    base.add_adapter(small_config(), "day")
    perturb(base.eval())
    expected = masks(base, **inputs)
    base.save_pretrained(str(tmp_path))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["adapter_config.json", WEIGHTS]
    base.disable_adapters()
    assert torch.equal(base(inputs["pixel_values"]).pred_masks, own)
    base.enable_adapters()
    base.load_adapter(str(tmp_path), "night")
    base.delete_adapter("day")
    base.set_adapter("night")
    assert torch.equal(masks(base.eval(), **inputs), expected)
    base.delete_adapter("night")
    assert torch.equal(base(inputs["pixel_values"]).pred_masks, own)
    assert torch.equal(masks(PeftModel.from_pretrained(base, str(tmp_path)).eval(), **inputs), expected)


def lora() -> LoraConfig:
    return LoraConfig(target_modules=["qkv"], init_lora_weights=False)


def lora_answers(model: SamModel) -> torch.Tensor:
    model.set_adapter("low-rank")
    return masks(model, pixel_values=random_inputs()["pixel_values"])


@pytest.mark.parametrize("first", ["lora", "scalpel"])
def test_lora_and_the_adapter_work_together(first: str, tmp_path: Path) -> None:
    """Through transformers: `add_adapter` twice, `set_adapter` with both names; each is saved and loaded alone."""
    model, inputs = small_sam(), random_inputs()
    own = masks(model, pixel_values=inputs["pixel_values"])
    for kind in sorted(("lora", "scalpel"), key=lambda kind: kind != first):
        config = lora() if kind == "lora" else small_config()
        model.add_adapter(config, "low-rank" if kind == "lora" else "experts")
    model.set_adapter("experts")
    perturb(model.eval())
    experts = masks(model, **inputs)
    low_rank = lora_answers(model)
    for names in (["low-rank", "experts"], ["experts", "low-rank"]):
        model.set_adapter(names)
        both = masks(model, **inputs)
        assert both.shape == experts.shape and low_rank.shape == own.shape
        assert not torch.equal(both, experts) and not torch.equal(low_rank, own)
        with torch.enable_grad():
            masks(model, **inputs).square().mean().backward()
        for part in ("lora_A", "lora_B", "scalpel_moe_token", "scalpel_moe_mask"):
            assert any(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if part in n)
    for name in ("low-rank", "experts"):
        model.set_adapter(name)
        model.save_pretrained(str(tmp_path / name))
    again = small_sam()
    for name in ("low-rank", "experts"):
        info = again.load_adapter(str(tmp_path / name), name)
        assert not info.missing_keys and not info.unexpected_keys
    again.set_adapter(["low-rank", "experts"])
    assert_close(masks(again.eval(), **inputs), both)


def test_lora_first_and_get_peft_model_second(tmp_path: Path) -> None:
    model, inputs = small_sam(), random_inputs()
    model.add_adapter(lora(), "low-rank")
    expected = model(inputs["pixel_values"]).pred_masks
    with pytest.warns(UserWarning, match="multiple adapters"):
        model = adapted(model, moved=False, mask_grid="base")
    assert torch.equal(model(inputs["pixel_values"]).pred_masks, expected)
    model.save_pretrained(str(tmp_path))
    assert (tmp_path / WEIGHTS).exists() and (tmp_path / "low-rank" / WEIGHTS).exists()
    assert not any("lora" in key for key in load_file(tmp_path / WEIGHTS))


@pytest.mark.parametrize("target", ["lin1", "q_proj"])
def test_lora_inside_an_adapted_module_is_a_clear_error(target: str) -> None:
    """In the MLPs of some blocks, in the mask decoder: around it and, which PEFT itself says nothing of, within."""
    first = small_sam()
    first.add_adapter(LoraConfig(target_modules=[target]), "low-rank")
    before = first.state_dict().keys()
    with pytest.raises(ValueError, match="has an adapter of another kind, and this one would be put around"):
        first.add_adapter(small_config(), "experts")
    with pytest.raises(ValueError, match="has an adapter of another kind"):
        first.add_adapter(small_config(target_modules=r"mask_decoder|vision_encoder\..*\.mlp"), "by-pattern")
    assert first.state_dict().keys() == before

    second, inputs = small_sam(), random_inputs()
    second.add_adapter(small_config(), "experts")
    masks(second, **inputs)
    second.add_adapter(LoraConfig(target_modules="all-linear"), "outside")  # which PEFT takes for what it can see
    masks(second, **inputs)
    second.add_adapter(LoraConfig(target_modules=[target, "qkv"]), "low-rank")
    with pytest.raises(ValueError, match=r"'low-rank' targets '.*', which PEFT skips"):
        masks(second, **inputs)


def test_lora_on_the_mlps_that_the_adapter_leaves_alone() -> None:
    model, inputs = small_sam(), random_inputs()
    model.add_adapter(small_config(blocks=1), "experts")
    lora_on_others = LoraConfig(target_modules=["lin1"], exclude_modules=r".*layers\.2\..*|mask_decoder.*")
    model.add_adapter(lora_on_others, "low-rank")
    masks(model, **inputs)
    assert [n for n, _ in model.named_modules() if n.endswith("lora_A")] == [
        f"vision_encoder.layers.{block}.mlp.lin1.lora_A" for block in (0, 1)
    ]


def test_what_peft_cannot_combine_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match=r"Cannot combine adapters with different peft types.*SCALPEL_MOE.*LORA"):
        adapted(small_sam()).add_adapter("low-rank", lora())
    with pytest.raises(ValueError, match="a PeftModel already"):
        get_peft_model(get_peft_model(small_sam(), lora()), small_config())
    with pytest.raises(ValueError, match="not compatible with the `PeftMixedModel`"):
        get_peft_model(small_sam(), small_config(), mixed=True)


# --- which modules ----------------------------------------------------------------------------------------------------


def token_blocks(model: PeftModel) -> list[str]:
    return [n.removeprefix("vision_encoder.") for n in sorted(model.targeted_module_names) if n != "mask_decoder"]


@pytest.mark.parametrize(
    ("make", "blocks", "expected"),
    [
        (small_sam, 2, ["layers.1.mlp", "layers.2.mlp"]),
        (small_sam, ["layers.0"], ["layers.0.mlp"]),
        (small_sam, ["layers.0.mlp", "vision_encoder.layers.2.mlp"], ["layers.0.mlp", "layers.2.mlp"]),
        (small_sam, r".*layers\.[02]\.mlp", ["layers.0.mlp", "layers.2.mlp"]),
        (small_mobile_sam, 1, ["layers.3.blocks.1.mlp"]),
        (small_mobile_sam, ["layers.1.blocks.0"], ["layers.1.blocks.0.mlp"]),
    ],
)
def test_blocks_by_number_name_and_pattern(make, blocks: object, expected: list[str]) -> None:
    assert token_blocks(adapted(make(), blocks=blocks)) == expected


def test_wrong_bases_and_blocks_are_errors_at_injection() -> None:
    with pytest.raises(ValueError, match="Segment Anything"):
        get_peft_model(nn.Sequential(nn.Linear(2, 2)), ScalpelMoeConfig())
    with pytest.raises(ValueError, match="last 9 of 3"):
        adapted(small_sam(), blocks=9)
    with pytest.raises(ValueError, match="matches none"):
        adapted(small_sam(), blocks="layers.7.*")
    with pytest.raises(ValueError, match=r"'layers.7' matches none"):
        adapted(small_sam(), blocks=["layers.0", "layers.7"])
    with pytest.raises(ValueError, match=r"qkv' can't be adapted"):
        adapted(small_sam(), target_modules=["qkv"])
    config = ScalpelMoeConfig(scales=SCALES)
    get_peft_model(small_sam(), config)
    with pytest.raises(ValueError, match="made for another base"):
        get_peft_model(small_mobile_sam(), config)


def test_sams_features_are_those_of_the_base_that_they_were_trained_on(tmp_path: Path) -> None:
    for reads in (True, False):
        config = ScalpelMoeConfig(levels=["pixel", "mask"], channels=8, sam_features=reads)
        get_peft_model(small_mobile_sam(), config).save_pretrained(str(tmp_path / str(reads)))
    PeftModel.from_pretrained(small_sam(), str(tmp_path / "False"))
    with pytest.raises(ValueError, match="reads the features of a MobileSamModel, and this is a SamModel"):
        PeftModel.from_pretrained(small_sam(), str(tmp_path / "True"))


def test_what_was_run_is_hashed_as_before() -> None:
    """`datasets` finds what it computed by the hash of the function, model included."""
    model = get_peft_model(small_mobile_sam(), ScalpelMoeConfig(levels=["mask"], channels=8)).eval()
    state = {name for module in model.modules() for name in vars(module)}
    model(torch.zeros(1, 3, SIZE, SIZE))
    assert {name for module in model.modules() for name in vars(module)} == state


def test_with_labels_tuples_are_tuples() -> None:
    model = get_peft_model(small_mobile_sam(), ScalpelMoeConfig(levels=["mask"], channels=8)).eval()
    inputs = {"pixel_values": torch.randn(1, 3, SIZE, SIZE), "labels": torch.zeros(1, SIZE, SIZE)}
    loss, masks, *_ = model(**inputs, return_dict=False)
    named = model(**inputs)
    assert torch.equal(loss, named.loss) and torch.equal(masks, named.pred_masks)


@pytest.mark.parametrize("excluded", [["layers.2.mlp"], r".*layers\.2\..*"])
def test_excluded_modules_are_left_as_they_are(excluded: list[str] | str) -> None:
    model = get_peft_model(small_sam(), ScalpelMoeConfig(levels=["token"], blocks=2, exclude_modules=excluded))
    adapted_in = {name.partition(".scalpel_")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert len(adapted_in) == 1 and "layers.1.mlp" in adapted_in.pop()


@pytest.mark.parametrize(
    ("kind", "config"), [(Sam2VideoModel, Sam2VideoConfig), (SamVisionModel, SamVisionConfig), (ViTModel, ViTConfig)]
)
def test_a_base_of_no_family_is_refused_when_wrapped(kind: type, config: type) -> None:
    with torch.device("meta"):
        model = kind(config())
    for wrap in (get_peft_model, lambda base, config: base.add_adapter(config)):
        with pytest.raises(ValueError, match=rf"\(SamModel, .*Sam3TrackerModel\), not {kind.__name__}"):
            wrap(model, ScalpelMoeConfig())


def test_a_stand_alone_teacher_is_adapted_already() -> None:
    model = ScalpelSamModel(ScalpelSamConfig(base_config=small_mobile_sam().config, blocks=1))
    with pytest.raises(ValueError, match="not ScalpelSamModel"):
        get_peft_model(model, ScalpelMoeConfig())
