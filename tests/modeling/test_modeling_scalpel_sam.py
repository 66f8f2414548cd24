"""The stand-alone teacher against the adapter on its base, whose predictions it must give."""

import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from scipy import ndimage
from torch import nn
from transformers import AutoModel, AutoModelForMaskGeneration

from scalpel_hf import ScalpelMoeConfig, ScalpelSamConfig, ScalpelSamModel, record_router
from scalpel_hf.modeling.configuration_experts import ExpertsConfig
from tests.small_models import SIZE, perturb, random_inputs, small_mobile_sam, small_sam

BASES: dict[str, Callable[[], nn.Module]] = {
    "sam-windowed": lambda: small_sam(()),
    "sam-global": lambda: small_sam((0, 1, 2)),
    "sam-eager": lambda: small_sam(attn_implementation="eager"),
    "mobile-sam": small_mobile_sam,
}
PROMPTS: dict[str, dict[str, torch.Tensor]] = {
    "none": {},
    "points": {"input_points": torch.tensor([[[[10.0, 12.0]], [[30.0, 40.0]]]]).expand(2, 2, 1, 2)},
    "boxes": {"input_boxes": torch.tensor([[[10.0, 12.0, 20.0, 30.0]]]).expand(2, 1, 4)},
    "mask": {"input_masks": torch.linspace(-5, 5, 512).reshape(2, 1, 16, 16)},
}
SCALES = {"local_contrast": [3, 5], "top_hat": [2, 4], "matched_filter": [1, 2], "anisotropic_diffusion": [1, 2]}


def adapted(base: nn.Module, moved: bool = True, **kwargs: object) -> PeftModel:
    settings = {"scales": SCALES, "bottleneck": 8, "channels": 8, **kwargs}
    model = get_peft_model(base, ScalpelMoeConfig(**settings)).eval()
    if moved:
        perturb(model)
    return model


def assert_same(peft_model: PeftModel, model: ScalpelSamModel, **inputs: object) -> None:
    with torch.no_grad():
        expected, actual = peft_model(**inputs), model(**inputs)
    assert expected.pred_masks.std() > 1e-3
    torch.testing.assert_close(actual.pred_masks, expected.pred_masks, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(actual.iou_scores, expected.iou_scores, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("base", BASES)
def test_the_answers_are_the_adapters(base: str) -> None:
    peft_model, inputs = adapted(BASES[base]()), random_inputs()
    model = ScalpelSamModel.from_peft(peft_model)
    assert not model.training and model.config._attn_implementation == ("eager" if base == "sam-eager" else "sdpa")
    for prompts in PROMPTS.values():
        for multimask_output in (False, True):
            assert_same(peft_model, model, **inputs, **prompts, multimask_output=multimask_output)
    assert_same(peft_model, model, pixel_values=inputs["pixel_values"], multimask_output=False)  # its own frame
    with peft_model.disable_adapter(), torch.no_grad():  # and they are not those of the base alone
        prompt_free = peft_model(inputs["pixel_values"], multimask_output=False).pred_masks
    assert model(inputs["pixel_values"]).pred_masks.shape != prompt_free.shape
    with torch.no_grad():
        for part in ("adapter", "mask_level.head"):  # nor without any of what was added
            before = model(**inputs).pred_masks
            for parameter in (p for name, p in model.named_parameters() if part in name):
                parameter.zero_()
            assert (model(**inputs).pred_masks - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    "settings",
    [
        {"levels": ["token"]},
        {"levels": ["mask"]},
        {"levels": ["pixel", "mask"], "scales": {"top_hat": [3]}, "top_k": 1},
        {"levels": ["token", "mask"], "blocks": ["layers.0"], "bottleneck": 8},
        {"mask_grid": "base", "top_k": 2},
        {"routers": False},
        {"sam_features": False, "levels": ["pixel", "mask"]},
        {"full_resolution_channels": 0},
        {"consensus_gate": {"threshold": 2.5}},
        {"consensus_gate": {"share": 0.4, "noise_floor": 0.5}},
        {"levels": ["token", "mask"], "scales": {}},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_every_setting_is_kept(settings: dict) -> None:
    peft_model = adapted(small_sam(), **settings)
    model = ScalpelSamModel.from_peft(peft_model)
    for prompts in PROMPTS.values():
        assert_same(peft_model, model, **random_inputs(), **prompts, multimask_output=False)


def test_no_setting_of_the_adapter_is_forgotten() -> None:
    experts = {f.name for f in fields(ExpertsConfig)}
    own = {f.name for f in fields(ScalpelMoeConfig)} - {f.name for f in fields(PeftConfig)}
    assert own - experts == {"blocks", "mask_grid", "target_modules", "exclude_modules", "modules_to_save"}
    defaults, standalone = ScalpelMoeConfig(), ScalpelSamConfig()
    assert all(getattr(standalone, name) == getattr(defaults, name) for name in experts | {"mask_grid"})


def test_the_active_adapter_and_the_modules_trained_besides() -> None:
    peft_model = adapted(small_mobile_sam(), modules_to_save=["neck"])
    peft_model.add_adapter("night", ScalpelMoeConfig(scales={"top_hat": [3]}, channels=8, levels=["pixel", "mask"]))
    for name in ("default", "night"):
        peft_model.set_adapter(name)
        perturb(peft_model.eval())
        assert_same(peft_model, ScalpelSamModel.from_peft(peft_model), **random_inputs(), multimask_output=False)


def test_weights_in_another_memory_layout() -> None:
    peft_model = adapted(small_mobile_sam())
    expected = ScalpelSamModel.from_peft(peft_model).state_dict()
    actual = ScalpelSamModel.from_peft(peft_model.to(memory_format=torch.channels_last)).state_dict()
    assert actual.keys() == expected.keys() and all(torch.equal(actual[name], expected[name]) for name in expected)


def test_weights_are_copied() -> None:
    peft_model, inputs = adapted(small_sam()), random_inputs()
    model = ScalpelSamModel.from_peft(peft_model)
    with torch.no_grad():
        expected = model(**inputs).pred_masks
        for parameter in peft_model.parameters():
            parameter.add_(1)
        assert torch.equal(model(**inputs).pred_masks, expected)


def test_the_real_weights(shared_dir: Path) -> None:
    from scalpel_hf import InfraredImageProcessor, MobileSamConfig, MobileSamModel
    from scalpel_hf.cli.convert_mobile_sam import convert_state_dict, load_checkpoint
    from scalpel_hf.modeling.normalization import read_frame

    base = MobileSamModel(MobileSamConfig(image_size=256)).eval()
    base.load_state_dict(convert_state_dict(load_checkpoint(shared_dir / "weights" / "mobile_sam.pt"), base))
    peft_model = get_peft_model(base, ScalpelMoeConfig()).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in (p for p in peft_model.parameters() if p.requires_grad):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    frame = read_frame(shared_dir / "data" / "NUAA-SIRST" / "images" / "Misc_1.png")
    inputs = InfraredImageProcessor(sam_size=256)(frame, return_tensors="pt")
    inputs = {key: inputs[key] for key in ("pixel_values", "frames", "frame_boxes")}
    assert_same(peft_model, ScalpelSamModel.from_peft(peft_model), **inputs, multimask_output=False)


@pytest.mark.parametrize("base", ["sam-global", "mobile-sam"])
def test_saved_and_loaded_it_is_the_same(base: str, tmp_path: Path) -> None:
    model, inputs = ScalpelSamModel.from_peft(adapted(BASES[base]())), random_inputs()
    model.save_pretrained(tmp_path)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    for auto_class in (AutoModel, AutoModelForMaskGeneration):
        loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is ScalpelSamModel and not any(info[k] for k in ("missing_keys", "unexpected_keys"))
        for name, tensor in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], tensor), name
        with torch.no_grad():
            torch.testing.assert_close(loaded(**inputs).pred_masks, model(**inputs).pred_masks, rtol=0, atol=1e-5)
    assert list(loaded.config.scales) == list(SCALES)


def test_other_input_sizes(tmp_path: Path) -> None:
    ScalpelSamModel.from_peft(adapted(small_mobile_sam())).save_pretrained(tmp_path / "mobile")
    larger = AutoModel.from_pretrained(tmp_path / "mobile", image_size=2 * SIZE)
    assert larger(torch.randn(1, 3, 2 * SIZE, 2 * SIZE)).pred_masks.shape[-2:] == (2 * SIZE, 2 * SIZE)
    ScalpelSamModel.from_peft(adapted(small_sam())).save_pretrained(tmp_path / "sam")
    with pytest.raises(ValueError, match="load_sam"):
        AutoModel.from_pretrained(tmp_path / "sam", image_size=2 * SIZE)


def test_where_a_base_came_from_is_not_in_the_configuration(tmp_path: Path) -> None:
    small_mobile_sam().save_pretrained(tmp_path / "base")
    peft_model = adapted(AutoModel.from_pretrained(tmp_path / "base"))
    ScalpelSamModel.from_peft(peft_model).save_pretrained(tmp_path / "model")
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()


def test_a_bfloat16_base_keeps_its_experts_in_float32(tmp_path: Path) -> None:
    peft_model = adapted(small_sam().to(torch.bfloat16))
    model = ScalpelSamModel.from_peft(peft_model)
    inputs = random_inputs()
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(model(**inputs).pred_masks, peft_model(**inputs, multimask_output=False).pred_masks)
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    for name, parameter in loaded.named_parameters():
        kept = name.startswith("mask_level.") or ".adapter." in name
        assert parameter.dtype == (torch.float32 if kept else torch.bfloat16), name
    statistics = [name for name, _ in loaded.named_buffers() if ".running_" in name]
    assert len(statistics) > 20
    for name in statistics:
        buffer, expected = loaded.get_buffer(name), peft_model.get_buffer(adapters_name(name))
        assert buffer.dtype == torch.float32 and torch.equal(buffer, expected), name


def adapters_name(name: str) -> str:
    return name.replace("mask_level.", "base_model.model.mask_decoder.scalpel_moe_mask.default.")


def test_embeddings_first_and_prompts_later() -> None:
    model, inputs = ScalpelSamModel.from_peft(adapted(small_sam())), random_inputs()
    beside = {"frames": inputs["frames"], "frame_boxes": inputs["frame_boxes"]}
    with torch.no_grad():
        first = model(**inputs)
        embeddings = model.get_image_embeddings(inputs["pixel_values"])
        assert torch.equal(first.image_embeddings, embeddings)
        assert torch.equal(model(image_embeddings=embeddings.clone(), **beside).pred_masks, first.pred_masks)
        prompted = model(image_embeddings=embeddings, **beside, **PROMPTS["points"])
        assert torch.equal(prompted.pred_masks, model(**inputs, **PROMPTS["points"]).pred_masks)
    for wrong, match in (
        ({}, "either"),
        ({**inputs, "image_embeddings": embeddings}, "either"),
        ({"image_embeddings": embeddings}, "frame_boxes"),
        ({**inputs, "frame_boxes": None}, "together"),
    ):
        with pytest.raises(ValueError, match=match):
            model(**wrong)


def test_the_routers_on_request() -> None:
    peft_model, inputs = adapted(small_sam()), random_inputs()
    model = ScalpelSamModel.from_peft(peft_model)
    with torch.no_grad(), record_router() as records:
        peft_model(**inputs, multimask_output=False)
        output = model(**inputs, output_router=True)
    for name in ("router_weights", "image_weights", "prior_maps", "prior"):
        torch.testing.assert_close(output[name], records[0][name], rtol=1e-5, atol=1e-5)
    assert output.router_weights.shape == (2, 4, 40, 48) and output.prior_maps.shape == (2, 8, 40, 48)
    assert set(model(**inputs)) == {"pred_masks", "iou_scores", "image_embeddings"}
    assert isinstance(model(**inputs, return_dict=False), tuple)


def test_the_loss_by_its_formula_and_its_gradients() -> None:
    model, inputs = ScalpelSamModel.from_peft(adapted(small_sam())), random_inputs()
    labels = (torch.rand(2, 40, 48, generator=torch.Generator().manual_seed(3)) > 0.8).float()
    labels[0, :5] = 255
    output = model(**inputs, labels=labels, output_router=True)
    z = output.pred_masks[:, 0, 0].detach().double().numpy()
    known, t = labels.numpy() != 255, labels.double().numpy()
    p = 1 / (1 + np.exp(-z[known]))
    bce = -np.mean(np.where(t[known] == 1, np.log(p), np.log1p(-p)))
    iou = (np.sum(p * t[known]) + 1) / (np.sum(p + t[known] - p * t[known]) + 1)
    prior, weight = output.prior[:, 0].detach().double().numpy(), known.astype(float)
    t = np.where(known, t, 0)
    explain = np.mean(weight * (np.log1p(np.exp(prior - 2)) - t * (prior - 2)))
    strongest = ndimage.maximum_filter(prior, (0, 5, 5), mode="constant", cval=-np.inf)
    silent = np.mean((1 - t) * weight / (1 + np.exp(-z)) / (1 + np.exp(strongest - 1)))
    share = output.router_weights.detach().double().sum((0, 2, 3)).numpy()
    balance = len(share) * np.sum((share / share.sum()) ** 2) - 1
    whole = 10 * bce + 1 - iou + 0.3 * (explain + silent) + 0.01 * balance
    assert output.loss.item() == pytest.approx(whole, rel=1e-5)
    output.loss.backward()
    added = {n: p.grad for n, p in model.named_parameters() if ".adapter." in n or "mask_level" in n}
    assert len(added) > 50 and all(gradient is not None and gradient.any() for gradient in added.values())
    with pytest.raises(ValueError, match=r"`labels` lie in \[0, 1\], or are 255"):
        model(**inputs, labels=labels * 128)
    with pytest.raises(ValueError, match="one mask a prompt"):
        model(**inputs, labels=labels, multimask_output=True)


@pytest.mark.parametrize("base", ["sam-windowed", "mobile-sam"])
def test_a_batch_is_its_frames(base: str) -> None:
    model, inputs = ScalpelSamModel.from_peft(adapted(BASES[base]())), random_inputs(3)
    with torch.no_grad():
        batch = model(**inputs).pred_masks
        singles = torch.cat([model(**{k: v[i : i + 1] for k, v in inputs.items()}).pred_masks for i in range(3)])
    torch.testing.assert_close(batch, singles, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("base", ["sam-global", "mobile-sam"])
def test_a_fresh_model_starts_as_a_fresh_adapter(base: str, tmp_path: Path) -> None:
    base_model, inputs = BASES[base](), random_inputs()
    torch.manual_seed(0)
    fresh = ScalpelSamModel(ScalpelSamConfig(base_config=base_model.config, scales=SCALES, blocks=2)).eval()
    missing, unexpected = fresh.load_state_dict(
        {n.replace(".mlp.", ".mlp.mlp.") if n_adapted(n, fresh) else n: v for n, v in base_model.state_dict().items()},
        strict=False,
    )
    assert not unexpected and all("adapter" in n or "mask_level" in n for n in missing)
    assert_same(adapted(base_model, moved=False), fresh, **inputs, multimask_output=False)
    like = adapted(BASES[base](), moved=False, bottleneck=16, channels=fresh.config.channels)
    like_fresh = ScalpelSamModel.from_peft(like)
    for name in missing:  # drawn from the same distributions: alike in spread, and zero where they are
        parameter, expected = fresh.state_dict()[name], like_fresh.state_dict()[name]
        assert parameter.any() == expected.any(), name
        if parameter.numel() >= 64:
            assert parameter.std().item() == pytest.approx(expected.std().item(), rel=0.3), name

    # what a checkpoint lacks is drawn, what it has is kept
    lost = (
        "adapter.down.weight",
        "mask_level.keep",
        "mask_level.head.weight",
        "mask_level.upscaled_entry.1.running_mean",
        "mask_level.embedding_entry.1.running_var",
        "mask_level.embedding_entry.1.num_batches_tracked",
        "mask_level.encoder.3.1.norm.weight",
        "position_router.hidden.weight",
        "raw_sigma",
    )
    state = {n: v for n, v in fresh.state_dict().items() if not n.endswith(lost)}
    assert len(fresh.state_dict()) - len(state) >= len(lost)
    loaded = ScalpelSamModel.from_pretrained(None, config=fresh.config, state_dict=state)
    for name, tensor in loaded.state_dict().items():
        if name in state:
            assert torch.equal(tensor, state[name]), name
        elif name.endswith(("head.weight", "raw_sigma", "running_mean", "num_batches_tracked")):
            assert not tensor.any()
        elif name.endswith(("running_var", "norm.weight")):
            assert (tensor == 1).all()
        else:
            assert torch.isfinite(tensor).all() and 0 < tensor.abs().mean() <= 1, name


def n_adapted(name: str, model: ScalpelSamModel) -> bool:
    return any(
        name.startswith(f"{n}.mlp.") for n, m in model.named_modules() if hasattr(getattr(m, "mlp", None), "adapter")
    )


class Prediction(nn.Module):
    """Tensors in, a tensor out."""

    def __init__(self, model: ScalpelSamModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, frames: torch.Tensor, frame_boxes: torch.Tensor) -> torch.Tensor:
        return self.model(pixel_values, frames=frames, frame_boxes=frame_boxes).pred_masks


@pytest.fixture(params=["sam-global", "mobile-sam"])
def prediction(request: pytest.FixtureRequest) -> Prediction:
    """Of few scales: tests/modeling/test_operators_export.py has the others."""
    scales = {"local_contrast": [3, 5], "top_hat": [2], "matched_filter": [1], "anisotropic_diffusion": [1]}
    return Prediction(ScalpelSamModel.from_peft(adapted(BASES[request.param](), scales=scales, top_k=2))).eval()


@torch.no_grad()
def assert_predictions(run: Callable[..., torch.Tensor], prediction: Prediction, **inputs: torch.Tensor) -> None:
    expected = prediction(**inputs)
    assert expected.std() > 1e-3
    actual = run(*inputs.values())
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_torch_export(prediction: Prediction) -> None:
    program = torch.export.export(prediction, tuple(random_inputs().values()))
    assert_predictions(program.module(), prediction, **random_inputs(seed=5))


def test_onnx_at_other_sizes_of_frames(prediction: Prediction, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    names = list(random_inputs())
    axes = {name: {0: "batch"} for name in names} | {"frames": {0: "batch", 2: "height", 3: "width"}}
    inputs = tuple(x.contiguous() for x in random_inputs().values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the legacy exporter warns of itself and of every size it reads
        path = str(tmp_path / "model.onnx")
        torch.onnx.export(
            prediction, inputs, path, dynamo=False, opset_version=18, input_names=names, dynamic_axes=axes
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*tensors: torch.Tensor) -> torch.Tensor:
        feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    for batch, size in ((2, (40, 48)), (1, (61, 33)), (3, (64, 80))):
        inputs = random_inputs(batch, seed=5)
        inputs["frames"] = torch.randn(batch, 1, *size, generator=torch.Generator().manual_seed(6))
        assert_predictions(run, prediction, **inputs)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
def test_torch_compile(prediction: Prediction) -> None:
    compiled = torch.compile(prediction)
    assert_predictions(compiled, prediction, **random_inputs(seed=5))


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    model, inputs = ScalpelSamModel.from_peft(adapted(small_sam())).train(), random_inputs()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(**inputs).pred_masks.square().mean().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=0, atol=1e-5 * gradient.abs().max().item())


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"scales": {"laplace": [1]}}, "laplace"),
        ({"scales": {"top_hat": [2], "laplace": [1]}}, "laplace"),
        ({"scales": {"top_hat": [0]}}, "positive"),
        ({"levels": ["pixel"]}, "levels"),
        ({"mask_grid": "fine"}, "mask_grid"),
        ({"consensus_gate": {"threshold": -1.0}}, "threshold"),
        ({"consensus_gate": {"threshold": float("nan")}}, "threshold"),
        ({"consensus_gate": {"threshold": 2.0}, "levels": ["mask"]}, "name `pixel` in `levels`"),
        ({"consensus_gate": {"share": 0.2}, "levels": ["mask"]}, "name `pixel` in `levels`"),
        ({"consensus_gate": {"share": 1.5}}, "share"),
        ({"consensus_gate": {"noise_floor": -1.0}}, "noise_floor"),
        ({"consensus_gate": {"bar": 1.0}}, "keys threshold, share, noise_floor"),
        ({"consensus_gate": 1.0}, "consensus_gate"),
        ({"base_config": {"model_type": "vit"}}, "vit"),
    ],
)
def test_wrong_settings_are_errors(settings: dict, match: str) -> None:
    with pytest.raises(Exception, match=match):
        ScalpelSamConfig(**settings)


def test_wrong_blocks_are_errors() -> None:
    for blocks in (9, 0, ["layers.7.mlp"]):
        with pytest.raises(ValueError, match="blocks"):
            ScalpelSamModel(ScalpelSamConfig(base_config=small_sam().config, blocks=blocks))


def test_neither_peft_nor_the_library_is_needed() -> None:
    code = """
import sys, types
package = types.ModuleType("alone"); package.__path__ = [sys.argv[1]]; sys.modules["alone"] = package
sys.modules["scalpel_hf"] = None
from alone.modeling_scalpel_sam import ScalpelSamModel
from alone.processing_scalpel_sam import ScalpelSamProcessor
assert "peft" not in sys.modules
"""
    folder = Path(__file__).parents[2] / "modeling"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
