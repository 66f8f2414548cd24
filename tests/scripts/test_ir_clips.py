"""The experiment on real recordings, short: from boxes on a twentieth of the frames to figures by clip."""

import json
from pathlib import Path

import pytest

from scalpel_hf.evaluation.run_files import read_runs
from scripts.experiments import ir_clips


@pytest.mark.slow
def test_from_two_real_clips_to_figures(tmp_path: Path, shared_dir: Path) -> None:
    root = shared_dir / "data" / "ir-clips"
    short = ["--clips", "2", "--max-steps", "60", "--seeds", "0"]
    command = ["--root", str(root), *short, "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out")]
    ir_clips.main(command)
    runs = read_runs(tmp_path / "out")
    arms = {f"{task}-{labels}" for task in ir_clips.TASKS for labels in ir_clips.LABELS}
    assert set(runs) == arms | {"teacher", "all-frames", "tracked-5"}
    few = json.loads((tmp_path / "work" / "few-0.json").read_text())
    every = json.loads((tmp_path / "work" / "train.json").read_text())
    assert len(few) == 12 and few.items() <= every.items()
    whole = [sum(count[3] for count in runs[arm][0]["counts"]["recordings"]) for arm in ("teacher", "all-frames")]
    assert whole[0] == 126 and whole[1] == 630
    false = [runs[arm][0]["metrics"]["n_false"] for arm in ("all-frames", "tracked-5")]
    assert false[0] >= false[1]
