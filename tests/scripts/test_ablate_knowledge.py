"""Students of a teacher's labels, with a few steps on small synthetic frames."""

from pathlib import Path

import pytest
import torch
from datasets import DatasetDict

from scalpel_hf import SyntheticInfrared
from scalpel_hf.utils.reading import read_json
from scripts.experiments import ablate_knowledge
from scripts.render_results import render
from tests.small_models import small_mobile_sam


def test_what_is_made_of_the_teachers_probability() -> None:
    p = torch.full((1, 1, 8, 8), 0.1)
    p[..., 2:6, 2:6] = 0.75
    for label, inside, outside in (
        (ablate_knowledge.hard, (1, 1), (0, 1)),
        (ablate_knowledge.hard_weighed, (1, 0.5), (0, 0.8)),
        (ablate_knowledge.soft, (0.75, 1), (0.1, 1)),
        (ablate_knowledge.soft_weighed, (0.75, 0.5), (0.1, 0.8)),
        (ablate_knowledge.soft_edges, (1, 0.5), (0, 0.8)),
    ):
        found = [tuple(part[0, 0, y, x].item() for part in label(p)) for y, x in ((4, 4), (0, 0))]
        assert found[0] == pytest.approx(inside) and found[1] == pytest.approx(outside)
    assert [part[0, 0, 2, 3].item() for part in ablate_knowledge.soft_edges(p)] == [0.75, 1]


@pytest.mark.slow
def test_every_arm_from_a_prepared_folder_to_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    camera = SyntheticInfrared(size=(64, 72), n_targets=(1, 2), extent=(2, 5), seed=3)
    DatasetDict({"train": camera.to_dataset(10)}).save_to_disk(tmp_path / "data")
    small_mobile_sam().save_pretrained(str(tmp_path / "base"))
    monkeypatch.setattr(ablate_knowledge, "COMMON", {"crop_size": 64, "batch_size": 2, "max_steps": 2})
    argv = ["--recipe", "nuaa_sirst/distill_10pct", "--data", str(tmp_path / "data"), "--budget", "0.5", "--quick"]
    argv += ["--base-model", str(tmp_path / "base"), "--seeds", "0", "--work", str(tmp_path / "work")]
    ablate_knowledge.main([*argv, "--out", str(tmp_path / "results")])
    files = {path: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    assert len(files) == len(ablate_knowledge.ARMS)
    assert len(read_json(tmp_path / "results" / "features-0.json")["counts"]["frames"]) == 2
    table = render("<!-- table: results; soft - recipe -->\n<!-- end of table -->\n", tmp_path)
    assert "soft less recipe" in table
    ablate_knowledge.main([*argv, "--out", str(tmp_path / "results")])  # nothing is left to do
    assert files == {path: path.read_bytes() for path in files}
