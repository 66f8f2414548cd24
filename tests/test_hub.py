"""Pushing to a loopback Hub, and loading from it in fresh interpreters that know only the Hub."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from peft import get_peft_model
from PIL import Image

from scalpel_hf import (
    InfraredImageProcessor,
    ScalpelMoeConfig,
    ScalpelStudentConfig,
    ScalpelStudentForSemanticSegmentation,
    Student,
    Teacher,
    add_pseudo_labels,
)
from scalpel_hf.evaluation import evaluate_probabilities
from scalpel_hf.hub import push_dataset, push_folder, push_run, student_card, teacher_card
from scalpel_hf.teacher import load_sam
from scalpel_hf.training.arguments import LoopArguments
from scalpel_hf.training.report import write_metrics
from tests.hub_server import HubServer
from tests.small_models import SIZE, perturb, small_mobile_sam, small_sam

BASE, TEACHER, STUDENT, DATASET = "org/tiny-sam", "org/scalpel-sam", "org/scalpel-student", "org/scalpel-labels"
FRAME = np.random.default_rng(5).normal(1000, 30, (40, 48)).astype(np.float32)
ROWS = [{"image": FRAME, "mask": (FRAME > 1040).astype(np.uint8) * 255}]


@dataclass
class Arguments(LoopArguments):
    dataset: str = "data/nuaa-10pct"
    base_model: str = ""
    pseudo_labels: str = "org/labels"


@pytest.fixture
def client(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    """The pushing client of this process, which uses the loopback Hub as its endpoint."""
    monkeypatch.setattr("scalpel_hf.hub.HfApi", lambda: HfApi(endpoint=hub.endpoint, token=hub.token))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its tries
    return HfApi(endpoint=hub.endpoint, token=hub.token)


def finish(folder: Path, probabilities: Callable, **arguments: str) -> None:
    """Leave in the folder what a run leaves there, wanted and not."""
    outcome = {"steps": 7, "samples": 28, "seconds": 3.0, "last": {"loss": 0.5}, "best": None}
    args = Arguments(output_dir=str(folder), seed=3, **arguments)
    write_metrics(args, outcome, {"test": evaluate_probabilities(probabilities, ROWS)})
    for name in ("checkpoint-7/training.pt", "checkpoint-7/weights.safetensors", "prefix/a.safetensors", "logs/events"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not to be pushed")
    (folder / "best.safetensors").write_bytes(b"not to be pushed")


def make_teacher(folder: Path, base: torch.nn.Module) -> Teacher:
    """A teacher whose base lies in a folder, as after training."""
    base.save_pretrained(folder / "base")
    model = get_peft_model(load_sam(folder / "base"), ScalpelMoeConfig(blocks=1, channels=8))
    perturb(model)
    teacher = Teacher(model, InfraredImageProcessor(sam_size=SIZE))
    teacher.save_pretrained(folder / "teacher")
    finish(folder / "teacher", teacher.probabilities, base_model=str(folder / "base"))
    return teacher


def make_student(folder: Path) -> Student:
    torch.manual_seed(0)
    model = ScalpelStudentForSemanticSegmentation(ScalpelStudentConfig.from_size("nano")).eval()
    student = Student(model, InfraredImageProcessor())
    student.save_pretrained(folder)
    finish(folder, student.probabilities)
    return student


def make_dataset(teacher: Teacher, folder: Path) -> datasets.Dataset:
    """Two frames, one of them in a file of this machine, one with a human's mask."""
    frames = [np.clip(FRAME - 900 + 10 * i, 0, 255).astype(np.uint8) for i in range(2)]
    paths = [str(folder / f"{i}.png") for i in range(2)]
    for frame, path in zip(frames, paths, strict=True):
        Image.fromarray(frame).save(path)
    features = {"name": datasets.Value("string"), "image": datasets.Image(), "mask": datasets.Image()}
    rows = {"name": ["a", "b"], "image": paths, "mask": [Image.fromarray((frames[0] > 150).astype(np.uint8)), None]}
    rows["label_source"] = ["human", "none"]
    features["label_source"] = datasets.Value("string")
    return add_pseudo_labels(datasets.Dataset.from_dict(rows, datasets.Features(features)), teacher, 0.5, TEACHER)


def snippets(client: HfApi, name: str, folder: Path, kind: str = "model") -> list[str]:
    card = Path(client.hf_hub_download(name, "README.md", repo_type=kind, cache_dir=folder / "card")).read_text()
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def push_base(client: HfApi, folder: Path, name: str) -> None:
    client.create_repo(name)
    client.upload_folder(repo_id=name, folder_path=folder / "base")


LOAD_TEACHER = """
from peft import PeftModel
from scalpel_hf import InfraredImageProcessor

inputs = InfraredImageProcessor.from_pretrained("{repo}")(frame, return_tensors="pt")
del inputs["original_sizes"], inputs["reshaped_input_sizes"]
models = [AutoModel.from_pretrained("{repo}"), PeftModel.from_pretrained(load_sam("{base}"), "{repo}")]
with torch.no_grad():
    for model in models:
        result.append(model.eval()(**inputs, multimask_output=False).pred_masks.sigmoid()[0, 0, 0])
result.append(Teacher.from_pretrained("{repo}").probabilities(frame))
"""


def test_what_was_pushed_answers_the_same_elsewhere(hub: HubServer, client: HfApi, tmp_path: Path) -> None:
    own_frame = "frame = np.load('../frame.npy')"
    here, code = [], "import torch\nresult = []\n"
    for index, base in enumerate((small_mobile_sam(), small_sam())):
        repo, base_id = f"{TEACHER}-{index}", f"{BASE}-{index}"
        teacher = make_teacher(tmp_path / str(index), base)
        push_base(client, tmp_path / str(index), base_id)
        push_run(tmp_path / str(index) / "teacher", repo, base_id)
        code += "\n".join([*snippets(client, repo, tmp_path), own_frame, LOAD_TEACHER.format(repo=repo, base=base_id)])
        here += [teacher.probabilities(FRAME)] * 3
    assert here[0].std() > 0.01

    student = make_student(tmp_path / "student")
    push_run(tmp_path / "student", STUDENT)
    (snippet,) = snippets(client, STUDENT, tmp_path)
    code += f"{snippet}\n{re.sub('frame = .*', own_frame, snippet)}\nresult.append(probabilities)\n"
    code += f"result.append(scalpel_hf.Student.from_pretrained('{STUDENT}').probabilities(frame))\n"
    here += [student.probabilities(FRAME)] * 2

    np.save(tmp_path / "frame.npy", FRAME)
    (tmp_path / "elsewhere").mkdir()
    hub.run(f"{code}\nnp.save('../result.npy', np.stack(result))", tmp_path / "elsewhere")
    # Not bitwise: where in memory a loaded weight begins decides which kernel multiplies it; shifting every weight by
    # one float changes these by 5e-6.
    np.testing.assert_allclose(np.load(tmp_path / "result.npy"), np.stack(here), rtol=0, atol=1e-5)


def test_a_push_is_one_commit_of_what_belongs_there(hub: HubServer, client: HfApi, tmp_path: Path) -> None:
    make_teacher(tmp_path, small_mobile_sam())
    push_base(client, tmp_path, BASE)
    url = push_run(tmp_path / "teacher", TEACHER, BASE)
    commits = client.list_repo_commits(TEACHER)
    assert len(commits) == 2 and url == f"{hub.endpoint}/{TEACHER}/commit/{commits[0].commit_id}"
    assert set(client.list_repo_files(TEACHER)) == {
        *(".gitattributes", "README.md", "adapter_config.json", "adapter_model.safetensors"),
        *("metrics.json", "preprocessor_config.json"),
    }
    config = json.loads(Path(client.hf_hub_download(TEACHER, "adapter_config.json", cache_dir=tmp_path)).read_text())
    assert config["base_model_name_or_path"] == BASE
    local = json.loads((tmp_path / "teacher/adapter_config.json").read_text())
    assert local == {**config, "base_model_name_or_path": str(tmp_path / "base")}

    make_student(tmp_path / "student")
    push_run(tmp_path / "student", STUDENT)
    assert set(client.list_repo_files(STUDENT)) == {
        *(".gitattributes", "README.md", "config.json", "metrics.json"),
        *("model.safetensors", "preprocessor_config.json"),
    }


def test_a_card_says_what_the_run_recorded(client: HfApi, tmp_path: Path) -> None:
    teacher = make_teacher(tmp_path, small_mobile_sam())
    push_base(client, tmp_path, BASE)
    client.create_repo("org/labels", repo_type="dataset")
    push_run(tmp_path / "teacher", TEACHER, BASE)
    card = ModelCard(Path(client.hf_hub_download(TEACHER, "README.md", cache_dir=tmp_path)).read_text())
    figures = evaluate_probabilities(teacher.probabilities, ROWS)
    assert (card.data.base_model, card.data.library_name, card.data.license) == (BASE, "peft", "apache-2.0")
    assert card.data.datasets == ["org/labels"]  # and not data/nuaa-10pct, which was a folder
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == {
        key: figures[key] for key in ("iou", "niou", "pd", "fa", "f1")
    }
    assert {(r.dataset_name, r.dataset_split) for r in card.data.eval_results} == {("data/nuaa-10pct", "test")}
    for part in ("seed 3", "recipes/distill.py", "| 0.5 | 3 px |", f"{100 * figures['iou']:.2f}", "max_steps: 1000"):
        assert part in card.text
    assert str(tmp_path) not in str(card)


def test_a_base_in_a_folder_is_an_error_with_the_remedy(hub: HubServer, client: HfApi, tmp_path: Path) -> None:
    make_teacher(tmp_path, small_mobile_sam())
    with pytest.raises(ValueError, match="pass its id as `base_model_id`"):
        push_run(tmp_path / "teacher", TEACHER)
    with pytest.raises(ValueError, match="'org/nowhere' is not on the Hub"):
        push_run(tmp_path / "teacher", TEACHER, "org/nowhere")
    assert not client.repo_exists(TEACHER)
    card = teacher_card(tmp_path / "teacher", TEACHER, BASE)
    card.data.base_model = str(tmp_path / "base")
    with pytest.raises(ValueError, match="base_model_id"):
        push_folder(tmp_path / "teacher", TEACHER, card)


@pytest.mark.parametrize("where", ["lfs", "commit"])
def test_an_interrupted_push_leaves_the_repository_and_is_repeated(
    hub: HubServer, client: HfApi, tmp_path: Path, where: str
) -> None:
    student = make_student(tmp_path)
    push_run(tmp_path, STUDENT)
    before = client.model_info(STUDENT)
    with torch.no_grad():
        next(student.model.parameters()).add_(1)
    student.save_pretrained(tmp_path)
    hub.cut_uploads(100, where)
    with pytest.raises(ConnectionError, match="push it again"):
        push_run(tmp_path, STUDENT)
    assert hub.cuts < 100
    hub.cut_uploads(0)
    assert client.model_info(STUDENT).sha == before.sha

    push_run(tmp_path, STUDENT)
    weights = Path(client.hf_hub_download(STUDENT, "model.safetensors", cache_dir=tmp_path / "cache")).read_bytes()
    assert weights == (tmp_path / "model.safetensors").read_bytes()
    assert len(client.list_repo_commits(STUDENT)) == 3


def test_a_folder_without_weights_or_figures(client: HfApi, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"metrics\.json is missing"):
        push_run(tmp_path, STUDENT)
    make_student(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="nothing to push"):
        push_folder(tmp_path, STUDENT, student_card(tmp_path, STUDENT))
    assert not client.repo_exists(STUDENT)


def test_a_pushed_data_set_is_the_same_elsewhere(
    hub: HubServer, client: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = make_dataset(make_teacher(tmp_path, small_mobile_sam()), tmp_path)
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    monkeypatch.setattr("scalpel_hf.hub.ROWS", 1)
    push_dataset(labelled, DATASET)
    assert len(client.list_repo_commits(DATASET, repo_type="dataset")) == 2
    (code,) = snippets(client, DATASET, tmp_path, "dataset")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    hub.run(f"{code}\ndataset.save_to_disk('../again')", elsewhere)
    again = datasets.load_from_disk(str(tmp_path / "again"))
    assert again.features == labelled.features and len(again) == 2
    undecoded = [d.cast_column("image", datasets.Image(decode=False)) for d in (again, labelled)]
    for row, path in zip(undecoded[0], paths, strict=True):  # the image is in the repository, the path is not
        assert row["image"] == {"bytes": path.read_bytes(), "path": path.name}
    for column in set(labelled.column_names) - {"image"}:
        assert undecoded[0][column][:] == undecoded[1][column][:], column

    monkeypatch.setattr("scalpel_hf.hub.ROWS", 5)
    push_dataset(labelled.select([1]), DATASET)  # of the two files before, none is left
    files = client.list_repo_files(DATASET, repo_type="dataset")
    assert [f for f in files if f.startswith("data/")] == ["data/train-00000-of-00001.parquet"]
