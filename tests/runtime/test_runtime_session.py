"""ONNX files that are none, or another's, end in one error that names the file; so do outputs that are no numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

pytest.importorskip("onnxruntime")
from scalpel_hf.runtime import load_exported
from tests.runtime.made_by_hand import frame_with_targets, write_config, write_detector, write_graph, write_student

SHAPE = ["batch", 1, "height", "width"]


FLOAT = (TensorProto.FLOAT, SHAPE)


@pytest.mark.parametrize("content", [b"", b"junk" * 1000, b"{}", b"\x08\x0a", b"version https://git-lfs.github.com/"])
def test_files_that_are_none(tmp_path: Path, content: bytes) -> None:
    write_student(tmp_path)
    (tmp_path / "model.onnx").write_bytes(content)
    write_config(tmp_path)
    with pytest.raises(ValueError, match=r"model\.onnx is no ONNX file that onnxruntime loads: [^\n]*$"):
        load_exported(tmp_path)


@pytest.mark.parametrize("keep", [10, 100, 0.5, 0.99])
def test_files_that_were_cut(tmp_path: Path, keep: float) -> None:
    content = (write_student(tmp_path) / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(ValueError, match=r"model\.onnx is another than"):
        load_exported(tmp_path)
    write_config(tmp_path)
    with pytest.raises(ValueError, match=r"model\.onnx"):
        load_exported(tmp_path)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"pixels": FLOAT}, {"logits": FLOAT}, "takes pixels"),
        ({"frames": FLOAT, "more": FLOAT}, {"logits": FLOAT}, "takes frames .* more"),
        ({"frames": (TensorProto.DOUBLE, SHAPE)}, {"logits": (TensorProto.DOUBLE, SHAPE)}, "takes frames .*double"),
        ({"frames": (TensorProto.FLOAT, SHAPE[1:])}, {"logits": (TensorProto.FLOAT, SHAPE[1:])}, "takes frames"),
        *(
            ({"frames": (TensorProto.FLOAT, shape)}, {"logits": (TensorProto.FLOAT, shape)}, "of any size")
            for shape in (["b", 3, "h", "w"], ["b", 1, 256, 256], ["b", 1, "h", 256])
        ),
        ({"frames": FLOAT}, {"probabilities": FLOAT}, "gives probabilities .* promises logits"),
        ({"frames": FLOAT}, {"scores": FLOAT}, "gives scores .* promises logits"),
    ],
)
def test_graphs_with_other_inputs_or_outputs(
    tmp_path: Path, inputs: dict[str, Any], outputs: dict[str, Any], message: str
) -> None:
    (name,) = outputs
    first = helper.make_node("Identity", [next(iter(inputs))], [name])
    write_graph(tmp_path, [first], inputs, outputs)
    with pytest.raises(ValueError, match=rf"model\.onnx .*{message}"):
        load_exported(tmp_path)


def test_what_a_detector_gives_is_no_segmentation_and_the_other_way_round(tmp_path: Path) -> None:
    write_student(tmp_path, task="detection")
    with pytest.raises(ValueError, match=r"gives logits .* promises scores, boxes"):
        load_exported(tmp_path)


def test_who_normalises_is_checked(tmp_path: Path) -> None:
    write_config(write_student(tmp_path / "a", normalization_inside=True), normalization_inside=False)
    with pytest.raises(ValueError, match=r"normalises its frames, and runtime\.json says otherwise"):
        load_exported(tmp_path / "a")
    write_config(write_student(tmp_path / "b"), normalization_inside=True)
    with pytest.raises(ValueError, match="does not normalise its frames"):
        load_exported(tmp_path / "b")


def test_an_answer_of_another_size(tmp_path: Path) -> None:
    nodes = [helper.make_node("MaxPool", ["frames"], ["logits"], kernel_shape=[2, 2], strides=[2, 2])]
    student = load_exported(
        write_graph(tmp_path, nodes, {"frames": FLOAT}, {"logits": (TensorProto.FLOAT, [None] * 4)})
    )
    with pytest.raises(ValueError, match=r"model\.onnx gives .*20, 25.* for frames .*40, 50"):
        student.detect(frame_with_targets())


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_no_number_is_an_error_and_not_no_targets(tmp_path: Path, value: float) -> None:
    nodes = [helper.make_node("Mul", ["frames", "value"], ["logits"])]
    constants = {"value": np.float32(value)}
    student = load_exported(write_graph(tmp_path, nodes, {"frames": FLOAT}, {"logits": FLOAT}, constants))
    for call in (student.detect, student.probabilities):
        with pytest.raises(ValueError, match=r"model\.onnx: the logits are not all numbers"):
            call(frame_with_targets())


def test_scores_of_a_detector_that_are_no_numbers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the scores are not all numbers"):
        load_exported(write_detector(tmp_path, score=np.nan)).detect(frame_with_targets())


def test_numbers_have_bounds(tmp_path: Path) -> None:
    write_student(tmp_path)
    for threads in (0, -1, 100_000, 1.5, True):
        with pytest.raises(ValueError, match="the number of threads is from 1 to 256, got"):
            load_exported(tmp_path, threads=threads)
    for size in (0, 1, 100, 300, -256, 100_000, 512.5, float("nan")):
        with pytest.raises(ValueError, match="a multiple of 32 from 256 to 8192, got"):
            load_exported(tmp_path, tile_size=size)
    student = load_exported(tmp_path)
    for threshold in (float("nan"), 7, -1, float("inf"), "0.5", True):
        with pytest.raises(ValueError, match="a probability from 0 to 1, got"):
            student.detect(frame_with_targets(), threshold)
    with pytest.raises(ValueError, match="has no NoSuchProvider here, but"):
        load_exported(tmp_path, providers=["NoSuchProvider"])


@pytest.mark.parametrize("place", ["../secret.bin", "absolute", "link"])
def test_data_outside_the_models_folder_stays_refused(tmp_path: Path, place: str) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.float32([1.0]).tobytes())
    folder = write_student(tmp_path / "model")
    model = onnx.load(folder / "model.onnx")
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    location = {"absolute": str(secret), "link": "link.bin"}.get(place, place)
    (folder / "link.bin").symlink_to(secret)
    tensor.external_data.add(key="location", value=location)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    write_config(folder)
    with pytest.raises(ValueError, match=r"model\.onnx is no ONNX file that onnxruntime loads"):
        load_exported(folder)
