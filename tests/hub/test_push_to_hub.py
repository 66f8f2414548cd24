"""transformers' own `push_to_hub`: what it pushes loads where this package is not installed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi

from scalpel_hf import InfraredImageProcessor, ScalpelSamModel, ScalpelSamProcessor
from scalpel_hf.modeling.custom_code import MODELS, MODULES, PROCESSORS, add_code
from tests.hub.models import FRAME, make_detector, make_student
from tests.hub.server import HubServer
from tests.modeling.test_modeling_scalpel_sam import adapted
from tests.small_models import SIZE, small_mobile_sam

NAMES = ("base", "alone", "student", "detector")


def save_all(folder: Path) -> dict[str, np.ndarray]:
    """A model and its processor in a folder for each name; what the models predict."""
    alone = ScalpelSamModel.from_peft(adapted(small_mobile_sam()))
    sam_inputs = InfraredImageProcessor(sam_size=SIZE)
    made = {
        "base": (small_mobile_sam(), sam_inputs),
        "alone": (alone, ScalpelSamProcessor(sam_inputs)),
        "student": (make_student(folder / "runs" / "a").model, InfraredImageProcessor()),
        "detector": (make_detector(folder / "runs" / "b").model, InfraredImageProcessor()),
    }
    predictions = {}
    for name, (model, processor) in made.items():
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
        pixel_values = processor(FRAME, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            predictions[name] = model(pixel_values=pixel_values)[0].numpy()
    return predictions


HERE = f"""
import scalpel_hf
from transformers import AutoImageProcessor, AutoModel, AutoProcessor

for name in {NAMES!r}:
    AutoModel.from_pretrained(name).push_to_hub("org/" + name)
    (AutoProcessor if name == "alone" else AutoImageProcessor).from_pretrained(name).push_to_hub("org/" + name)
"""
# What is pushed from here again are classes of the code in the first repository.
ELSEWHERE = f"""
import sys
import numpy as np, torch
from transformers import AutoImageProcessor, AutoModel

def predictions(prefix):
    found = {{}}
    for name in {NAMES!r}:
        model = AutoModel.from_pretrained(prefix + name, trust_remote_code=True).eval()
        processor = AutoImageProcessor.from_pretrained(prefix + name, trust_remote_code=True)
        with torch.no_grad():
            inputs = processor(np.load("frame.npy"), return_tensors="pt")
            found[name] = model(pixel_values=inputs["pixel_values"])[0].numpy()
        yield name, model, processor, found[name]

found = {{}}
for name, model, processor, found[name] in predictions("org/"):
    model.push_to_hub("org/again-" + name)
    processor.push_to_hub("org/again-" + name)
for name, _, _, prediction in predictions("org/again-"):
    assert np.allclose(prediction, found[name], atol=1e-5)
assert not any(name.startswith("scalpel_hf") for name in sys.modules)
np.savez("predictions.npz", **found)
"""


def test_what_is_pushed_loads_elsewhere_and_can_be_pushed_from_there(
    hub: HubServer, client: HfApi, tmp_path: Path
) -> None:
    expected = save_all(tmp_path)
    hub.run(HERE, tmp_path)
    np.save(tmp_path / "frame.npy", FRAME)
    hub.run(ELSEWHERE, tmp_path, without_package=True)
    found = np.load(tmp_path / "predictions.npz")
    for name in NAMES:
        assert expected[name].std() > 1e-4
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-4 * expected[name].std())
        for repo in (f"org/{name}", f"org/again-{name}"):
            assert len(client.list_repo_commits(repo)) == 3  # the first one's, the model's, the processor's
            files = client.list_repo_files(repo)
            assert {"config.json", "model.safetensors", "processor_config.json", "custom_code.py"} <= set(files)
            assert "preprocessor_config.json" not in files


@pytest.mark.parametrize("kind", ["student", "processor"])
def test_saving_alone_leaves_the_code_out(tmp_path: Path, kind: str) -> None:
    saved = make_student(tmp_path / "made").model if kind == "student" else InfraredImageProcessor()
    saved.save_pretrained(tmp_path / "saved")
    assert not [path.name for path in (tmp_path / "saved").iterdir() if path.suffix == ".py"]
    (name,) = (path.name for path in (tmp_path / "saved").glob("*config.json"))
    before = json.loads((tmp_path / "saved" / name).read_text())
    assert "auto_map" not in before

    add_code(tmp_path / "saved")
    (name,) = (path.name for path in (tmp_path / "saved").glob("*config.json"))
    after = json.loads((tmp_path / "saved" / name).read_text())
    expected = MODELS["scalpel_student"] if kind == "student" else PROCESSORS["InfraredImageProcessor"]
    own = after if kind == "student" else after["image_processor"]
    assert own == {**before, "auto_map": expected}
    for path in (tmp_path / "saved").glob("*.py"):
        assert path.read_text() == (MODULES / path.name).read_text()
