import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from scalpel_hf import hub

FIGURES = {"iou": 0.65, "niou": 0.7, "pd": 1.0, "fa": 20.5, "f1": 0.8, "threshold": 0.5, "distance": 3.0}
RECORD = {
    "metrics": {"test": FIGURES},
    "training": {"steps": 7},
    "arguments": {"dataset": "org/frames", "seed": 3},
    "command": "recipes/transfer.py --seed 3",
}


class FakeApi:
    """Keeps what would be uploaded."""

    calls: list[dict] = []  # noqa: RUF012

    def create_repo(self, repo_id: str, **kwargs: object) -> None:
        self.calls.append({"repo_id": repo_id, **kwargs})

    def upload_folder(self, **kwargs: object) -> SimpleNamespace:
        self.calls.append(kwargs)
        return SimpleNamespace(commit_url="https://hub/commit")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> type[FakeApi]:
    FakeApi.calls = []
    monkeypatch.setattr(hub, "HfApi", FakeApi)
    return FakeApi


def run_folder(path: Path, base: str | None = None) -> Path:
    path.mkdir()
    (path / "metrics.json").write_text(json.dumps(RECORD))
    (path / "checkpoint-7").mkdir()
    if base is not None:
        (path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return path


def test_a_student_goes_in_one_commit_without_its_checkpoints(tmp_path: Path, api: type[FakeApi]) -> None:
    folder = run_folder(tmp_path / "student")
    assert hub.push_run(folder, "org/student") == "https://hub/commit"
    uploads = [c for c in api.calls if "folder_path" in c]
    assert len(uploads) == 1 and "model.safetensors" in uploads[0]["allow_patterns"]
    assert not any("checkpoint" in p or "*" in p for p in uploads[0]["allow_patterns"])
    card = ModelCard.load(folder / "README.md")
    values = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert values == {k: FIGURES[k] for k in ("iou", "niou", "pd", "fa", "f1")}
    assert 'Student.from_pretrained("org/student")' in card.text and "seed 3" in card.text


def test_a_teachers_base_must_be_on_the_hub(tmp_path: Path, api: type[FakeApi]) -> None:
    local = run_folder(tmp_path / "local", base=str(tmp_path))
    with pytest.raises(ValueError, match="push the base first"):
        hub.push_run(local, "org/teacher")
    assert not api.calls
    shutil.rmtree(local)
    folder = run_folder(tmp_path / "teacher", base="org/mobile-sam")
    hub.push_run(folder, "org/teacher")
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == "org/mobile-sam" and card.data.library_name == "peft"
