from pathlib import Path

import datasets
import numpy as np
import pytest

from scalpel_hf import SyntheticInfrared, apply_label_budget
from scripts.benchmarks import measure_operators

SCRIPT = Path(__file__).parents[2] / "scripts" / "benchmarks" / "measure_operators.py"


def test_figures_by_counting() -> None:
    rng = np.random.default_rng(0)
    response, target = rng.integers(0, 9, (8, 9)).astype(float), rng.random((8, 9)) < 0.2
    on, off = response[target], response[~target]
    expected = np.mean([(a > b) + 0.5 * (a == b) for a in on for b in off])
    assert measure_operators.roc_auc(response, target) == pytest.approx(expected)
    distinct = rng.permutation(72).reshape(8, 9).astype(float)
    precisions = [(distinct[target] >= v).sum() / (distinct >= v).sum() for v in distinct[target]]
    assert measure_operators.average_precision(distinct, target) == pytest.approx(np.mean(precisions))
    assert measure_operators.separation(response, target) == pytest.approx((on.mean() - off.mean()) / off.std())
    perfect = target.astype(float)
    assert measure_operators.roc_auc(perfect, target) == measure_operators.average_precision(perfect, target) == 1


def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = SyntheticInfrared(size=(40, 56), n_targets=(1, 2), extent=(2, 5), seed=3).to_dataset(6)
    rows = apply_label_budget(rows, 0.5)
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "data"))
    measure_operators.main(["--dataset", str(tmp_path / "data")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 labelled frames of train" and len(lines) == 4 + 16
    measure_operators.main(["--dataset", str(tmp_path / "data"), "--diffusion-k", "8", "16", "--scales", "2", "4"])
    own = [line.split(" | ")[1:4] for line in lines if "anisotropic_diffusion" in line]
    at_8 = [line.split(" | ")[1:4] for line in capsys.readouterr().out.splitlines() if "K 8, 3 steps" in line]
    assert at_8 == own[:2]  # K = 8 in 3 steps is the operator as it starts
    none = rows.remove_columns("label_source").add_column("label_source", ["none"] * 6)
    datasets.DatasetDict({"train": none}).save_to_disk(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="has no frame with a human's mask of a target"):
        measure_operators.main(["--dataset", str(tmp_path / "none")])
