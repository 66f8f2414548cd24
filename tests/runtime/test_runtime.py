import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi
from PIL import Image

pytest.importorskip("onnxruntime")
from scalpel_hf.runtime import OnnxStudent, load_exported
from scalpel_hf.runtime.__main__ import main
from tests.hub.server import HubServer
from tests.runtime.made_by_hand import TARGETS, frame_with_targets, write_student, write_video

ROOT = Path(__file__).parents[2]
BLOCKED = [
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "scipy",
    "onnx",
    "av",
    "yaml",
    "huggingface_hub",
    "tqdm",
]


def test_detections_of_logits_and_of_probabilities(tmp_path: Path) -> None:
    frame = frame_with_targets()
    logits = OnnxStudent.from_pretrained(write_student(tmp_path / "a"))
    probabilities = OnnxStudent.from_pretrained(write_student(tmp_path / "b", threshold_inside=True), threads=1)
    z = (frame - frame.mean()) / frame.std()
    np.testing.assert_allclose(logits.probabilities(frame), 1 / (1 + np.exp(6 - 2 * z)), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(logits.probabilities(frame), probabilities.probabilities(frame), rtol=1e-5, atol=1e-7)
    for student in (logits, probabilities):
        boxes, scores, mask = student.detect(frame)
        assert boxes.tolist() == TARGETS
        assert ((scores > 0.5) & (scores <= 1)).all() and mask.sum() == 7
        assert len(student.detect(frame, threshold=1.0).boxes) == 0


def test_a_graph_that_normalizes_gets_the_frame_as_it_was_read(tmp_path: Path) -> None:
    student = OnnxStudent.from_pretrained(write_student(tmp_path, normalization_inside=True))
    frame = np.array([[2**30, 2**30 + 3], [2**30 + 5, 2**30]])  # more digits than float32 has, but for the offset
    np.testing.assert_allclose(student.probabilities(frame), 1 / (1 + np.exp([[6, 0], [-4, 6]])), rtol=1e-5)


def test_files_and_arrays_are_the_same_frame(tmp_path: Path) -> None:
    student, frame = OnnxStudent.from_pretrained(write_student(tmp_path)), frame_with_targets()
    Image.fromarray(frame).save(tmp_path / "frame.png")
    for other in (tmp_path / "frame.png", Image.fromarray(frame), frame.astype(np.float64)):
        np.testing.assert_array_equal(student.probabilities(other), student.probabilities(frame))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.onnx"):
        OnnxStudent.from_pretrained(tmp_path)
    write_student(tmp_path / "onnx")
    OnnxStudent.from_pretrained(tmp_path)  # a student's own folder has them in `onnx`
    with pytest.raises(FileNotFoundError, match=r"model_int8\.onnx"):
        OnnxStudent.from_pretrained(tmp_path, file="model_int8.onnx")
    (tmp_path / "onnx" / "runtime.json").write_text('{"threshold": 0.5}')
    with pytest.raises(ValueError, match=r"runtime\.json"):
        OnnxStudent.from_pretrained(tmp_path)


def test_neither_torch_nor_transformers(tmp_path: Path) -> None:
    frame = frame_with_targets()
    Image.fromarray(frame).save(write_student(tmp_path) / "frame.png")
    code = f"""
import sys
class Blocked:
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {BLOCKED}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
from scalpel_hf.runtime import OnnxStudent
from scalpel_hf.runtime.__main__ import main
boxes, scores, mask = OnnxStudent.from_pretrained({str(tmp_path)!r}).detect({str(tmp_path / "frame.png")!r})
print(boxes.tolist())
main([{str(tmp_path)!r}, {str(tmp_path / "frame.png")!r}])
assert not set({BLOCKED}) & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    boxes, line = done.stdout.splitlines()
    assert json.loads(boxes) == TARGETS and json.loads(line)["boxes"] == TARGETS


def test_from_the_hub(hub: HubServer, tmp_path: Path) -> None:
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    api.create_repo("org/student")
    write_student(tmp_path / "files" / "onnx")
    (tmp_path / "files" / "model.safetensors").write_bytes(b"not needed here")
    api.upload_folder(repo_id="org/student", folder_path=tmp_path / "files")
    np.save(tmp_path / "frame.npy", frame_with_targets())
    code = """
    import numpy as np, pathlib, os
    from scalpel_hf.runtime import OnnxStudent, load_exported
    student = OnnxStudent.from_pretrained("org/student")
    print(student.detect(np.load("frame.npy")).boxes.tolist())
    print([p.name for p in pathlib.Path(os.environ["HF_HOME"]).rglob("*.safetensors")])
    for name in ("org/nothing", "no such/name/at all"):
        try:
            OnnxStudent.from_pretrained(name)
        except FileNotFoundError as error:
            print(error)
    """
    boxes, weights, *errors = hub.run(code, tmp_path).splitlines()
    assert json.loads(boxes) == TARGETS
    assert weights == "[]"
    assert len(errors) == 2 and "org/nothing" in errors[0] and "no such/name/at all" in errors[1]


def test_command_on_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "frames").mkdir()
    for name in ("a", "b"):
        Image.fromarray(frame_with_targets()).save(tmp_path / "frames" / f"{name}.png")
    out = tmp_path / "new" / "boxes.jsonl"
    main([str(write_student(tmp_path)), str(tmp_path / "frames"), "--out", str(out), "--threads", "1"])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["frame"], line["boxes"]) for line in lines] == [("a.png", TARGETS), ("b.png", TARGETS)]
    printed = capsys.readouterr()
    assert "2 frames, 4 targets, " in printed.err and " fps" in printed.err and printed.out == ""
    main([str(tmp_path), str(tmp_path / "frames")])
    assert capsys.readouterr().out == out.read_text()


def test_command_on_a_video(tmp_path: Path) -> None:
    video = write_video(tmp_path / "sequence.mkv", [frame_with_targets()] * 3, "ffv1", "gray16le")
    main([str(write_student(tmp_path)), str(video), "--out", str(tmp_path / "boxes.jsonl")])
    lines = [json.loads(line) for line in (tmp_path / "boxes.jsonl").read_text().splitlines()]
    assert [line["boxes"] for line in lines] == [TARGETS] * 3


def test_a_name_that_is_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="'no-such-model' is no folder, and as a repository it is not in the"):
        load_exported("no-such-model")
    with pytest.raises(FileNotFoundError, match=r"'\./nowhere' is neither a folder nor a repository"):
        load_exported("./nowhere")
