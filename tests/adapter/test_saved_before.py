"""
Folders that an earlier version saved still load, in every way, and give what they gave.

`saved_before/` is of commit 13659fb: an adapter with every setting away from its default, the stand-alone teacher made
of it, a frame and the probabilities that they gave.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskGeneration

from scalpel_hf import InfraredImageProcessor, MobileSamModel, ScalpelSamConfig, ScalpelSamModel, Teacher
from scalpel_hf.modeling.whole_weights import current_name
from scalpel_hf.predictors.strict_loading import load_adapter, load_adapter_config

SAVED = Path(__file__).parent / "saved_before"
ADAPTER, ALONE = SAVED / "adapter", SAVED / "stand-alone"
BLOCK = "vision_encoder.layers.3.blocks.0.mlp"


def base() -> MobileSamModel:
    """The adapter's base, out of the stand-alone teacher."""
    alone = ScalpelSamModel.from_pretrained(ALONE)
    model = MobileSamModel(alone.config.base_config)
    weights = {
        key.replace(f"{BLOCK}.mlp.", f"{BLOCK}."): value
        for key, value in alone.state_dict().items()
        if not key.startswith(("mask_level.", f"{BLOCK}.adapter."))
    }
    model.load_state_dict(weights)
    return model.eval()


def with_transformers() -> torch.nn.Module:
    model = base()
    model.load_adapter(str(ADAPTER))
    return model


def beside_another() -> torch.nn.Module:
    model = PeftModel.from_pretrained(base(), str(ADAPTER), adapter_name="other")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".other." in name:
                parameter.zero_()
    model.load_adapter(str(ADAPTER), "second")
    model.set_adapter("second")
    return model


def with_torch() -> torch.nn.Module:
    """A state dict of before into a model of today."""
    model = PeftModel(base(), load_adapter_config(ADAPTER))
    set_peft_model_state_dict(model, load_file(ADAPTER / "adapter_model.safetensors"))
    return model


WAYS: dict[str, Callable[[], torch.nn.Module]] = {
    "this package": lambda: load_adapter(base(), ADAPTER, load_adapter_config(ADAPTER)),
    "peft": lambda: PeftModel.from_pretrained(base(), str(ADAPTER)),
    "transformers": with_transformers,
    "peft, beside another adapter": beside_another,
    "torch": with_torch,
    "stand-alone": lambda: ScalpelSamModel.from_pretrained(ALONE),
    "stand-alone, by an Auto class": lambda: AutoModelForMaskGeneration.from_pretrained(ALONE),
}


@torch.no_grad()
def probabilities(model: torch.nn.Module) -> np.ndarray:
    inputs = InfraredImageProcessor(sam_size=32)(np.load(SAVED / "frame.npz")["frame"], return_tensors="pt")
    frames = {key: inputs[key] for key in ("pixel_values", "frames", "frame_boxes")}
    return model.eval()(**frames, multimask_output=False).pred_masks[0, 0, 0].sigmoid().numpy()


@pytest.mark.parametrize("way", WAYS)
def test_what_it_gives(way: str) -> None:
    expected = np.load(SAVED / "frame.npz")["probability"]
    assert expected.std() > 0.1
    np.testing.assert_allclose(probabilities(WAYS[way]()), expected, atol=1e-6)


@pytest.mark.parametrize("way", ["peft", "stand-alone"])
def test_the_gate_has_the_values_that_lay_loose(way: str, tmp_path: Path) -> None:
    gate = {"threshold": 0.7, "share": 0.2, "noise_floor": 0.01}
    model = WAYS[way]()
    config = model.peft_config["default"] if way == "peft" else model.config
    assert config.consensus_gate == gate and not hasattr(ScalpelSamConfig(), "prior_bar")
    model.save_pretrained(tmp_path)
    saved = json.loads(next(tmp_path.glob("*config.json")).read_text())
    assert saved["consensus_gate"] == gate and not {"prior_bar", "prior_share", "noise_floor"} & saved.keys()


@pytest.mark.parametrize("value", [-1.0, "low"])
def test_a_wrong_value_by_a_name_of_before_is_an_error(value: object, tmp_path: Path) -> None:
    config = json.loads((ADAPTER / "adapter_config.json").read_text()) | {"prior_bar": value}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"`consensus_gate\['threshold'\]` must be a number of at least 0"):
        load_adapter_config(tmp_path)


def test_a_teacher(tmp_path: Path) -> None:
    base().save_pretrained(tmp_path / "base")
    teacher = Teacher.from_pretrained(ADAPTER, tmp_path / "base")
    frame = np.load(SAVED / "frame.npz")
    np.testing.assert_allclose(teacher.probabilities(frame["frame"]), frame["probability"], atol=1e-6)


@pytest.mark.parametrize("name", ["this package", "stand-alone"])
def test_it_is_saved_by_the_names_of_today(name: str, tmp_path: Path) -> None:
    WAYS[name]().save_pretrained(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    names = load_file(file).keys()
    assert any(key.endswith(".sam_logit_scale") for key in names)
    assert all(current_name(key) == key for key in names)


def test_a_weight_of_no_name_that_there_was_is_an_error(tmp_path: Path) -> None:
    weights = load_file(ADAPTER / "adapter_model.safetensors")
    weights["base_model.model.mask_decoder.scalpel_moe_mask.kept"] = torch.ones(())
    for name in ("adapter_config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((ADAPTER / name).read_bytes())
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"mask\.kept` is left over"):
        load_adapter(base(), tmp_path, load_adapter_config(tmp_path))
