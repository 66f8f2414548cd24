"""Pushing to a loopback Hub: what arrives, what its cards say, and that their snippets run elsewhere."""

import json
import re
import shutil
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import DatasetCard, HfApi, ModelCard
from peft import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import load_file

from scalpel_hf.data import LabelBudget, load_split
from scalpel_hf.data.contents import FrameKey
from scalpel_hf.evaluation import IRSTDMetrics
from scalpel_hf.evaluation.unseen import TRAINED_ON_FILE, TrainedOn
from scalpel_hf.hub.card_parts import PICTURE
from scalpel_hf.hub.model_card import student_card, teacher_card
from scalpel_hf.hub.provenance import Provenance
from scalpel_hf.hub.upload import _files, push_dataset, push_folder, push_metric, push_run, save_standalone
from scalpel_hf.predictors.committee import Committee
from scalpel_hf.predictors.load import load_predictor
from scalpel_hf.predictors.teacher import Teacher
from scalpel_hf.runtime.settings import hash_tensors
from tests.hub.models import (
    FRAME,
    ROWS,
    make_detector,
    make_labelled,
    make_prepared,
    make_student,
    make_teacher,
    push_base,
)
from tests.hub.server import HubServer
from tests.runtime.made_by_hand import write_student
from tests.small_models import SIZE, small_mobile_sam, small_sam

BASE, TEACHER, ALONE = "org/tiny-sam", "org/scalpel-sam", "org/scalpel-sam-alone"
STUDENT, DETECTOR, DATASET, METRIC = "org/scalpel-student", "org/scalpel-detector", "org/scalpel-labels", "org/irstd"
# Not bitwise: where in memory a loaded weight begins decides which kernel multiplies it; shifting every weight by one
# float changes these by 5e-6.
CLOSE = {"rtol": 0, "atol": 1e-5}


def download(client: HfApi, name: str, file: str, folder: Path, kind: str = "model") -> Path:
    return Path(client.hf_hub_download(name, file, repo_type=kind, cache_dir=folder / "downloads"))


def snippets(client: HfApi, name: str, folder: Path, kind: str = "model") -> list[str]:
    card = download(client, name, "README.md", folder, kind).read_text()
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def commits(client: HfApi, name: str, kind: str = "model") -> int:
    return len(client.list_repo_commits(name, repo_type=kind)) - 1  # but for the one that made the repository


def assert_nothing_of_this_machine(client: HfApi, name: str, folder: Path, kind: str = "model") -> None:
    for file in client.list_repo_files(name, repo_type=kind):
        content = download(client, name, file, folder, kind).read_bytes()
        assert str(folder).encode() not in content, file
        assert not file.endswith((".pt", ".bin", ".pkl"))


def run_elsewhere(hub: HubServer, code: str, folder: Path, **kwargs: bool) -> None:
    (folder / "elsewhere").mkdir(exist_ok=True)
    np.save(folder / "frame.npy", FRAME)
    hub.run(code, folder / "elsewhere", **kwargs)


def on_own_frame(snippet: str) -> str:
    return re.sub(r"^frame = .*$", "frame = np.load('../frame.npy')", snippet, flags=re.M)


# What a teacher's card has made, `by_peft` and `model`, on the frame.
TEACHER_WAYS = """
from transformers import AutoImageProcessor
inputs = AutoImageProcessor.from_pretrained("{repo}")(frame, return_tensors="pt")
del inputs["original_sizes"], inputs["reshaped_input_sizes"]
for loaded in (by_peft, model):
    with torch.no_grad():
        result.append(loaded.eval()(**inputs, multimask_output=False).pred_masks.sigmoid()[0, 0, 0].numpy())
"""


# What the pipeline of the card `found`, against the `probabilities` of its other way.
SAME_TARGETS = """
assert found and all(set(target) == {"score", "label", "box", "mask"} for target in found)
assert sum(np.asarray(target["mask"], int) for target in found).sum() == 255 * (probabilities > 0.5).sum()
"""


def test_the_snippets_of_all_cards_answer_as_the_models_here(hub: HubServer, client: HfApi, tmp_path: Path) -> None:
    here, code, alone_code = [], "import torch\nresult = []\n", ""
    for index, base in enumerate((small_mobile_sam(), small_sam())):
        folder, base_id = tmp_path / str(index), f"{BASE}-{index}"
        teacher = make_teacher(folder, base)
        push_base(client, folder, base_id)
        push_run(folder / "teacher", f"{TEACHER}-{index}", base_id)
        own, piped, by_peft, by_auto = snippets(client, f"{TEACHER}-{index}", tmp_path)
        code += f"{on_own_frame(own)}\nresult.append(probabilities)\n{piped}\n{SAME_TARGETS}"
        code += f"{by_peft}\nby_peft = model\n{by_auto}"
        code += TEACHER_WAYS.format(repo=f"{TEACHER}-{index}")
        here += [teacher.probabilities(FRAME)] * 3
    save_standalone(folder / "teacher", folder / "alone")
    push_run(folder / "alone", ALONE, base_id)
    student, detector = make_student(tmp_path / "student"), make_detector(tmp_path / "detector")
    push_run(tmp_path / "student", STUDENT)
    push_run(tmp_path / "detector", DETECTOR)
    whole, piped, prompted = snippets(client, ALONE, tmp_path)
    of_student, student_piped = snippets(client, STUDENT, tmp_path)
    pipes = ""
    for snippet, pipe in ((whole, piped), (of_student, student_piped)):
        alone_code += f"{on_own_frame(snippet)}\nprobabilities = probabilities.numpy()\nresult.append(probabilities)\n"
        alone_code += f"{prompted}\nassert masks.shape == (1, 3, *frame.shape)\n" if snippet is whole else ""
        pipes += f"probabilities = result[{-2 if snippet is whole else -1}]\n{pipe}\n{SAME_TARGETS}"
    of_detector, detector_piped = snippets(client, DETECTOR, tmp_path)
    alone_code += on_own_frame(of_detector).replace("outputs, 0.5,", "outputs, 0.0,")
    pipes += detector_piped.replace("threshold=0.5", "threshold=0.0")
    pipes += "\nassert len(found) == len(targets['boxes']) and set(found[0]) == {'score', 'label', 'box'}\n"
    here += [here[-1], student.probabilities(FRAME)]
    assert all(prediction.std() > 1e-3 for prediction in here)
    scores, boxes = detector.detect(FRAME, 0.0)

    save = "\nnp.savez('../result.npz', result=np.stack(result), **targets)"
    # as the cards say: without the package's import, and with trust in the code
    trusting = re.sub(r"from_pretrained\((.*?)\)", r"from_pretrained(\1, trust_remote_code=True)", alone_code)
    for text, without_package, expected in (
        (code + alone_code + pipes, False, here),
        ("result = []\n" + trusting.replace("import scalpel_hf", "#"), True, here[-2:]),
    ):
        run_elsewhere(hub, text + save, tmp_path, without_package=without_package)
        found = np.load(tmp_path / "result.npz")
        np.testing.assert_allclose(found["result"], np.stack(expected), **CLOSE)
        assert len(scores) and np.array_equal(found["boxes"], boxes)
        np.testing.assert_allclose(found["scores"], scores, **CLOSE)


def test_a_base_that_moved_is_named_by_the_commit_trained_on(hub: HubServer, client: HfApi, tmp_path: Path) -> None:
    """From the training to the pushed adapter and card; its repository has another commit by then."""
    make_teacher(tmp_path, small_mobile_sam())
    push_base(client, tmp_path, BASE)
    trained_on = client.model_info(BASE).sha
    code = f"""
from peft import get_peft_model
from scalpel_hf import ScalpelMoeConfig, load_sam
for revision in (None, "main", "{trained_on}"):
    base = load_sam("{BASE}", **({{}} if revision is None else {{"revision": revision}}))
    config = get_peft_model(base, ScalpelMoeConfig()).peft_config["default"]
    assert base.config._commit_hash == config.revision == "{trained_on}", (base.config._commit_hash, config.revision)
    assert config.base_model_name_or_path == "{BASE}"
"""
    run_elsewhere(hub, code, tmp_path)
    for file, values in (
        ("adapter_config.json", {"base_model_name_or_path": BASE, "revision": trained_on}),
        ("metrics.json", {"base_revision": trained_on}),
    ):
        content = json.loads((tmp_path / "teacher" / file).read_text())
        if file == "metrics.json":
            content["arguments"]["base_model"] = BASE
        (tmp_path / "teacher" / file).write_text(json.dumps({**content, **values}))
    client.upload_file(path_or_fileobj=b"moved", path_in_repo="note.txt", repo_id=BASE)
    assert client.model_info(BASE).sha != trained_on
    push_run(tmp_path / "teacher", TEACHER)
    config = json.loads(download(client, TEACHER, "adapter_config.json", tmp_path).read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (BASE, trained_on)
    assert ModelCard.load(download(client, TEACHER, "README.md", tmp_path)).data.base_model_revision == trained_on
    config["revision"] = "f" * 40
    (tmp_path / "teacher" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"has no commit f+ on the Hub, which this was trained on"):
        push_run(tmp_path / "teacher", TEACHER)


def test_a_pushed_data_set_names_no_path_of_its_teacher(hub: HubServer, client: HfApi, tmp_path: Path) -> None:
    rows = make_labelled(make_teacher(tmp_path, small_mobile_sam()), tmp_path, str(tmp_path / "runs" / "teacher"))
    assert {teacher["repo"] for teacher in rows["teacher"] if teacher} == {"teacher"}
    for name in (str(tmp_path / "runs" / "teacher"), "../../home_of_someone/runs/teacher"):  # of an earlier version

        def named(row: dict, name: str = name) -> dict:
            return {"teacher": row["teacher"] and {**row["teacher"], "repo": name}}

        push_dataset(rows.map(named, features=rows.features, keep_in_memory=True), DATASET)
        (file,) = [file for file in client.list_repo_files(DATASET, repo_type="dataset") if file.endswith(".parquet")]
        back = datasets.Dataset.from_parquet(str(download(client, DATASET, file, tmp_path, "dataset")))
        assert {teacher["repo"] for teacher in back["teacher"] if teacher} == {"teacher"}
        assert back.features["teacher"] == rows.features["teacher"]


def test_a_push_is_one_commit_of_what_belongs_there(
    hub: HubServer, client: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the data set that the run names isn't, and no pictures can be made of it
    make_teacher(tmp_path, small_mobile_sam())
    push_base(client, tmp_path, BASE)
    url = push_run(tmp_path / "teacher", TEACHER, BASE)
    (newest, _) = client.list_repo_commits(TEACHER)
    assert url == f"{hub.endpoint}/{TEACHER}/commit/{newest.commit_id}"
    always = {".gitattributes", "README.md", "metrics.json"}
    assert set(client.list_repo_files(TEACHER)) == {
        *always,
        *("adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json"),
    }
    config = json.loads(download(client, TEACHER, "adapter_config.json", tmp_path).read_text())
    at = {"base_model_name_or_path": BASE, "revision": client.model_info(BASE).sha}
    local = json.loads((tmp_path / "teacher/adapter_config.json").read_text())
    assert config == {**local, **at} and local["base_model_name_or_path"] == str(tmp_path / "base")

    save_standalone(tmp_path / "teacher", tmp_path / "alone")
    make_student(tmp_path / "student")
    state = load_file(tmp_path / "student" / "model.safetensors")
    write_student(tmp_path / "student" / "onnx", weights=hash_tensors(t.numpy().tobytes() for t in state.values()))
    for file in ("model_int8.onnx", "notes.txt"):  # of an earlier export, and of the user
        (tmp_path / "student" / "onnx" / file).write_text("{}")
    for name, folder, own in (
        (ALONE, "alone", {"config.json", "model.safetensors", "processor_config.json"}),
        (
            STUDENT,
            "student",
            {"config.json", "model.safetensors", "processor_config.json", "onnx/model.onnx", "onnx/runtime.json"},
        ),
    ):
        before = {path: path.read_bytes() for path in (tmp_path / folder).iterdir() if path.is_file()}
        push_run(tmp_path / folder, name, BASE)
        assert before == {path: path.read_bytes() for path in (tmp_path / folder).iterdir() if path.is_file()}
        files = {file for file in client.list_repo_files(name) if not file.endswith(".py")}
        assert files == {*always, *own} and commits(client, name) == 1
        assert_nothing_of_this_machine(client, name, tmp_path)
    assert_nothing_of_this_machine(client, TEACHER, tmp_path)


def test_an_export_of_other_weights_is_not_pushed(client: HfApi, tmp_path: Path) -> None:
    make_student(tmp_path / "student")
    for weights in ("", "0" * 64):  # unknown, and of a student that was trained again since
        write_student(tmp_path / "student" / "onnx", weights=weights)
        with pytest.raises(ValueError, match=r"runtime\.json was exported from other weights"):
            push_run(tmp_path / "student", STUDENT, pictures=False)
    assert not client.repo_exists(STUDENT)


def test_what_a_model_was_trained_on_is_pushed_and_known_elsewhere(
    hub: HubServer, client: HfApi, tmp_path: Path
) -> None:
    make_student(tmp_path / "student")
    make_teacher(tmp_path, small_sam())
    client.create_repo(BASE)
    client.upload_folder(repo_id=BASE, folder_path=tmp_path / "base")
    record = TrainedOn([FrameKey.of("f0", FRAME), FrameKey.of("f1", FRAME[::-1])])
    record.save(tmp_path / "student")
    record.save(tmp_path / "teacher")
    save_standalone(tmp_path / "teacher", tmp_path / "alone")
    for folder, name in (("student", STUDENT), ("teacher", TEACHER), ("alone", ALONE)):
        push_run(tmp_path / folder, name, BASE, pictures=False)
    code = """
from scalpel_hf.evaluation.unseen import TrainedOn
for name in {names}:
    print(len(TrainedOn.load(name).frames))
print(TrainedOn.load("org/absent"))
"""
    assert hub.run(code.format(names=[STUDENT, TEACHER, ALONE]), tmp_path).split() == ["2", "2", "2", "None"]
    (tmp_path / "student" / TRAINED_ON_FILE).unlink()  # of a model that doesn't say it, nothing may be left that does
    push_run(tmp_path / "student", STUDENT, pictures=False)
    assert TRAINED_ON_FILE not in client.list_repo_files(STUDENT)


def test_weights_are_safetensors_with_a_header_that_adds_up(client: HfApi, tmp_path: Path) -> None:
    make_student(tmp_path)
    push_run(tmp_path, STUDENT)
    content = download(client, STUDENT, "model.safetensors", tmp_path).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    ends = [value["data_offsets"][1] for name, value in header.items() if name != "__metadata__"]
    assert len(content) == 8 + length + max(ends)


def push_teacher_with_data(client: HfApi, folder: Path, dataset: str) -> ModelCard:
    make_teacher(folder, small_mobile_sam(), dataset=dataset)
    push_base(client, folder, BASE)
    push_run(folder / "teacher", TEACHER, BASE)
    return ModelCard(download(client, TEACHER, "README.md", folder).read_text())


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_a_card_says_what_the_model_was_made_of(
    client: HfApi, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = make_prepared(tmp_path / "data")
    dataset, revision = str(tmp_path / "data"), prepared["train"]._fingerprint
    if where == "hub":
        dataset = "org/frames"
        push_dataset(prepared, dataset, budget=LabelBudget.load(tmp_path / "data" / "label_budget.json"))
        revision = client.dataset_info(dataset).sha
        monkeypatch.setattr("scalpel_hf.hub.example_grid.load_split", lambda name, split: prepared[split])
    card = push_teacher_with_data(client, tmp_path, dataset)
    data = card.data
    assert data.base_model == BASE and data.base_model_relation == "adapter" and data.library_name == "peft"
    assert data.base_model_revision == client.model_info(BASE).sha
    assert data.datasets == ([dataset] if where == "hub" else None)
    assert data.train_split == "train" and data.dataset_revision == revision
    assert data.label_budget == {"fraction": 0.5, "seed": 0, "total": 6, "labelled": 3}
    metrics = json.loads((tmp_path / "teacher/metrics.json").read_text())["metrics"]["test"]
    results = {result.metric_type: result for result in data.eval_results}
    assert {key: result.metric_value for key, result in results.items()} == {
        key: metrics[key] for key in ("iou", "niou", "pd", "fa", "f1")
    }
    name = dataset if where == "hub" else "data"
    assert {(r.dataset_name, r.dataset_split, r.dataset_revision) for r in results.values()} == {
        (name, "test", revision)
    }

    text = card.text
    for part in (
        *(f"the split `train` of `{name}` (revision `{revision}`)", "3 of 6 frames", "label budget of\n50 % drawn"),
        *(
            "scalpel-hf distill",
            "scalpel-hf distill --config config.yaml",
            "max_steps: 1000",
            "seed: 3",
            "one run, seed 3",
        ),
        *("| 0.5 | 3 px |", f"{100 * metrics['iou']:.2f}", "Not meant for decisions about people"),
        *("aiming weapons", "Apache-2.0", "keeps its own licence", "![", "examples.png"),
    ):
        assert part.replace("\n", " ") in text.replace("\n", " "), part
    picture = Image.open(BytesIO(download(client, TEACHER, "examples.png", tmp_path).read_bytes()))
    assert picture.size == (3 * 196, 4 * 196) and np.asarray(picture).std() > 10
    assert_nothing_of_this_machine(client, TEACHER, tmp_path)


def test_pictures_show_truth_in_green_and_answers_in_red(tmp_path: Path) -> None:
    from scalpel_hf.hub.example_grid import example_pictures

    prepared = make_prepared(tmp_path / "data")
    make_student(tmp_path / "student", dataset=str(tmp_path / "data"))
    content = example_pictures(tmp_path / "student", Provenance(dataset_revision="here"))
    assert content is not None
    picture = np.asarray(Image.open(BytesIO(content))).astype(int)
    green = (picture == (60, 220, 90)).all(-1)
    cells = green.reshape(4, 196, 3, 196).sum((1, 3))
    assert (cells[:, 1] > 0).all() and not cells[:, [0, 2]].any()  # each row has its truth in the middle
    assert len(prepared["test"]) > 4
    assert example_pictures(tmp_path / "student", Provenance()) is None


def test_figures_of_detectors_and_of_nothing(client: HfApi, tmp_path: Path) -> None:
    make_detector(tmp_path / "detector")
    record = json.loads((tmp_path / "detector/metrics.json").read_text())
    card = student_card(tmp_path / "detector", DETECTOR)
    results = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert results["ap50"] == record["metrics"]["test"]["ap50"] and "recall" in results and "iou" not in results
    assert card.data.pipeline_tag == "object-detection" and "AP50" in card.text and "COCO" in card.text
    by_boxes = {"f1": 0.5, "pd": 0.75, "false_alarms_per_frame": 0.25, "ap50": 0.4, "threshold": 0.5}
    (tmp_path / "detector/metrics.json").write_text(json.dumps({**record, "metrics": {"test": by_boxes}}))
    card = student_card(tmp_path / "detector", DETECTOR)
    results = {r.metric_type: r.metric_config for r in card.data.eval_results}
    assert results["pd"] == "threshold 0.5, centres of detections in boxes" and "false_alarms_per_frame" in results
    assert "| 75.00 |" in card.text and "| in boxes |" in card.text and "By boxes that people drew" in card.text
    (tmp_path / "detector/metrics.json").write_text(json.dumps({**record, "metrics": {}}))
    card = student_card(tmp_path / "detector", DETECTOR)
    assert card.data.eval_results is None and "Not measured" in card.text


def test_only_data_sets_on_the_hub_are_named_as_such(client: HfApi, tmp_path: Path) -> None:
    client.create_repo("org/labels", repo_type="dataset")
    make_student(tmp_path, dataset="org/nothing")
    push_run(tmp_path, STUDENT)
    assert ModelCard(download(client, STUDENT, "README.md", tmp_path).read_text()).data.datasets == ["org/labels"]


def test_a_committee_is_pushed_whole(hub: HubServer, client: HfApi, tmp_path: Path) -> None:
    teacher = make_teacher(tmp_path, small_sam())
    push_base(client, tmp_path, BASE)
    committee = Committee([teacher, teacher, make_student(tmp_path / "student")])
    committee.save_pretrained(tmp_path / "teacher")
    push_run(tmp_path / "teacher", TEACHER, BASE, pictures=False)
    np.save(tmp_path / "frame.npy", FRAME)
    code = f"""
import numpy as np, scalpel_hf
committee = scalpel_hf.Teacher.from_pretrained({TEACHER!r})
print([type(member).__name__ for member in committee.members])
np.save("probability.npy", committee.probabilities(np.load("frame.npy")))
"""
    assert hub.run(code, tmp_path).strip() == "['Teacher', 'Teacher', 'SegmentationStudent']"
    np.testing.assert_allclose(np.load(tmp_path / "probability.npy"), committee.probabilities(FRAME), **CLOSE)
    assert_nothing_of_this_machine(client, TEACHER, tmp_path)
    teacher.save_pretrained(tmp_path / "teacher")  # in its place one alone
    push_run(tmp_path / "teacher", TEACHER, BASE, pictures=False)
    assert not any("committee" in name for name in client.list_repo_files(TEACHER))


def repository(client: HfApi, name: str, folder: Path) -> dict[str, bytes]:
    files = client.list_repo_files(name)
    return {file: download(client, name, file, folder).read_bytes().replace(name.encode(), b"") for file in files}


@pytest.mark.parametrize("kind", ["teacher", "committee", "alone", "student", "detector"])
def test_what_was_loaded_is_pushed_as_its_folder_is(client: HfApi, tmp_path: Path, kind: str) -> None:
    folder, base_id = tmp_path / ("teacher" if kind == "committee" else kind), BASE
    if kind in ("student", "detector"):
        (make_student if kind == "student" else make_detector)(folder)
        base_id = None
    else:
        teacher = make_teacher(tmp_path, small_sam())
        push_base(client, tmp_path, BASE)
        if kind == "committee":
            Committee([teacher, make_student(tmp_path / "other")]).save_pretrained(folder)
        elif kind == "alone":
            save_standalone(tmp_path / "teacher", folder)
    loaded = load_predictor(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    push_run(folder, "org/of-the-folder", base_id, pictures=False)
    url = loaded.push_to_hub("org/of-the-object", base_id, pictures=False)
    assert url.endswith(client.list_repo_commits("org/of-the-object")[0].commit_id)
    of_folder, of_object = (repository(client, f"org/of-the-{what}", tmp_path) for what in ("folder", "object"))
    assert of_object.keys() == of_folder.keys() and any("committee" in file for file in of_object) == (
        kind == "committee"
    )
    for file in of_object.keys() - {"README.md"}:
        assert of_object[file] == of_folder[file], file
    assert of_object["README.md"].replace(b"of-the-object", b"of-the-folder") == of_folder["README.md"]
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_of_no_folder_or_has_changed_is_not_pushed(client: HfApi, tmp_path: Path) -> None:
    made = make_student(tmp_path / "student")
    teacher = make_teacher(tmp_path, small_sam())
    again = Teacher.from_pretrained(tmp_path / "teacher")
    both = Teacher.from_pretrained([tmp_path / "teacher", tmp_path / "teacher"])
    for of_no_folder in (made, teacher, both, Committee([again])):
        with pytest.raises(ValueError, match=r"only models that were loaded from a run's folder.*`scalpel-hf push`"):
            of_no_folder.push_to_hub(STUDENT)
    student = load_predictor(tmp_path / "student")
    with torch.no_grad():
        next(student.model.parameters()).add_(1e-3)
        next(v for v in get_peft_model_state_dict(again.model).values() if v.is_floating_point()).add_(1e-3)
    with pytest.raises(ValueError, match=r"since it was loaded from .*student \(model\.safetensors differs\)"):
        student.push_to_hub(STUDENT)
    with pytest.raises(ValueError, match=r"since it was loaded from .*teacher \(adapter_model\.safetensors differs\)"):
        again.push_to_hub(STUDENT, BASE)
    student = load_predictor(tmp_path / "student")
    student.processor.normalization = "percentile"
    with pytest.raises(ValueError, match=r"since it was loaded from .*student \(preprocessor_config\.json differs\)"):
        student.push_to_hub(STUDENT)
    student, record = load_predictor(tmp_path / "student"), tmp_path / "student" / "metrics.json"
    record.write_text('{"arguments": {}}')
    with pytest.raises(ValueError, match=r"metrics\.json isn't a run's record \(no `dataset` in `arguments`\)"):
        student.push_to_hub(STUDENT)
    record.unlink()
    with pytest.raises(FileNotFoundError, match=r"metrics\.json is missing"):
        student.push_to_hub(STUDENT)
    shutil.rmtree(tmp_path / "student")
    with pytest.raises(FileNotFoundError, match="student, from which this model was loaded, is missing"):
        student.push_to_hub(STUDENT)
    assert not client.repo_exists(STUDENT)


def test_a_resized_base_is_not_loaded_by_the_auto_class(client: HfApi, tmp_path: Path) -> None:
    make_teacher(tmp_path, small_sam())
    provenance = Provenance(BASE, "a" * 40, 2 * SIZE)
    card = teacher_card(tmp_path / "teacher", TEACHER, provenance)
    assert f"its own input size, {2 * SIZE} pixels" in card.text and "import AutoModel" not in card.text
    assert "import AutoModel" in teacher_card(tmp_path / "teacher", TEACHER, Provenance(BASE, "a" * 40, SIZE)).text


def test_a_base_in_a_folder_is_an_error_with_the_remedy(client: HfApi, tmp_path: Path) -> None:
    make_teacher(tmp_path, small_mobile_sam())
    save_standalone(tmp_path / "teacher", tmp_path / "alone")
    for folder in ("teacher", "alone"):
        with pytest.raises(ValueError, match="pass its id as `base_model_id`"):
            push_run(tmp_path / folder, TEACHER)
        with pytest.raises(ValueError, match="'org/nowhere' is not on the Hub"):
            push_run(tmp_path / folder, TEACHER, "org/nowhere")
    assert not client.repo_exists(TEACHER)
    card = teacher_card(tmp_path / "teacher", TEACHER, Provenance(BASE))
    card.data.base_model = str(tmp_path / "base")
    with pytest.raises(ValueError, match="base_model_id"):
        push_folder(tmp_path / "teacher", TEACHER, card)


def test_adapter_and_whole_model_do_not_share_a_repository(client: HfApi, tmp_path: Path) -> None:
    make_teacher(tmp_path, small_mobile_sam())
    push_base(client, tmp_path, BASE)
    push_run(tmp_path / "teacher", TEACHER, BASE)
    make_student(tmp_path / "student")
    with pytest.raises(ValueError, match="another repository"):
        push_run(tmp_path / "student", TEACHER)
    with pytest.raises(ValueError, match="another repository"):
        push_run(tmp_path / "teacher", BASE, BASE)
    assert commits(client, TEACHER) == 1 and commits(client, BASE) == 1


def pushes(folder: Path, client: HfApi) -> dict[str, tuple[str, str, Callable[[], str]]]:
    """Of each kind: the repository, its type, and how it is pushed."""
    teacher = make_teacher(folder, small_mobile_sam())
    push_base(client, folder, BASE)
    save_standalone(folder / "teacher", folder / "alone")
    make_student(folder / "student")
    labelled = make_labelled(teacher, folder, TEACHER)
    return {
        "adapter": (TEACHER, "model", lambda: push_run(folder / "teacher", TEACHER, BASE)),
        "standalone": (ALONE, "model", lambda: push_run(folder / "alone", ALONE, BASE)),
        "student": (STUDENT, "model", lambda: push_run(folder / "student", STUDENT)),
        "dataset": (DATASET, "dataset", lambda: push_dataset(labelled, DATASET)),
        "metric": (METRIC, "space", lambda: push_metric(METRIC)),
    }


def test_an_interrupted_push_leaves_the_repository_and_is_repeated(
    hub: HubServer, client: HfApi, tmp_path: Path
) -> None:
    for kind, (name, repo_type, push) in pushes(tmp_path, client).items():
        client.create_repo(name, repo_type=repo_type, space_sdk="gradio" if repo_type == "space" else None)
        before = client.repo_info(name, repo_type=repo_type).sha
        for where in ("lfs", "commit"):
            if kind == "metric" and where == "lfs":
                continue  # it has no large files
            hub.objects.clear()
            hub.cut_uploads(100, where)
            with pytest.raises(ConnectionError, match="push it again"):
                push()
            assert hub.cuts < 100, kind
            hub.cut_uploads(0)
            assert client.repo_info(name, repo_type=repo_type).sha == before
        push()
        assert commits(client, name, repo_type) == 1
        assert set(client.list_repo_files(name, repo_type=repo_type)) > {"README.md"}


def test_what_is_pushed_again_replaces_what_was_there(client: HfApi, tmp_path: Path) -> None:
    student = make_student(tmp_path)
    push_run(tmp_path, STUDENT)
    with torch.no_grad():
        next(student.model.parameters()).add_(1)
    student.save_pretrained(tmp_path)
    push_run(tmp_path, STUDENT)
    weights = download(client, STUDENT, "model.safetensors", tmp_path).read_bytes()
    assert weights == (tmp_path / "model.safetensors").read_bytes() and commits(client, STUDENT) == 2


def test_nothing_of_an_earlier_push_is_left_that_the_new_one_lacks(client: HfApi, tmp_path: Path) -> None:
    prepared, budget = make_prepared(tmp_path / "data"), LabelBudget.load(tmp_path / "data" / "label_budget.json")
    push_dataset(prepared, DATASET, budget=budget)
    push_dataset(prepared, DATASET)
    assert "label_budget.json" not in client.list_repo_files(DATASET, repo_type="dataset")
    make_student(tmp_path)
    card = student_card(tmp_path, STUDENT)
    push_folder(tmp_path, STUDENT, card, extra={PICTURE: b"picture"})
    push_folder(tmp_path, STUDENT, card)
    assert PICTURE not in client.list_repo_files(STUDENT)


def test_members_of_an_earlier_committee_are_not_pushed(tmp_path: Path) -> None:
    teacher = make_teacher(tmp_path, small_mobile_sam())
    for members in (3, 2):
        Committee([teacher] * members).save_pretrained(tmp_path / "teacher")
    folders = {Path(name).parent.name for name in _files(tmp_path / "teacher", "model")}
    assert (tmp_path / "teacher" / "committee-2").exists() and folders == {"", "committee-1"}


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
    labelled = make_labelled(make_teacher(tmp_path, small_mobile_sam()), tmp_path, TEACHER)
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    monkeypatch.setattr("scalpel_hf.hub.upload.ROWS", 1)
    push_dataset(labelled, DATASET)
    assert commits(client, DATASET, "dataset") == 1
    (code,) = snippets(client, DATASET, tmp_path, "dataset")
    run_elsewhere(hub, f"import numpy\n{code}\ndataset.save_to_disk('../again')", tmp_path)
    again = datasets.load_from_disk(str(tmp_path / "again"))
    assert again.features == labelled.features and len(again) == 2
    undecoded = [d.cast_column("image", datasets.Image(decode=False)) for d in (again, labelled)]
    for row, path in zip(undecoded[0], paths, strict=True):  # the image is in the repository, the path is not
        assert row["image"] == {"bytes": path.read_bytes(), "path": path.name}
    for column in set(labelled.column_names) - {"image"}:
        assert undecoded[0][column][:] == undecoded[1][column][:], column
    card = DatasetCard(download(client, DATASET, "README.md", tmp_path, "dataset").read_text())
    assert f"`{TEACHER}`, weights and settings" in card.text and "| train | `human` | 1 |" in card.text

    monkeypatch.setattr("scalpel_hf.hub.upload.ROWS", 5)
    push_dataset(labelled.select([1]), DATASET)  # of the two files before, none is left
    files = client.list_repo_files(DATASET, repo_type="dataset")
    assert [f for f in files if f.startswith("data/")] == ["data/train-00000-of-00001.parquet"]


def test_a_prepared_data_set_keeps_its_splits_and_its_budget(hub: HubServer, client: HfApi, tmp_path: Path) -> None:
    prepared, budget = make_prepared(tmp_path / "data"), LabelBudget.load(tmp_path / "data" / "label_budget.json")
    push_dataset(prepared, DATASET, license="mit", budget=budget)
    card = DatasetCard(download(client, DATASET, "README.md", tmp_path, "dataset").read_text())
    assert (
        card.data.license == "mit"
        and card.data.label_budget["fraction"] == 0.5
        and "pseudo-labels" not in card.data.tags
    )
    assert "Meant for research" in card.text and "aiming weapons" in card.text and "Licences" in card.text
    assert "3 of 6 training frames" in card.text and "| train | `none` | 3 |" in card.text and "| test |" in card.text
    assert LabelBudget.load(download(client, DATASET, "label_budget.json", tmp_path, "dataset")) == budget
    code = "from scalpel_hf.data import load_split\nfor split in ('train', 'test'):\n    "
    code += f"load_split('{DATASET}', split).save_to_disk('../' + split)"
    run_elsewhere(hub, code, tmp_path)
    for split, rows in prepared.items():
        again = datasets.load_from_disk(str(tmp_path / split))
        assert again["name"][:] == rows["name"][:]
        assert again["label_source"][:] == load_split(tmp_path / "data", split)["label_source"][:]
        for row, own in zip(again, rows, strict=True):
            assert np.array_equal(row["image"], own["image"]) and (row["mask"] is None) == (own["mask"] is None)


def test_a_pushed_metric_needs_nothing_of_this_project(hub: HubServer, client: HfApi, tmp_path: Path) -> None:
    push_metric(METRIC)
    assert set(client.list_repo_files(METRIC, repo_type="space")) == {
        *(".gitattributes", "README.md", "app.py", "irstd.py", "irstd_metrics.py", "requirements.txt"),
    }
    card = download(client, METRIC, "README.md", tmp_path, "space").read_text()
    assert "sdk: gradio" in card and "license: apache-2.0" in card and "scalpel_hf/evaluation" not in card
    assert commits(client, METRIC, "space") == 1
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    np.savez(tmp_path / "frames.npz", prob=np.random.default_rng(0).random((3, 9, 11)), mask=np.eye(9, 11) > 0)
    code = f"""
import json, numpy as np
data = np.load("../frames.npz")
frames = [(prob, data["mask"].astype(np.uint8)) for prob in data["prob"]]
{code}
open("../results.json", "w").write(json.dumps(results))
"""
    run_elsewhere(hub, code, tmp_path, without_package=True)
    data, metrics = np.load(tmp_path / "frames.npz"), IRSTDMetrics()
    for prob in data["prob"]:
        metrics.update(prob, data["mask"])
    assert json.loads((tmp_path / "results.json").read_text()) == metrics.compute()


def test_the_frames_are_the_test_frames() -> None:
    assert ROWS[0]["mask"].any()  # or every comparison of metrics above were one of zeros
