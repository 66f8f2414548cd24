"""Bases by names that last: from any working directory, with their commit, the same for equal runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import SamModel

from scalpel_hf import InfraredImageProcessor, ScalpelMoeConfig, Teacher, load_sam
from scalpel_hf.hub.repo_names import is_hub_id, lasting_name, shown_name
from scalpel_hf.training.loop import hash_weights
from scalpel_hf.training.new_teacher import lora_of_equal_size
from tests.small_models import SIZE, small_sam

FRAME = np.random.default_rng(0).normal(0, 1, (40, 48))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def saved_config(folder: Path) -> dict:
    return json.loads((folder / "adapter_config.json").read_text())


def teacher(base: str | Path, adapter: str = "scalpel_moe") -> Teacher:
    sam = load_sam(base)
    config = ScalpelMoeConfig(bottleneck=8, levels=["token", "mask"])
    model = get_peft_model(sam, config if adapter == "scalpel_moe" else lora_of_equal_size(sam, config))
    return Teacher(model, InfraredImageProcessor(sam_size=SIZE))


@pytest.mark.parametrize("adapter", ["scalpel_moe", "lora"])
def test_a_teacher_on_a_relative_base_loads_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapter: str
) -> None:
    monkeypatch.chdir(tmp_path)
    small_sam().save_pretrained("models/sam")
    trained = teacher("models/sam", adapter)
    trained.save_pretrained("runs/teacher")
    expected = trained.probabilities(FRAME)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded = Teacher.from_pretrained(tmp_path / "runs/teacher")
    assert hash_weights(loaded.model) == hash_weights(trained.model)
    np.testing.assert_allclose(loaded.probabilities(FRAME), expected, rtol=0, atol=1e-6)  # a CPU may round otherwise
    assert saved_config(tmp_path / "runs/teacher")["base_model_name_or_path"] == str(tmp_path / "models/sam")
    assert saved_config(tmp_path / "runs/teacher")["revision"] is None


def test_an_adapter_made_with_peft_alone_names_its_base_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small_sam().save_pretrained("sam")
    model = get_peft_model(SamModel.from_pretrained("sam"), ScalpelMoeConfig(bottleneck=8))
    model.save_pretrained("adapter")
    assert saved_config(tmp_path / "adapter")["base_model_name_or_path"] == str(tmp_path / "sam")
    again = PeftModel.from_pretrained(SamModel.from_pretrained("sam"), "adapter")
    again.save_pretrained("again")
    assert saved_config(tmp_path / "again") == saved_config(tmp_path / "adapter")


def test_a_base_that_has_moved_is_an_error_with_the_remedy(tmp_path: Path) -> None:
    small_sam().save_pretrained(tmp_path / "sam")
    trained = teacher(tmp_path / "sam")
    trained.save_pretrained(tmp_path / "teacher")
    (tmp_path / "sam").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"teacher can't be loaded without its base model, '.*sam': .*`base=`"):
        Teacher.from_pretrained(tmp_path / "teacher")
    loaded = Teacher.from_pretrained(tmp_path / "teacher", base=tmp_path / "moved")
    assert hash_weights(loaded.model) == hash_weights(trained.model)
    np.testing.assert_allclose(loaded.probabilities(FRAME), trained.probabilities(FRAME), rtol=0, atol=1e-6)


def test_a_base_in_the_cache_of_the_hub_is_called_by_its_id_and_commit(tmp_path: Path) -> None:
    snapshot = tmp_path / "hub" / "models--org--sam--small" / "snapshots" / COMMIT
    small_sam().save_pretrained(snapshot)
    teacher(snapshot).save_pretrained(tmp_path / "teacher")
    config = saved_config(tmp_path / "teacher")
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/sam--small", COMMIT)


def test_equal_runs_write_equal_configurations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets have another order in every process."""
    small_sam().save_pretrained(tmp_path / "sam")
    code = """
import sys
from tests.hub.test_repo_names import teacher
for adapter in ("scalpel_moe", "lora"):
    teacher("sam", adapter).save_pretrained(f"{sys.argv[1]}/{adapter}")
"""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code, "there"], cwd=tmp_path, env=environment, check=True)
    monkeypatch.chdir(tmp_path)
    for adapter in ("scalpel_moe", "lora"):
        teacher("sam", adapter).save_pretrained(f"here/{adapter}")
    for adapter in ("scalpel_moe", "lora"):
        written = {(tmp_path / at / adapter / "adapter_config.json").read_bytes() for at in ("here", "there")}
        assert len(written) == 1
        targets = json.loads(written.pop())["target_modules"]
        assert targets == sorted(targets) and len(targets) > 1


def test_lora_keeps_its_targets_after_saving(tmp_path: Path) -> None:
    small_sam().save_pretrained(tmp_path / "sam")
    trained = teacher(tmp_path / "sam", "lora")
    before = trained.model.peft_config["default"].target_modules
    trained.save_pretrained(tmp_path / "teacher")
    again = Teacher.from_pretrained(tmp_path / "teacher").model.peft_config["default"]
    assert isinstance(again, LoraConfig) and set(again.target_modules) == set(before)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        *(("org/name", "org/name"), ("data/nuaa", "data/nuaa"), ("./x", "./x"), ("", ""), ("zscore", "zscore")),
        *(("/data/a/x", "x"), ("../../data_a/x", "x"), ("~/x", "x"), ("a/../../x", "x"), ("../..", ".")),
        *((r"C:\Users\a\x", "x"), (r"\\server\share\x", "x")),
    ],
)
def test_names_shown_elsewhere_are_no_paths_of_this_machine(name: str, shown: str) -> None:
    assert shown_name(name) == shown


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "here").mkdir(parents=True)
    assert is_hub_id("org/there") and not is_hub_id("org/here") and not is_hub_id("a/b/c") and not is_hub_id(None)
    assert lasting_name("org/there") == ("org/there", None)
    assert lasting_name("org/here") == (str(tmp_path / "org" / "here"), None)
