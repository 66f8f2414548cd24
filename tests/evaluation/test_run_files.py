"""The JSON files of experiments, and whether one is of the run that is to be made."""

from pathlib import Path

import pytest

from scalpel_hf.evaluation.run_files import has_result
from scalpel_hf.utils.files import write_json


def test_results_of_another_setting_are_not_taken_for_these(tmp_path: Path) -> None:
    file = tmp_path / "teacher-0.json"
    assert not has_result(file, steps=300)
    write_json(file, {"steps": 300, "every": 1})
    assert has_result(file) and has_result(file, steps=300, every=1)
    with pytest.raises(ValueError, match=r"teacher-0\.json is of steps 300, not 600: give the same again, or another"):
        has_result(file, every=1, steps=600)
    with pytest.raises(ValueError, match=r"teacher-0\.json is of budget None, not 0\.1"):
        has_result(file, budget=0.1)


def test_a_file_without_a_split_is_of_the_trainings(tmp_path: Path) -> None:
    write_json(tmp_path / "before.json", {"every": 3})
    write_json(tmp_path / "now.json", {"every": 3, "split": "test"})
    assert has_result(tmp_path / "before.json", split="train") and has_result(tmp_path / "now.json", split="test")
    for file, split in (("before", "test"), ("now", "train")):
        with pytest.raises(ValueError, match=f"{file}.json is of split"):
            has_result(tmp_path / f"{file}.json", split=split)
