"""`scalpel-hf push MODEL org/name --space`, against a loopback Hub."""

import ast
from pathlib import Path

import pytest
from huggingface_hub import HfApi, RepoCard

import scalpel_hf
from scalpel_hf.cli import push
from scalpel_hf.hub.space import space_files
from tests.hub.models import make_student


@pytest.fixture
def student(client: HfApi, tmp_path: Path) -> str:
    make_student(tmp_path / "student")
    client.create_repo("org/student")
    client.upload_file(
        path_or_fileobj=tmp_path / "student" / "config.json", path_in_repo="config.json", repo_id="org/student"
    )
    return "org/student"


def read(client: HfApi, name: str, folder: Path) -> str:
    return Path(client.hf_hub_download("org/look", name, repo_type="space", cache_dir=folder)).read_text()


def test_a_space_is_three_files(client: HfApi, student: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    push.main([student, "org/look", "--space"])
    assert "/spaces/org/look/commit/" in capsys.readouterr().out
    there = set(client.list_repo_files("org/look", repo_type="space"))
    assert there - {".gitattributes"} == {"app.py", "requirements.txt", "README.md"}
    card = RepoCard(read(client, "README.md", tmp_path))
    assert (card.data.sdk, card.data.app_file, card.data.models) == ("gradio", "app.py", [student])
    assert "scalpel-hf[app" in read(client, "requirements.txt", tmp_path)
    assert ast.parse(read(client, "app.py", tmp_path))


def test_names_of_models_are_data_in_the_code() -> None:
    code = ast.parse(space_files("org/a", "org/look", "org/b")["app.py"])
    (models,) = [node.value for node in code.body if isinstance(node, ast.Assign)]
    assert ast.literal_eval(models) == {"student": "org/a", "teacher": "org/b"}


def test_the_code_makes_the_page_of_both_models(monkeypatch: pytest.MonkeyPatch) -> None:
    gradio = pytest.importorskip("gradio")
    loaded, launched = [], []
    monkeypatch.setattr(scalpel_hf, "load_predictor", loaded.append)
    monkeypatch.setattr(gradio.Blocks, "launch", lambda blocks: launched.append(blocks))
    exec(space_files("org/a", "org/look", "org/b")["app.py"], {})
    assert loaded == ["org/a", "org/b"] and [blocks.title for blocks in launched] == ["look"]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["runs/student", "org/look", "--space"], "first `scalpel-hf push runs/student org/model`"),
        (["org/absent", "org/look", "--space"], "org/absent holds no model on the Hub"),
        (["org/student", "org/look", "--space", "--teacher", "org/absent"], "org/absent holds no model on the Hub"),
    ],
)
def test_what_is_not_on_the_hub_is_said(
    client: HfApi, student: str, flags: list[str], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "student").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=complaint):
        push.main(flags)
    assert not client.repo_exists("org/look", repo_type="space")
