"""Students of four fifths of the masks, measured on the other fifth, with a few steps on small synthetic frames."""

from pathlib import Path

import pytest
from datasets import DatasetDict

from scalpel_hf import SyntheticInfrared
from scalpel_hf.data import load_prepared
from scalpel_hf.utils.reading import read_json
from scripts.experiments import ablate_student
from scripts.render_results import render


@pytest.mark.slow
def test_two_arms_from_a_prepared_folder_to_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = SyntheticInfrared(size=(64, 72), n_targets=(1, 2), extent=(2, 5), seed=3)
    DatasetDict({"train": camera.to_dataset(10)}).save_to_disk(tmp_path / "data")
    monkeypatch.setattr(ablate_student, "COMMON", {"crop_size": 64, "batch_size": 2, "max_steps": 2})
    arms = {"short": ablate_student.Arm(), "long": ablate_student.Arm({"max_steps": 4}, deep_supervision=True)}
    monkeypatch.setattr(ablate_student, "ARMS", arms)
    argv = ["--data", str(tmp_path / "data"), "--arms", "short", "long", "--seeds", "0"]
    argv += ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "results")]
    ablate_student.main(argv)
    parts = load_prepared(tmp_path / "work" / "data-0")
    assert {name: len(part) for name, part in parts.items()} == {"train": 8, "test": 2}
    assert not set(parts["train"]["name"]) & set(parts["test"]["name"])
    assert len(read_json(tmp_path / "results" / "long-0.json")["counts"]["frames"]) == 2
    table = render("<!-- table: results; long - short -->\n<!-- end of table -->\n", tmp_path)
    assert "long less short" in table
    files = {path: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    ablate_student.main(argv)  # nothing is left to do
    assert files == {path: path.read_bytes() for path in files}
