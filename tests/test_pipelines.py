"""The project's own pipeline, and transformers' stock pipelines on its students."""

import copy
import json
import threading
import time
import tracemalloc
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from peft import get_peft_model
from PIL import Image
from skimage.measure import label, regionprops
from transformers import pipeline
from transformers.pipelines.pt_utils import KeyDataset

from scalpel_hf import InfraredImageProcessor, ScalpelMoeConfig, Teacher, load_sam
from scalpel_hf.modeling import ScalpelSamModel, ScalpelSamProcessor
from scalpel_hf.pipelines import to_8_bits
from scalpel_hf.predictors.student import DetectionStudent, new_student
from tests.hub.server import HubServer
from tests.small_models import SIZE, perturb, settle, small_mobile_sam

TASK = "infrared-small-target-detection"
KINDS = ["teacher", "stand-alone", "student"]


def make_frame(index: int, shape: tuple[int, int], dtype: type) -> np.ndarray:
    frame = np.random.default_rng(index).normal(0, 1, shape)
    frame[5:7, 8:11] += 6
    frame = (frame - frame.min()) / np.ptp(frame)
    return (frame * 255).astype(dtype) if dtype is np.uint8 else (14000 + frame * 1000).astype(dtype)


FRAMES = [
    make_frame(0, (40, 48), np.uint8),
    make_frame(1, (33, 57), np.uint16),
    make_frame(2, (40, 48), np.uint16),
    make_frame(3, (64, 35), np.uint8),
    make_frame(4, (33, 57), np.uint8),
]


def varied(model: torch.nn.Module) -> torch.nn.Module:
    """Predictions that vary over a frame: those of a fresh student hardly do."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight.normal_(std=(2 / module.weight[0].numel()) ** 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A folder of each kind of model, and what it gives for a frame by another way than the pipeline."""
    root = tmp_path_factory.mktemp("models")
    small_mobile_sam().save_pretrained(root / "base")
    processor = InfraredImageProcessor(sam_size=SIZE)
    adapted = get_peft_model(load_sam(root / "base"), ScalpelMoeConfig(bottleneck=8, full_resolution_channels=0))
    perturb(adapted)
    teacher = Teacher(adapted, processor)
    settle(teacher, FRAMES[0])
    teacher.save_pretrained(root / "teacher")
    ScalpelSamModel.from_peft(adapted).save_pretrained(root / "stand-alone")
    ScalpelSamProcessor(processor).save_pretrained(root / "stand-alone")
    student = new_student("segmentation", size="nano")
    varied(student.model)
    student.save_pretrained(root / "student")
    detector = new_student("detection", size="nano")
    varied(detector.model)
    detector.save_pretrained(root / "detector")
    probabilities = {"teacher": teacher.probabilities, "stand-alone": teacher.probabilities}
    return SimpleNamespace(
        root=root, probabilities={**probabilities, "student": student.probabilities}, teacher=teacher
    )


@pytest.fixture(scope="module", params=KINDS)
def finder(request: pytest.FixtureRequest, models: SimpleNamespace) -> SimpleNamespace:
    pipe = pipeline(TASK, model=str(models.root / request.param), device="cpu")
    probabilities = models.probabilities[request.param]
    threshold = float(np.quantile(np.concatenate([probabilities(f).ravel() for f in FRAMES]), 0.95))
    return SimpleNamespace(pipe=partial(pipe, threshold=threshold), probabilities=probabilities, threshold=threshold)


def assert_targets(targets: list[dict[str, Any]], probability: np.ndarray, threshold: float) -> None:
    """Against scikit-image's components of what the model gives by itself."""
    regions = regionprops(label(probability > threshold, connectivity=2), intensity_image=probability)
    regions.sort(key=lambda r: -r.intensity_mean)
    assert len(targets) == len(regions) > 0
    for target, region in zip(targets, regions, strict=True):
        assert set(target) == {"score", "label", "box", "mask"} and target["label"] == "target"
        assert target["score"] == pytest.approx(region.intensity_mean, abs=1e-5)
        top, left, bottom, right = region.bbox
        assert target["box"] == {"xmin": left, "ymin": top, "xmax": right, "ymax": bottom}
        assert target["mask"].mode == "L" and target["mask"].size == probability.shape[::-1]
        mask = np.zeros(probability.shape, np.uint8)
        mask[tuple(region.coords.T)] = 255
        np.testing.assert_array_equal(np.asarray(target["mask"]), mask)


def same(one: Any, other: Any) -> bool:
    """Whether two predictions for one frame are alike to rounding."""
    return len(one) == len(other) > 0 and all(
        a["box"] == b["box"] and abs(a["score"] - b["score"]) < 1e-5 and a["mask"].tobytes() == b["mask"].tobytes()
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("index", range(len(FRAMES)))
def test_targets_of_every_model_at_native_size(finder: SimpleNamespace, index: int) -> None:
    assert_targets(finder.pipe(FRAMES[index]), finder.probabilities(FRAMES[index]), finder.threshold)


def test_batches_of_frames_of_different_sizes_are_their_singles(finder: SimpleNamespace) -> None:
    singles = finder.pipe(FRAMES)
    for batch_size in (2, 3, 8):
        batched = finder.pipe(FRAMES, batch_size=batch_size)
        assert len(batched) == len(FRAMES) and all(map(same, batched, singles))


@pytest.fixture
def files(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """The frames as PNG files, on disk and behind a server."""
    paths = []
    for index, frame in enumerate(FRAMES):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(frame).save(paths[-1])

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=partial(server.serve_forever, 0.02), daemon=True).start()
    yield SimpleNamespace(paths=paths, url=f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def student(models: SimpleNamespace) -> Any:
    pipe = pipeline(TASK, model=str(models.root / "student"), device="cpu")
    threshold = float(np.quantile(models.probabilities["student"](FRAMES[0]), 0.95))
    return partial(pipe, threshold=threshold)


@pytest.mark.parametrize("index", [0, 1])
def test_frames_of_every_kind(student: Any, files: SimpleNamespace, index: int) -> None:
    """A 16-bit frame stays one in all of them."""
    path, frame = files.paths[index], FRAMES[index]
    expected = student(frame)
    kinds = (str(path), path, Image.open(path), path.read_bytes(), torch.from_numpy(frame.astype(np.int32)))
    for kind in (*kinds, f"{files.url}/{index}.png", frame.astype(np.float32), frame[..., None]):
        assert same(student(kind), expected), type(kind)


def test_data_sets(student: Any, files: SimpleNamespace) -> None:
    dataset = datasets.Dataset.from_dict(
        {"image": [str(p) for p in files.paths], "other": [str(p) for p in files.paths]},
        features=datasets.Features({"image": datasets.Image(), "other": datasets.Image(decode=False)}),
    )
    expected = student(FRAMES)
    for inputs in (dataset, KeyDataset(dataset, "image"), KeyDataset(dataset, "other"), dataset.to_iterable_dataset()):
        predictions = list(student(inputs, batch_size=2))
        assert len(predictions) == len(FRAMES) and all(map(same, predictions, expected))
    assert all(map(same, student(frame for frame in FRAMES), expected))


def test_a_loaded_model_comes_with_its_processor(models: SimpleNamespace) -> None:
    teacher = Teacher.from_pretrained(models.root / "teacher")
    threshold = float(np.quantile(teacher.probabilities(FRAMES[0]), 0.95))
    pipe = pipeline(TASK, model=teacher.model, image_processor=teacher.processor, device="cpu", threshold=threshold)
    assert_targets(pipe(FRAMES[0]), teacher.probabilities(FRAMES[0]), threshold)
    whole = ScalpelSamProcessor(teacher.processor)
    pipe = pipeline(TASK, model=teacher.model, image_processor=whole, device="cpu", threshold=threshold)
    assert_targets(pipe(FRAMES[0]), teacher.probabilities(FRAMES[0]), threshold)
    pipe = pipeline(TASK, model=teacher.model, image_processor=str(models.root / "teacher"), device="cpu")
    assert_targets(pipe(FRAMES[0], threshold=threshold), teacher.probabilities(FRAMES[0]), threshold)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_it_loads_again_without_remote_code(models: SimpleNamespace, tmp_path: Path, kind: str) -> None:
    pipe = pipeline(TASK, model=str(models.root / kind), device="cpu")
    pipe.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    again = pipeline(TASK, model=str(tmp_path), device="cpu")
    threshold = float(np.quantile(models.probabilities[kind](FRAMES[0]), 0.95))
    assert same(again(FRAMES[0], threshold=threshold), pipe(FRAMES[0], threshold=threshold))


def test_nothing_in_nothing_out(student: Any) -> None:
    assert student([]) == [] == student(()) == list(student(frame for frame in []))
    empty = datasets.Dataset.from_dict({"image": []}, features=datasets.Features({"image": datasets.Image()}))
    assert list(student(empty)) == [] == list(student(KeyDataset(empty, "image")))
    with pytest.raises(ValueError, match="`threshold` is a probability"):
        student.func([], threshold=2)


def test_frames_in_one_array_are_several(student: Any) -> None:
    frames = np.random.default_rng(0).random((2, 1, 40, 48), np.float32)
    assert len(student(frames)) == 2 and same(student(frames)[1], student(frames[1, 0]))


def test_a_tuple_is_taken_as_a_list(student: Any) -> None:
    predictions = student(tuple(FRAMES), batch_size=2)
    assert isinstance(predictions, list) and all(map(same, predictions, student(FRAMES)))


def test_thousands_of_targets_take_little_memory_and_time(student: Any) -> None:
    """20,164 targets in 1136 x 1136 pixels: full masks of them would take 26 GB."""
    probability = torch.zeros(1136, 1136)
    probability[::8, ::8] = 0.9
    probability[1::8, ::8] = 0.7
    probability[4::8, 4::8] = 0.3
    postprocess = student.func.postprocess
    tracemalloc.start()
    start = time.process_time()
    targets = postprocess({"probabilities": [probability]})
    seconds, (kept, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(targets) == 142 * 142 and kept < 40e6 and peak < 150e6 and seconds < 20
    last = targets[-1]
    assert last["score"] == pytest.approx(0.8)
    assert last["box"] == {"xmin": 1128, "ymin": 1128, "xmax": 1129, "ymax": 1130}
    mask = np.asarray(last["mask"])
    assert mask.shape == (1136, 1136) and mask.sum() == 2 * 255 and mask[1128, 1128] == mask[1129, 1128] == 255


def test_a_target_is_a_mapping(student: Any) -> None:
    target = student(FRAMES[0])[0]
    assert dict(target).keys() == {"score", "label", "box", "mask"} and len(target) == 4 and "mask" in target
    assert target.get("area") is None and {**target}["box"] == target["box"]
    with pytest.raises(KeyError):
        target["area"]
    assert copy.deepcopy(target)["mask"].tobytes() == target["mask"].tobytes()
    assert "'label': 'target'" in repr(target) and "<L image 48x40>" in repr(target)


def test_no_target_is_an_empty_list(student: Any) -> None:
    assert student.func(FRAMES[0], threshold=0.999999) == []


def test_wrong_inputs_are_clear_errors(models: SimpleNamespace, student: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`threshold` is a probability"):
        student.func(FRAMES[0], threshold=1.5)
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(OSError, match=r"broken\.png"):
        student(str(tmp_path / "broken.png"))
    with pytest.raises(OSError, match=r"absent\.png"):
        student(str(tmp_path / "absent.png"))
    named = datasets.Dataset.from_dict({"frame": [0]})
    with pytest.raises(ValueError, match="the columns frame and no `image`"):
        student(named)
    with pytest.raises(ValueError, match="the splits sea: pass one of them"):
        student(datasets.DatasetDict({"sea": named}))
    with pytest.raises(ValueError, match="pass the model's as `image_processor`"):
        pipeline(TASK, model=models.teacher.model, device="cpu")
    with pytest.raises(ValueError, match=r"gives no masks: use it with `pipeline\('object-detection'\)`"):
        pipeline(TASK, model=str(models.root / "detector"), device="cpu")


@pytest.mark.parametrize("index", range(len(FRAMES)))
def test_stock_image_segmentation_gives_masks_of_the_frames_size(models: SimpleNamespace, index: int) -> None:
    """On 16-bit frames after `to_8_bits`, with the masks of that frame."""
    frame = FRAMES[index] if FRAMES[index].dtype == np.uint8 else np.asarray(to_8_bits(FRAMES[index]))
    pipe = pipeline("image-segmentation", model=str(models.root / "student"), device="cpu")
    segments = {s["label"]: np.asarray(s["mask"]) for s in pipe(Image.fromarray(frame))}
    expected = models.probabilities["student"](frame) > 0.5
    assert set(segments) == {"background", "target"}
    np.testing.assert_array_equal(segments["target"], expected * np.uint8(255))
    np.testing.assert_array_equal(segments["background"], ~expected * np.uint8(255))


def test_stock_object_detection_gives_the_detectors_boxes(models: SimpleNamespace, files: SimpleNamespace) -> None:
    detector = DetectionStudent.from_pretrained(models.root / "detector")
    pipe = pipeline("object-detection", model=str(models.root / "detector"), device="cpu")
    for index in (0, 3):
        scores, boxes = detector.detect(FRAMES[index], threshold=0.5)
        found = pipe(str(files.paths[index]), threshold=0.5)
        assert [list(f["box"].values()) for f in found] == boxes.tolist() and len(found) > 0
        np.testing.assert_allclose([f["score"] for f in found], scores, atol=1e-6)
        assert {f["label"] for f in found} == {"target"}


def test_stock_pipelines_know_the_students(models: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    for task, name in (("image-segmentation", "student"), ("object-detection", "detector")):
        pipeline(task, model=str(models.root / name), device="cpu")
    assert "is not supported" not in caplog.text


def test_a_16_bit_frame_cut_by_a_stock_pipeline_is_a_warning(models: SimpleNamespace, files: SimpleNamespace) -> None:
    pipe = pipeline("image-segmentation", model=str(models.root / "student"), device="cpu")
    with pytest.warns(UserWarning, match="all white: 16-bit frames"):
        pipe(str(files.paths[1]))


def test_to_8_bits_is_linear() -> None:
    image = np.asarray(to_8_bits(FRAMES[1]), dtype=float)
    frame = FRAMES[1].astype(float)
    assert image.min() == 0 and image.max() == 255
    np.testing.assert_allclose(image, (frame - frame.min()) / np.ptp(frame) * 255, atol=0.5)
    assert not np.asarray(to_8_bits(np.full((3, 4), 7, np.uint16))).any()


def test_from_the_hub_in_a_fresh_interpreter(models: SimpleNamespace, hub: HubServer, tmp_path: Path) -> None:
    """An adapter's base has another commit than the adapter, which comes with the size that its base is loaded at."""
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    for name in ("base", *KINDS):
        api.create_repo(f"org/{name}")
        api.upload_folder(repo_id=f"org/{name}", folder_path=models.root / name)
    config = json.loads((models.root / "teacher" / "adapter_config.json").read_text())
    config = json.dumps({**config, "base_model_name_or_path": "org/base"}).encode()
    api.upload_file(repo_id="org/teacher", path_in_repo="adapter_config.json", path_or_fileobj=config)
    Image.fromarray(FRAMES[1]).save(tmp_path / "frame.png")
    thresholds = {k: float(np.quantile(models.probabilities[k](FRAMES[1]), 0.95)) for k in KINDS}
    code = f"""
import json, scalpel_hf
from transformers import pipeline
predictions = {{}}
for kind, threshold in {thresholds!r}.items():
    find = pipeline({TASK!r}, model="org/" + kind, device="cpu")
    predictions[kind] = [[t["score"], *t["box"].values()] for t in find("frame.png", threshold=threshold)]
print(json.dumps(predictions))
"""
    predictions = json.loads(hub.run(code, cwd=tmp_path).splitlines()[-1])
    for kind in KINDS:
        here = pipeline(TASK, model=str(models.root / kind), device="cpu")(FRAMES[1], threshold=thresholds[kind])
        expected = [[t["score"], *t["box"].values()] for t in here]
        assert len(expected) > 0
        np.testing.assert_allclose(predictions[kind], expected, atol=1e-5)
