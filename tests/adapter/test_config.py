"""The configuration by itself, and its defaults on the bases there are."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import SamConfig, SamModel, SamVisionConfig

from scalpel_hf import MobileSamConfig, MobileSamModel, ScalpelMoeConfig

VIT: dict[str, dict] = {
    "base": {},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "huge": {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16},
}


def with_defaults(base: torch.nn.Module) -> PeftModel:
    return get_peft_model(base, ScalpelMoeConfig(), low_cpu_mem_usage=True)


@pytest.mark.parametrize("size", VIT)
def test_the_defaults_are_right_for_every_vit(size: str) -> None:
    layers = {"large": [5, 11, 17, 23], "huge": [7, 15, 23, 31]}.get(size, [2, 5, 8, 11])
    config = SamConfig(vision_config=SamVisionConfig(**VIT[size], global_attn_indexes=layers))
    with torch.device("meta"):
        base = SamModel(config)
    total = sum(p.numel() for p in base.parameters())
    model = with_defaults(base)
    last = config.vision_config.num_hidden_layers - 1
    expected = {f"vision_encoder.layers.{i}.mlp" for i in (last - 1, last)} | {"mask_decoder"}
    assert set(model.targeted_module_names) == expected
    trainable, _ = model.get_nb_trainable_parameters()
    assert 0 < trainable <= 0.012 * total


def test_the_defaults_are_right_for_mobile_sam() -> None:
    with torch.device("meta"):
        base = MobileSamModel(MobileSamConfig())
    assert set(with_defaults(base).targeted_module_names) == {
        "vision_encoder.layers.3.blocks.0.mlp",
        "vision_encoder.layers.3.blocks.1.mlp",
        "mask_decoder",
    }


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"scales": {"laplace": [1]}}, "unknown operators"),
        ({"scales": ["top_hat"]}, "unknown operators"),
        ({"scales": {"top_hat": []}}, "non-empty"),
        ({"scales": {"top_hat": 2}}, "non-empty"),
        ({"scales": {"top_hat": [-1]}}, "positive"),
        ({"scales": {"top_hat": [float("nan")]}}, "positive"),
        ({"scales": {"top_hat": ["2"]}}, "positive"),
        ({"scales": {"top_hat": [0.5]}}, r"`scales\['top_hat'\]`: TopHat's scales are radii in pixels, at least 1"),
        ({"scales": {"local_contrast": [4]}}, r"`scales\['local_contrast'\]`: .* odd"),
        ({"scales": {"matched_filter": [0.2]}}, "greater than 0.25"),
        ({"scales": {"anisotropic_diffusion": [1.5]}}, "whole pixels"),
        ({"scales": {}}, "`scales` is empty"),
        ({"levels": ["pixels"]}, "levels"),
        ({"levels": []}, "levels"),
        ({"levels": 5}, "levels"),
        ({"levels": True}, "levels"),
        ({"modules_to_save": "neck"}, "`modules_to_save` must be a list of names"),
        ({"modules_to_save": [3]}, "`modules_to_save`"),
        ({"target_modules": 3}, "`target_modules` must be a list of names or a regular expression"),
        ({"levels": ["mask", "mask"]}, "each once"),
        ({"levels": ["pixel", "token"]}, "add `mask`, or remove `pixel`"),
        ({"blocks": 0}, "`blocks` must be a whole number of at least 1"),
        ({"blocks": 1.5}, "`blocks` must be a whole number"),
        ({"blocks": True}, "`blocks` must be a whole number"),
        ({"blocks": []}, "non-empty list of names"),
        ({"blocks": [1]}, "non-empty list of names"),
        ({"blocks": "layers.("}, "not a regular expression"),
        ({"bottleneck": 0}, "`bottleneck` must be a whole number"),
        ({"bottleneck": 8.0}, "`bottleneck` must be a whole number"),
        ({"channels": 0}, "`channels` must be a whole number"),
        ({"channels": 6}, "`channels` must be a multiple of 4, got 6"),
        ({"top_k": 5}, "`top_k` must be between 1 and 4"),
        ({"top_k": 0}, "`top_k` must be a whole number of at least 1"),
        ({"routers": 1}, "`routers` must be true or false"),
        ({"sam_features": None}, "`sam_features` must be true or false"),
        ({"mask_grid": "fine"}, "mask_grid"),
        ({"consensus_gate": {"threshold": -0.5}}, r"`consensus_gate\['threshold'\]` must be a number of at least 0"),
        ({"consensus_gate": {"threshold": float("nan")}}, r"'threshold'\]` must be a number of at least 0"),
        ({"consensus_gate": {"threshold": True}}, r"'threshold'\]` must be a number of at least 0"),
        ({"consensus_gate": {"threshold": 2.0}, "levels": ["mask"]}, "name `pixel` in `levels`"),
        ({"consensus_gate": {"share": 0.2}, "levels": ["mask"]}, "`consensus_gate` needs the operators' maps"),
        ({"consensus_gate": {"share": -0.1}}, r"`consensus_gate\['share'\]` must be a number of at least 0"),
        ({"consensus_gate": {"share": 1.5}}, r"`consensus_gate\['share'\]` must be between 0 and 1"),
        (
            {"consensus_gate": {"noise_floor": -0.1}},
            r"`consensus_gate\['noise_floor'\]` must be a number of at least 0",
        ),
        ({"consensus_gate": {"noise_floor": "low"}}, r"'noise_floor'\]` must be a number of at least 0"),
        ({"consensus_gate": {"bar": 2.0}}, "is a dict with the keys threshold, share, noise_floor, got .*'bar': 2.0"),
        ({"consensus_gate": 2.0}, "is a dict with the keys threshold, share, noise_floor, got 2.0"),
    ],
    ids=str,
)
def test_wrong_values_are_errors_at_construction(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ScalpelMoeConfig(**kwargs)


def test_an_unknown_field_is_an_error() -> None:
    with pytest.raises(TypeError, match="rank"):
        ScalpelMoeConfig(rank=8)


@pytest.mark.parametrize("name", ["blocks", "target_modules", "exclude_modules"])
@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(.*)*x", "(a|aa)+$", "(?:\\w+\\.?){1,99}x", ".*.*.*.*.*.*x", "(", "a{99999999999}"]
)
def test_a_pattern_that_may_never_end_is_refused(name: str, pattern: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is not a regular expression|matching `{name}` may never end"):
        ScalpelMoeConfig(**{name: pattern})


@pytest.mark.parametrize(
    "pattern", [r"vision_encoder\.layers\.(2|3)\.mlp", r".*layers\.[0-9+]+\.mlp", r"(.*\.)?\(x\)*"]
)
def test_a_pattern_that_ends_is_taken(pattern: str) -> None:
    assert ScalpelMoeConfig(blocks=pattern).blocks == pattern
