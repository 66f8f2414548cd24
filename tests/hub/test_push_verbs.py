"""The recipes' `push_to_hub` and `scalpel-hf label`'s `--push-to-hub`, against a loopback Hub."""

import json
from pathlib import Path

import datasets
import pytest
from huggingface_hub import HfApi, ModelCard

from tests.hub.server import HubServer
from tests.test_recipes import distill, flags, fresh_accelerator, pseudo_label, transfer, work  # noqa: F401

IDS = {"teacher": "org/teacher", "labels": "org/labels", "student": "org/student"}


@pytest.fixture
def client(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    monkeypatch.setattr("scalpel_hf.hub.upload.HfApi", lambda: HfApi(endpoint=hub.endpoint, token=hub.token))
    return HfApi(endpoint=hub.endpoint, token=hub.token)


def test_a_base_in_a_folder_stops_a_run_before_it_starts(work, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="base_model_id"):
        distill.main(flags(**work.teacher, output_dir=tmp_path / "teacher", push_to_hub=IDS["teacher"]))
    assert not (tmp_path / "teacher").exists()


def test_every_stage_pushes_what_it_made(work, client: HfApi, tmp_path: Path) -> None:  # noqa: F811
    client.create_repo("org/base")
    client.upload_folder(repo_id="org/base", folder_path=work.root / "base")
    teacher, labels, student = (tmp_path / name for name in IDS)
    push = {"push_to_hub": IDS["teacher"], "base_model_id": "org/base"}
    distill.main(flags(**work.teacher, output_dir=teacher, **push))
    argv = ["--dataset", work.root / "data", "--teacher", teacher, "--base-model", work.root / "base", "--out", labels]
    pseudo_label.main(
        [str(a) for a in [*argv, "--threshold", "0.01", "--no-calibration", "--push-to-hub", IDS["labels"]]]
    )
    size = {"size": "nano", "pseudo_labels": labels}
    transfer.main(flags(**work.common, **size, output_dir=student, push_to_hub=IDS["student"]))

    for name, folder in (("teacher", teacher), ("student", student)):
        assert len(client.list_repo_commits(IDS[name])) == 2
        card = ModelCard(Path(client.hf_hub_download(IDS[name], "README.md", cache_dir=tmp_path / "hub")).read_text())
        metrics = json.loads((folder / "metrics.json").read_text())["metrics"]["test"]
        assert {r.metric_type: r.metric_value for r in card.data.eval_results}.items() <= metrics.items()
        assert card.data.get("base_model") == ("org/base" if name == "teacher" else None)
    path = client.hf_hub_download(
        IDS["labels"], "data/train-00000-of-00001.parquet", repo_type="dataset", cache_dir=tmp_path / "hub"
    )
    pushed = datasets.Dataset.from_parquet(path, cache_dir=str(tmp_path / "cache"))
    made = datasets.load_from_disk(str(labels))
    assert pushed.features == made.features
    assert pushed["label_source"][:] == made["label_source"][:] and "pseudo" in pushed["label_source"][:]
