"""Additions to the teacher's training, with a few steps on small synthetic frames."""

import argparse
from pathlib import Path
from typing import Any

import additions_loss
import mask_losses
import numpy as np
import pytest
import sam_on_frames
import torch
from datasets import Dataset, DatasetDict

from scalpel_hf import SyntheticInfrared, apply_label_budget
from scalpel_hf.data import load_split, read_frame, read_target
from scalpel_hf.data.transforms import Sample
from scalpel_hf.evaluation.comparison import count_frames
from scalpel_hf.utils.reading import read_json
from scripts.experiments import ablate_additions, cross_validate
from scripts.render_results import render
from tests.small_models import small_mobile_sam


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    rows = SyntheticInfrared(size=(64, 72), n_targets=(1, 2), extent=(2, 5), seed=3).to_dataset(8)
    DatasetDict({"train": rows}).save_to_disk(root / "all")
    DatasetDict({"train": apply_label_budget(rows, fraction=0.5)}).save_to_disk(root / "few")
    small_mobile_sam().save_pretrained(str(root / "base"))
    return root


def labelled() -> Sample:
    row = SyntheticInfrared(size=(64, 72), n_targets=(1, 1), extent=(3, 5), seed=3).frame(0)
    frame, target = read_frame(row["image"]).astype(np.float32), read_target(row["mask"]).astype(np.float32)
    return Sample(frame, target=target, weight=np.ones_like(frame))


def test_sam_is_asked_for_what_the_operators_confirm(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = labelled()
    masks = sam_on_frames.SamMasks(str(prepared / "base"), [sample], tmp_path)
    monkeypatch.setattr(sam_on_frames, "MASK_SIZE", 64)
    quiet = np.zeros_like(sample.target)  # a second region, where no operator responds
    quiet[2:5, 2:5] = 0 if sample.target[:12, :12].any() else 1
    known = masks.ask(sample, "frame", np.clip(0.95 * sample.target + 0.9 * quiet + 0.01, 0, 1))
    own = sample.target > 0
    assert len(set(known.weight[own].tolist())) == 1 and 0 < known.weight[own][0] < 1
    assert not known.weight[quiet > 0].any() and quiet.any()
    assert known.weight[-1, 0] == pytest.approx(0.98) and (tmp_path / "frame.safetensors").exists()


def test_the_running_mean_follows_the_weights() -> None:
    level = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.BatchNorm1d(1))
    mean = additions_loss.RunningMean(level, 0.9)  # type: ignore[arg-type]
    with torch.no_grad():
        level[0].weight.fill_(5.0)
        before = mean.mean[0].weight.item()
        mean.update(1000)
    assert mean.mean[0].weight.item() == pytest.approx(0.9 * before + 0.5)


def test_edges_weigh_more() -> None:
    target = torch.zeros(1, 1, 16, 16)
    target[..., 6:10, 6:10] = 1
    logits, weight = 12 * target - 6, torch.ones_like(target)

    def loss_with_wrong_pixel(y: int, x: int) -> float:
        wrong = logits.clone()
        wrong[..., y, x] *= -1
        return float(mask_losses.edge_loss(wrong, target, weight) - mask_losses.edge_loss(logits, target, weight))

    assert loss_with_wrong_pixel(5, 7) > 2 * loss_with_wrong_pixel(1, 1) > 0


def test_cross_validation_measures_each_labelled_frame_once(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on = []

    def train(arm: ablate_additions.Arm, args: argparse.Namespace, rows: Dataset, **where: Any) -> None:
        trained_on.append({np.asarray(row["image"]).tobytes() for row in rows})
        ablate_additions.train_network(arm, args, rows, **where)

    monkeypatch.setattr(cross_validate, "train_network", train)
    argv = ["--few", str(prepared / "few"), "--base-model", str(prepared / "base"), "--seeds", "0", "--steps", "2"]
    argv += ["--arms", "base", "zoom", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "results")]
    cross_validate.main(argv)
    record = read_json(tmp_path / "results" / "zoom-0.json")
    rows = [row for row in load_split(str(prepared / "few"), "train") if row["label_source"] == "human"]
    _, _, targets, *_, pixels = zip(*record["counts"]["frames"], strict=True)
    assert list(targets) == [count_frames(lambda f: np.zeros(f.size[::-1]), [row])[0][0, 2] for row in rows]
    assert len(pixels) == len(rows) == 4
    assert trained_on[:3] == trained_on[3:]  # both arms have the same folds
    assert sorted(map(len, trained_on[:3])) == [2, 3, 3] and not set.intersection(*trained_on[:3])
    assert "zoom less base" in render("<!-- table: results; zoom - base -->\n<!-- end of table -->\n", tmp_path)
    before = (tmp_path / "results" / "zoom-0.json").read_bytes()
    cross_validate.main(argv)  # nothing is left to do
    assert before == (tmp_path / "results" / "zoom-0.json").read_bytes()


@pytest.mark.slow
def test_every_arm_from_prepared_folders_to_a_table(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam_on_frames, "MASK_SIZE", 64)
    argv = ["--few", str(prepared / "few"), "--all", str(prepared / "all"), "--base-model", str(prepared / "base")]
    argv += ["--seeds", "0", "--steps", "4", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "results")]
    ablate_additions.main(argv)
    files = {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    assert len(files) == len(ablate_additions.ARMS)
    record = read_json(tmp_path / "results" / "all-0.json")
    assert len(record["counts"]["frames"]) == 4 and record["steps"] == 4
    assert "all less base" in render("<!-- table: results; all - base -->\n<!-- end of table -->\n", tmp_path)
    ablate_additions.main(argv)  # nothing is left to do
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
