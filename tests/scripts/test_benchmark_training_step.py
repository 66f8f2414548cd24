from pathlib import Path

import datasets
import pytest

from scalpel_hf import SyntheticInfrared, apply_label_budget
from scalpel_hf.utils.reading import read_json
from scripts.benchmarks import benchmark_training_step

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_checkouts_side_by_side(tmp_path: Path) -> None:
    rows = SyntheticInfrared(size=(40, 56), n_targets=(1, 2), extent=(2, 5), seed=3).to_dataset(6)
    datasets.DatasetDict({"train": apply_label_budget(rows, 0.5)}).save_to_disk(str(tmp_path / "data"))
    arguments = ["--dataset", str(tmp_path / "data"), "--size", "nano", "--batch-size", "2", "--crop-size", "32"]
    out = tmp_path / "results" / "step.json"
    benchmark_training_step.main([*arguments, "--before", str(ROOT), "--repeats", "3", "--out", str(out)])
    record = read_json(out)
    assert record["before"]["commit"] == record["now"]["commit"] and record["repeats"] == 3
    for code in ("before", "now"):
        figures = record[code]
        assert 0 < figures["crops_ms"] < figures["step_ms"]
        assert figures["crops_a_second"] == pytest.approx(2e3 / figures["step_ms"], rel=0.02)
    assert 0.1 < record["times_the_crops"] < 10
    with pytest.raises(ValueError, match="is no checkout of this project"):
        benchmark_training_step.main([*arguments, "--before", str(tmp_path), "--out", str(out)])
