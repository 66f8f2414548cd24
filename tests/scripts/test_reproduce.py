"""The claim from a data set's folder to its table, with a few steps on small synthetic frames."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalpel_hf import SyntheticInfrared
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.utils.reading import read_json
from scripts.experiments import reproduce, student_sizes
from scripts.render_results import render
from tests.small_models import small_mobile_sam


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames and masks as IRSTD-1K has them."""
    root = tmp_path_factory.mktemp("published")
    for folder in ("IRSTD1k_Img", "IRSTD1k_Label"):
        (root / folder).mkdir()
    camera = SyntheticInfrared(size=(64, 72), n_targets=(1, 2), extent=(2, 5), seed=3)
    for i in range(14):
        row = camera.frame(i)
        Image.fromarray(read_frame(row["image"])).save(root / "IRSTD1k_Img" / f"XDU{i}.png")
        Image.fromarray((read_frame(row["mask"]) > 0).astype(np.uint8) * 255).save(root / f"IRSTD1k_Label/XDU{i}.png")
    (root / "trainval.txt").write_text("\n".join(f"XDU{i}" for i in range(10)))
    (root / "test.txt").write_text("\n".join(f"XDU{i}" for i in range(10, 14)))
    small_mobile_sam().save_pretrained(str(root / "base"))
    return root


@pytest.mark.slow
def test_three_arms_from_a_folder_to_a_table(published: Path, tmp_path: Path) -> None:
    argv = ["--dataset", "irstd-1k", "--root", str(published), "--base-model", str(published / "base"), "--quick"]
    argv += ["--budget", "0.5", "--seeds", "0", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "results")]
    reproduce.main(argv)
    files = {path.name: path.read_bytes() for path in (tmp_path / "results" / "irstd-1k-0.5").iterdir()}
    assert sorted(files) == ["all-masks-0.json", "few-masks-0.json", "pseudo-labels-0.json"]
    record = read_json(tmp_path / "results/irstd-1k-0.5/pseudo-labels-0.json")
    assert record["test frames"] == 4 == len(record["counts"]["frames"]) and record["steps"] == 8
    table = render("<!-- table: results; pseudo-labels / all-masks -->\n<!-- end of table -->\n", tmp_path)
    assert "pseudo-labels over all-masks" in table
    reproduce.main(argv)  # nothing is left to do
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "results" / "irstd-1k-0.5").iterdir()}


@pytest.mark.slow
def test_detectors_are_measured_by_boxes(published: Path, tmp_path: Path) -> None:
    argv = ["--dataset", "irstd-1k", "--root", str(published), "--base-model", str(published / "base"), "--quick"]
    argv += ["--budget", "0.5", "--seeds", "0", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "results")]
    reproduce.main([*argv, "--task", "detection"])
    record = read_json(tmp_path / "results/irstd-1k-0.5/detection-few-masks-0.json")
    counts, metrics = np.array(record["counts"]["frames"]), record["metrics"]
    assert len(counts) == 4 and counts[:, 0].sum() == metrics["n_targets"] > 0
    assert metrics["recall"] == metrics["pd"] == counts[:, 1].sum() / counts[:, 0].sum() and "ap50_tiny" in metrics
    table = render(
        "<!-- table: results; detection-pseudo-labels - detection-few-masks -->\n<!-- end of table -->\n", tmp_path
    )
    assert "| tiny |" in table and "On 4 frames" in table


@pytest.mark.slow
def test_teachers_of_another_recipe(published: Path, tmp_path: Path) -> None:
    argv = ["--dataset", "irstd-1k", "--root", str(published), "--base-model", str(published / "base"), "--quick"]
    argv += ["--budget", "0.2", "--seeds", "0", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "results")]
    reproduce.main([*argv, "--teacher-config", "nuaa_sirst/distill_1024"])
    run = read_json(tmp_path / "work" / "irstd-1k-0.2" / "teacher-0" / "metrics.json")
    assert run["arguments"]["image_size"] == 1024 and run["arguments"]["levels"] == ["pixel", "token", "mask"]
    assert (tmp_path / "results/irstd-1k-0.2/pseudo-labels-0.json").exists()


@pytest.mark.slow
def test_sizes_of_students_are_measured_on_the_test_split(published: Path, tmp_path: Path) -> None:
    data = tmp_path / "work" / "data" / "irstd-1k"
    of_published = ["--dataset", "irstd-1k", "--root", str(published), "--base-model", str(published / "base")]
    reproduce.main([*of_published, "--seeds", "--work", str(tmp_path / "work"), "--out", str(tmp_path / "claim")])
    argv = ["--data", str(data), "--sizes", "nano", "base", "--seeds", "0", "--quick"]
    student_sizes.main([*argv, "--work", str(tmp_path / "runs"), "--out", str(tmp_path / "results")])
    nano, base = (read_json(tmp_path / "results" / f"{size}-0.json") for size in ("nano", "base"))
    assert len(nano["counts"]["frames"]) == len(base["counts"]["frames"]) == 4
    configs = [read_json(tmp_path / "runs" / f"{size}-0" / "config.json") for size in ("nano", "base")]
    assert [c["full_resolution_channels"] > 0 for c in configs] == [False, True]
