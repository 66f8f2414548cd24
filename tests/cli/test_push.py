"""`scalpel-hf push` finds out by itself what is in a folder."""

import json
from pathlib import Path

import pytest
from huggingface_hub import HfApi, ModelCard

from scalpel_hf.cli import push
from tests.hub.models import make_prepared, make_student, make_teacher
from tests.small_models import small_mobile_sam

BASE = "org/tiny-mobile-sam"


def test_whatever_a_folder_holds_is_pushed_in_one_commit(
    client: HfApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_teacher(tmp_path, small_mobile_sam())
    (tmp_path / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# A base\n")
    make_student(tmp_path / "student")
    make_prepared(tmp_path / "data")
    teacher, base_id = str(tmp_path / "teacher"), ["--base-model-id", BASE]
    for argv, kind, files in (
        ([str(tmp_path / "base"), BASE], "model", {"model.safetensors", "modeling_mobile_sam.py"}),
        ([teacher, "org/teacher", *base_id, "--private"], "model", {"adapter_config.json"}),
        ([teacher, "org/alone", *base_id, "--standalone"], "model", {"config.json", "processing_scalpel_sam.py"}),
        ([str(tmp_path / "student"), "org/student"], "model", {"config.json", "modeling_scalpel_student.py"}),
        ([str(tmp_path / "data"), "org/data", "--license", "mit"], "dataset", {"label_budget.json"}),
        (["metric", "org/irstd"], "space", {"irstd.py"}),
    ):
        push.main(argv)
        assert f"{argv[1]}/commit/" in capsys.readouterr().out
        assert {"README.md", *files} <= set(client.list_repo_files(argv[1], repo_type=kind))
        assert len(client.list_repo_commits(argv[1], repo_type=kind)) == 2
    assert client.model_info("org/teacher").private and not client.model_info("org/alone").private
    path = client.hf_hub_download("org/alone", "README.md", cache_dir=tmp_path / "cache")
    card = ModelCard(Path(path).read_text())
    assert card.data.base_model == BASE and card.data.base_model_revision == client.model_info(BASE).sha
    record = json.loads((tmp_path / "teacher" / "metrics.json").read_text())
    assert card.data.eval_results[0].metric_value == record["metrics"]["test"]["iou"]


def test_without_pictures(client: HfApi, tmp_path: Path) -> None:
    make_prepared(tmp_path / "data")
    make_student(tmp_path / "student", dataset=str(tmp_path / "data"))
    for flags, shown in (([], True), (["--no-pictures"], False)):
        repo = f"org/student-{shown}"
        push.main([str(tmp_path / "student"), repo, *flags])
        assert ("examples.png" in client.list_repo_files(repo)) == shown
        card = Path(client.hf_hub_download(repo, "README.md", cache_dir=tmp_path / "cache")).read_text()
        assert ("examples.png" in card) == shown


@pytest.mark.parametrize(
    ("folder", "flags", "message"),
    [
        ("student", ["--base-model-id", BASE], "--base-model-id is not for a student"),
        ("student", ["--license", "mit"], "--license is not for a student"),
        ("data", ["--standalone"], "--standalone is not for a data set"),
        ("metric", ["--no-pictures"], "--no-pictures is not for the metric"),
        ("org/student", ["--space", "--license", "mit"], "--license is not for a page"),
        ("student", ["--teacher", "org/t"], "--teacher is not for a student"),
        ("nowhere", [], "there is no folder .*nowhere"),
    ],
)
def test_flags_that_are_for_something_else(tmp_path: Path, folder: str, flags: list[str], message: str) -> None:
    make_student(tmp_path / "student")
    make_prepared(tmp_path / "data")
    with pytest.raises(ValueError, match=message):
        push.main([folder if folder in ("metric", "org/student") else str(tmp_path / folder), "org/x", *flags])


def test_what_can_not_be_pushed_is_an_error(client: HfApi, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"metrics\.json is missing"):
        push.main([str(tmp_path / "empty"), "org/empty"])
    make_teacher(tmp_path, small_mobile_sam())
    with pytest.raises(ValueError, match="base_model_id"):
        push.main([str(tmp_path / "teacher"), "org/alone", "--standalone"])
    assert not client.repo_exists("org/alone")
