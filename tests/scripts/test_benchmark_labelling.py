"""Labelling beside a bare pass of the encoder."""

from pathlib import Path

import datasets
from peft import get_peft_model

from scalpel_hf import InfraredImageProcessor, ScalpelMoeConfig, SyntheticInfrared, Teacher, apply_label_budget
from scalpel_hf.predictors.sam import load_sam
from scalpel_hf.utils.reading import read_json
from scripts.benchmarks import benchmark_labelling
from tests.small_models import SIZE, small_mobile_sam


def test_each_unlabelled_frame_but_the_first_is_timed(tmp_path: Path) -> None:
    small_mobile_sam().save_pretrained(tmp_path / "base")
    model = get_peft_model(load_sam(tmp_path / "base", SIZE), ScalpelMoeConfig(channels=8, levels=["mask"]))
    Teacher(model, InfraredImageProcessor(sam_size=SIZE)).save_pretrained(tmp_path / "teacher")
    rows = apply_label_budget(SyntheticInfrared(size=(40, 56), n_targets=(1, 2), seed=3).to_dataset(8), 0.25)
    datasets.DatasetDict({"train": rows}).save_to_disk(str(tmp_path / "data"))

    out = tmp_path / "results" / "labelling.json"
    where = ["--dataset", str(tmp_path / "data"), "--teacher", str(tmp_path / "teacher"), "--out", str(out)]
    for frames, timed in ((40, 5), (3, 3)):
        benchmark_labelling.main([*where, "--frames", str(frames)])
        record = read_json(out)
        assert record["frames"] == timed and record["members"] == 1
        low, high = record["times_the_encoders_frame_rate_10_90"]
        assert 0 < low <= record["times_the_encoders_frame_rate"] <= high
        assert record["label_ms"] > 0 < record["encoder_ms"]
