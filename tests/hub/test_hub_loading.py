"""Every way of loading what was pushed, by the unmodified client in fresh interpreters that know only the Hub."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi

from scalpel_hf.hub.upload import push_folder, push_run, save_standalone
from scalpel_hf.modeling.custom_code import MODULES
from scalpel_hf.modeling.modeling_scalpel_sam import ScalpelSamModel
from tests.hub.models import FRAME, make_detector, make_student, make_teacher, push_base
from tests.hub.server import HubServer
from tests.small_models import perturb, settle, small_mobile_sam, small_sam

BASE, OTHER_BASE = "org/tiny-mobile-sam", "org/tiny-sam"
TEACHER, OTHER_TEACHER, ALONE = "org/scalpel-sam", "org/scalpel-sam-b", "org/scalpel-sam-alone"
STUDENT, DETECTOR = "org/scalpel-student", "org/scalpel-detector"

# Loading with the package imported: each line gives a name and what the model found under it predicts.
LOADING = f"""
import sys
import numpy as np, torch
import scalpel_hf
from huggingface_hub import snapshot_download
from peft import AutoPeftModel, PeftModel
from PIL import Image
from transformers import (
    AutoImageProcessor, AutoModel, AutoModelForObjectDetection, AutoModelForSemanticSegmentation, AutoProcessor,
    pipeline,
)
from scalpel_hf import load_sam

frame, predictions = np.load("frame.npy"), {{}}

@torch.no_grad()
def predict(name, model, processor):
    inputs = processor(frame, return_tensors="pt")
    for key in {{"original_sizes", "reshaped_input_sizes"}} & set(inputs):
        del inputs[key]
    output = model.eval()(**inputs)
    masks = output.logits if "logits" in output else output.pred_masks[:, :, :1]
    predictions[name] = masks.squeeze().numpy()

def everything(where, teacher, other, alone, student, detector, **hub):
    infrared = AutoImageProcessor.from_pretrained(teacher, **hub)
    predict(f"1 {{where}}", AutoModel.from_pretrained(teacher, **hub), infrared)
    predict(f"1 {{where}} SamModel", AutoModel.from_pretrained(other, **hub), infrared)
    predict(f"2 {{where}}", AutoModel.from_pretrained(alone, **hub), AutoProcessor.from_pretrained(alone, **hub))
    base = load_sam("{BASE}", **hub)
    predict(f"4 {{where}}", PeftModel.from_pretrained(base, teacher, **hub), infrared)
    allowed = {{"import_allowlist": ["scalpel_hf"]}}
    predict(f"4 {{where}} auto", AutoPeftModel.from_pretrained(teacher, **allowed, **hub), infrared)
    predict(f"4 {{where}} auto SamModel", AutoPeftModel.from_pretrained(other, **hub), infrared)
    processor = AutoImageProcessor.from_pretrained(student, **hub)
    predict(f"5 {{where}}", AutoModelForSemanticSegmentation.from_pretrained(student, **hub), processor)
    predict(f"5 {{where}} detector", AutoModelForObjectDetection.from_pretrained(detector, **hub), processor)
    for name, model in (("", teacher), (" SamModel", other), (" alone", alone), (" student", student)):
        through_pipeline(f"6 {{where}}{{name}}", model, model_kwargs=hub)
    through_pipeline(f"6 {{where}} stock student", student, "image-segmentation", model_kwargs=hub)
    through_pipeline(f"6 {{where}} stock detector", detector, "object-detection", model_kwargs=hub)

def through_pipeline(name, model, task="infrared-small-target-detection", **options):
    pipe = pipeline(task, model=model, device="cpu", **options)
    predict(name, pipe.model, pipe.image_processor)
    (found,) = pipe([image], threshold=0.0)
    keys = {{"score", "label", "mask"}} if task == "image-segmentation" else {{"score", "label", "box"}}
    keys |= {{"mask"}} if task.startswith("infrared") else set()
    assert found and all(set(target) == keys and "target" in target["label"] for target in found[-1:]), found

image = Image.fromarray(((frame - frame.min()) / np.ptp(frame) * 255).astype(np.uint8))
names = ["{TEACHER}", "{OTHER_TEACHER}", "{ALONE}", "{STUDENT}", "{DETECTOR}"]
everything("hub", *names)
everything("folder", *(snapshot_download(name) for name in names))
assert "transformers_modules" not in sys.modules  # no code of a repository was run
"""
OPTIONS = f"""
everything("cache_dir", *names, cache_dir="elsewhere")

def old(name, **at):
    infrared = AutoImageProcessor.from_pretrained("{TEACHER}")
    base = load_sam("{BASE}")
    # Given as `revision` or `subfolder` itself, transformers asks the base for it too.
    predict(f"1 {{name}}", AutoModel.from_pretrained("{TEACHER}", adapter_kwargs=at), infrared)
    predict(f"4 {{name}}", PeftModel.from_pretrained(base, "{TEACHER}", **at), infrared)
    predict(f"2 {{name}}", AutoModel.from_pretrained("{ALONE}", **at), AutoProcessor.from_pretrained("{ALONE}", **at))
    processor = AutoImageProcessor.from_pretrained("{STUDENT}", **at)
    predict(f"5 {{name}}", AutoModelForSemanticSegmentation.from_pretrained("{STUDENT}", **at), processor)
    allowed = {{"import_allowlist": ["scalpel_hf"]}}
    if name == "revision":  # peft asks the base for a `subfolder`, too
        predict(f"4 auto {{name}}", AutoPeftModel.from_pretrained("{TEACHER}", **allowed, **at), infrared)
    options = at if name == "revision" else {{"model_kwargs": at}}
    through_pipeline(f"6 {{name}}", "{ALONE}", **options)
    through_pipeline(f"6 student {{name}}", "{STUDENT}", **options)
    through_pipeline(f"6 stock student {{name}}", "{STUDENT}", "image-segmentation", **options)

import os
cached = {{f"models--{{name.replace('/', '--')}}" for name in [*names, "{BASE}", "{OTHER_BASE}"]}}
assert cached <= set(os.listdir("elsewhere"))

options = {{"revision": "v1", "cache_dir": "elsewhere_teacher"}}
teacher = scalpel_hf.Teacher.from_pretrained("{TEACHER}", token="hf_loopback_read", **options)
for name in ("{TEACHER}", "{BASE}"):
    assert f"models--{{name.replace('/', '--')}}" in os.listdir("elsewhere_teacher")
scalpel_hf.Teacher.from_pretrained("{TEACHER}", local_files_only=True, **options)
through_pipeline("6 teacher revision", teacher.model, image_processor=teacher.processor)
old("revision", revision="v1")
old("subfolder", subfolder="old")
"""
ALONE_OPTIONS = f"""
everything("cache_dir", *names, cache_dir="elsewhere_alone")
for name, at in (("revision", {{"revision": "v1"}}), ("subfolder", {{"subfolder": "old"}})):
    at["trust_remote_code"] = True
    inputs = AutoProcessor.from_pretrained("{ALONE}", **at)(frame)
    predict(f"3 {{name}}", AutoModel.from_pretrained("{ALONE}", **at), inputs)
    inputs = AutoImageProcessor.from_pretrained("{STUDENT}", **at)(frame, return_tensors="pt")
    predict(f"3 student {{name}}", AutoModelForSemanticSegmentation.from_pretrained("{STUDENT}", **at), inputs)
"""
SAVE = '\nnp.savez("{name}.npz", **predictions)\n'
# Loading without the package, by the code in the repositories.
ALONE_CODE = f"""
import sys
import numpy as np, torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForMaskGeneration, AutoModelForObjectDetection,
    AutoModelForSemanticSegmentation, AutoProcessor, pipeline,
)

frame, predictions = np.load("frame.npy"), {{}}

@torch.no_grad()
def predict(name, model, inputs):
    output = model.eval()(**inputs)
    predictions[name] = (output.logits if "logits" in output else output.pred_masks).squeeze().numpy()

def everything(where, alone, student, detector, base, **hub):
    of_hub, hub = hub, {{**hub, "trust_remote_code": True}}
    processor = AutoProcessor.from_pretrained(alone, **hub)
    for auto_class in (AutoModel, AutoModelForMaskGeneration):
        model = auto_class.from_pretrained(alone, **hub)
        predict(f"3 {{where}} {{auto_class.__name__}}", model, processor(frame))
    targets = processor.post_process_object_detection(model(**processor(frame)), 0.5, [frame.shape])
    assert {{"scores", "labels", "boxes"}} == set(targets[0])
    infrared = AutoImageProcessor.from_pretrained(student, **hub)(frame, return_tensors="pt")
    for auto_class in (AutoModel, AutoModelForSemanticSegmentation):
        predict(f"3 {{where}} student {{auto_class.__name__}}", auto_class.from_pretrained(student, **hub), infrared)
    pipe = pipeline("image-segmentation", model=student, device="cpu", trust_remote_code=True, model_kwargs=of_hub)
    predict(f"3 {{where}} stock student", pipe.model, infrared)
    del infrared["original_sizes"]
    for auto_class in (AutoModel, AutoModelForObjectDetection):
        predict(f"3 {{where}} detector {{auto_class.__name__}}", auto_class.from_pretrained(detector, **hub), infrared)
    assert type(AutoConfig.from_pretrained(alone, **hub)).__name__ == "ScalpelSamConfig"
    own_processor = type(AutoImageProcessor.from_pretrained(alone, **hub))
    assert own_processor.__name__ == "InfraredImageProcessor" and own_processor.__module__.startswith("transformers_")
    sam = AutoModel.from_pretrained(base, **hub)
    predict(f"3 {{where}} base", sam, {{"pixel_values": processor(frame)["pixel_values"], "multimask_output": False}})

for auto_class in (AutoModel, AutoProcessor):
    try:
        auto_class.from_pretrained("{ALONE}")
    except ValueError as error:
        assert "trust_remote_code=True" in str(error), error
    else:
        raise AssertionError("code was run without trust")

names = ["{ALONE}", "{STUDENT}", "{DETECTOR}", "{BASE}"]
everything("hub", *names)
everything("folder", *(snapshot_download(name) for name in names))
"""


@dataclass
class Pushed:
    hub: HubServer
    folder: Path
    expected: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    """A Hub with bases, teachers, a stand-alone teacher and students; `v1` and the folder `old` are other weights."""
    folder, expected = tmp_path_factory.mktemp("pushed"), {}
    with HubServer() as hub, pytest.MonkeyPatch.context() as patch:
        hub.home = folder / "hf_home"
        client = HfApi(endpoint=hub.endpoint, token=hub.token)
        patch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        patch.setattr("scalpel_hf.hub.upload.HfApi", lambda: client)
        make_all(folder, client, expected)
        np.save(folder / "frame.npy", FRAME)
        yield Pushed(hub, folder, expected)


def make_all(folder: Path, client: HfApi, expected: dict[str, np.ndarray]) -> None:
    teachers = [make_teacher(folder / name, base) for name, base in (("a", small_mobile_sam()), ("b", small_sam()))]
    student, detector = make_student(folder / "student"), make_detector(folder / "detector")
    push_base(client, folder / "b", OTHER_BASE)
    small_mobile_sam().save_pretrained(folder / "mobile")
    push_folder(folder / "mobile", BASE, base_card())
    for version in ("old", "new"):
        for teacher, name, repo, base in zip(teachers, "ab", (TEACHER, OTHER_TEACHER), (BASE, OTHER_BASE), strict=True):
            perturb(teacher.model)
            settle(teacher, FRAME)
            teacher.save_pretrained(folder / name / "teacher")
            push_run(folder / name / "teacher", repo, base)
        save_standalone(folder / "a" / "teacher", folder / "alone")
        push_run(folder / "alone", ALONE, BASE)
        for parameter in student.model.parameters():
            parameter.data.mul_(1.1)
        student.save_pretrained(folder / "student")
        push_run(folder / "student", STUDENT)
        expected |= {f"{version} {key}": value for key, value in answers_of(teachers, student, detector).items()}
        if version == "old":
            for repo in (TEACHER, ALONE, STUDENT):
                client.create_tag(repo, tag="v1")
    push_run(folder / "detector", DETECTOR)
    for repo in (TEACHER, ALONE, STUDENT):
        patterns = ["*.safetensors", "*config.json"]
        old = client.snapshot_download(repo, revision="v1", local_dir=folder / f"{repo} v1", allow_patterns=patterns)
        client.upload_folder(repo_id=repo, folder_path=old, path_in_repo="old", allow_patterns=patterns)


@torch.no_grad()
def answers_of(teachers: list, student, detector) -> dict[str, np.ndarray]:
    inputs = teachers[0].processor(FRAME, return_tensors="pt")
    inputs = {key: inputs[key] for key in ("pixel_values", "frames", "frame_boxes")}
    plain = {"pixel_values": student.processor(FRAME, return_tensors="pt")["pixel_values"]}
    return {
        "teacher": teachers[0].model(**inputs, multimask_output=False).pred_masks.squeeze().numpy(),
        "SamModel": teachers[1].model(**inputs, multimask_output=False).pred_masks.squeeze().numpy(),
        "student": student.model(**plain).logits.squeeze().numpy(),
        "detector": detector.model(**plain).logits.squeeze().numpy(),
        "base": small_mobile_sam()(inputs["pixel_values"], multimask_output=False).pred_masks.squeeze().numpy(),
    }


def base_card():
    from huggingface_hub import ModelCard

    return ModelCard("---\nlicense: apache-2.0\n---\n\n# A base\n")


def assert_predictions(pushed: Pushed, name: str) -> None:
    found = dict(np.load(pushed.folder / f"{name}.npz"))
    assert found
    for way, prediction in found.items():
        kind = next((k for k in ("SamModel", "detector", "student", "base") if k in way), None)
        kind = kind or ("student" if way.startswith("5") else "teacher")
        version = "old" if way.endswith(("revision", "subfolder")) else "new"
        expected = pushed.expected[f"{version} {kind}"]
        # Not bitwise: where in memory a loaded weight begins decides which kernel multiplies it.
        np.testing.assert_allclose(prediction, expected, rtol=1e-4, atol=1e-4 * expected.std(), err_msg=way)


def test_the_old_and_the_new_answer_differently(pushed: Pushed) -> None:
    for kind in ("teacher", "student"):
        old, new = pushed.expected[f"old {kind}"], pushed.expected[f"new {kind}"]
        assert np.abs(old - new).max() > 0.1 * new.std()


def test_with_the_package_imported(pushed: Pushed) -> None:
    printed = pushed.hub.run(LOADING + OPTIONS + SAVE.format(name="imported"), pushed.folder)
    assert "custom code" not in printed  # nobody was asked whether it may be run
    assert len(np.load(pushed.folder / "imported.npz").files) == 3 * 14 + 2 * 7 + 2
    assert_predictions(pushed, "imported")


def test_offline_once_downloaded(pushed: Pushed) -> None:
    before = len(pushed.hub.requests)
    pushed.hub.run(LOADING + SAVE.format(name="offline"), pushed.folder, HF_HUB_OFFLINE="1")
    assert len(pushed.hub.requests) == before
    assert_predictions(pushed, "offline")


def test_without_the_package_by_the_repositorys_code_and_only_with_trust(pushed: Pushed) -> None:
    code = ALONE_CODE + ALONE_OPTIONS + 'assert not any(name.startswith("scalpel_hf") for name in sys.modules)'
    pushed.hub.run(code + SAVE.format(name="alone"), pushed.folder, without_package=True)
    assert len(np.load(pushed.folder / "alone.npz").files) == 3 * 8 + 2 * 2
    assert_predictions(pushed, "alone")
    before = len(pushed.hub.requests)
    pushed.hub.run(ALONE_CODE + SAVE.format(name="again"), pushed.folder, without_package=True, HF_HUB_OFFLINE="1")
    assert len(pushed.hub.requests) == before
    assert_predictions(pushed, "again")


def test_the_code_that_travels_is_the_packages(pushed: Pushed) -> None:
    client = HfApi(endpoint=pushed.hub.endpoint, token=pushed.hub.token)
    for repo in (ALONE, STUDENT, DETECTOR, BASE):
        code = [name for name in client.list_repo_files(repo) if name.endswith(".py")]
        assert code
        for name in code:
            path = client.hf_hub_download(repo, name, cache_dir=pushed.folder / "code")
            assert Path(path).read_text() == (MODULES / name).read_text()
    assert not [name for name in client.list_repo_files(TEACHER) if name.endswith(".py")]


def test_the_standalone_folder_is_the_teacher(pushed: Pushed) -> None:
    model = ScalpelSamModel.from_pretrained(pushed.folder / "alone")
    assert model.config.blocks == ["layers.3.blocks.1.mlp"] and model.config.channels == 8
