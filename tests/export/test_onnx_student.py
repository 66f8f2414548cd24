import copy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from transformers import SegformerForSemanticSegmentation

pytest.importorskip("onnxscript")
from scalpel_hf import InfraredImageProcessor, SegmentationStudent
from scalpel_hf.export import StudentGraph, check_student, export_student, quantize_student
from scalpel_hf.runtime import OnnxStudent
from tests.small_students import segformer, small_student

SHAPES = [(1, 1), (7, 13), (48, 64), (61, 33)]


def frame(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """16 bits, with one bright pixel."""
    pixels = np.random.default_rng(seed).integers(14000, 14100, shape).astype(np.uint16)
    pixels[shape[0] // 2, shape[1] // 3] = 14400
    return pixels


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> OnnxStudent:
    return export_student(small_student(), tmp_path_factory.mktemp("inside"), threshold=0.3)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> OnnxStudent:
    folder = tmp_path_factory.mktemp("outside")
    return export_student(small_student("percentile"), folder, normalize=False, apply_threshold=False)


@pytest.mark.parametrize("shape", SHAPES)
def test_everything_inside(inside: OnnxStudent, shape: tuple[int, int]) -> None:
    student, batch = small_student(), np.stack([frame(shape, seed) for seed in range(3)])[:, None]
    probabilities, mask = inside.graph.session.run(["probabilities", "mask"], {"frames": batch.astype(np.float32)})
    expected = np.stack([student.probabilities(one[0]) for one in batch])
    np.testing.assert_allclose(probabilities[:, 0], expected, atol=1e-5)
    np.testing.assert_array_equal(mask, probabilities > 0.3)
    assert mask.dtype == np.uint8 and probabilities.shape == batch.shape
    np.testing.assert_array_equal(inside.detect(batch[0, 0]).mask, mask[0, 0])


@pytest.mark.parametrize("shape", SHAPES)
def test_everything_outside(outside: OnnxStudent, shape: tuple[int, int]) -> None:
    student, batch = small_student("percentile"), [frame(shape, seed) for seed in range(2)]
    pixel_values = student.processor(batch, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = student.model(pixel_values=pixel_values).logits[:, 1:].numpy()
    (logits,) = outside.graph.session.run(["logits"], {"frames": pixel_values.numpy()})
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    np.testing.assert_allclose(outside.probabilities(batch[0]), student.probabilities(batch[0]), atol=1e-5)


@pytest.mark.parametrize("kind", ["inside", "outside", "int8"])
def test_tiles_give_what_the_whole_frame_gives(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    exported = request.getfixturevalue("outside" if kind == "outside" else "inside")
    file = "model.onnx"
    if kind == "int8":
        shutil.copytree(exported.graph.path.parent, tmp_path / "copy")
        exported, file = quantize_student(tmp_path / "copy", [frame((64, 64))]), "model_int8.onnx"
    tiled = OnnxStudent.from_pretrained(exported.graph.path.parent, file, tile_size=256)
    pixels = frame((600, 410))
    pixels[:100] += 300  # so that tiles differ in their statistics
    prediction, expected = tiled.probabilities(pixels), exported.probabilities(pixels)
    assert expected.std() > 0.01
    np.testing.assert_allclose(prediction, expected, atol=1e-5 if kind != "int8" else 0.02)


MEASURE = """
import resource, numpy as np
from scalpel_hf.runtime import load_exported
student = load_exported(FOLDER, threads=1)
frame = np.zeros((6000, 6000), np.uint16)
frame[::7, ::5] = 9
assert student.detect(frame).mask.shape == frame.shape
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


@pytest.mark.slow
def test_a_large_frame_takes_less_than_a_gigabyte(inside: OnnxStudent) -> None:
    code = MEASURE.replace("FOLDER", repr(str(inside.graph.path.parent)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1


def test_outputs_vary(inside: OnnxStudent) -> None:
    probabilities = inside.probabilities(frame((48, 64)))
    assert probabilities.std() > 0.05 and 0.05 < (probabilities > 0.3).mean() < 0.95


def test_the_files_say_what_they_are_and_nothing_of_this_machine(inside: OnnxStudent) -> None:
    path = inside.graph.path
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {o.domain: o.version for o in model.opset_import}[""] == inside.config.opset == 18
    dims = [d.dim_param or d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 1, "height", "width"]
    assert b".py" not in path.read_bytes()
    assert inside.config.threshold == 0.3 and inside.config.id2label == {"0": "background", "1": "target"}
    assert sorted(p.name for p in path.parent.iterdir() if "int8" not in p.name) == ["model.onnx", "runtime.json"]


def test_the_check_compares_with_torch(inside: OnnxStudent, outside: OnnxStudent) -> None:
    frames = [frame((40, 40)), frame((33, 21))]
    assert check_student(small_student(), inside, frames) < 1e-5
    assert check_student(small_student("percentile"), outside, frames) < 1e-4
    with pytest.raises(ValueError, match="differs from torch"):
        check_student(small_student("percentile"), inside, frames)  # another normalisation
    for exported, normalization in ((inside, "zscore"), (outside, "percentile")):
        other = copy.deepcopy(small_student(normalization))
        with torch.no_grad():
            other.model.classifier.bias += 0.01
        with pytest.raises(ValueError, match="differs from torch"):
            check_student(other, exported, frames)
    with pytest.raises(ValueError, match="no frame"):
        check_student(small_student(), inside, [])


def test_real_frames(inside: OnnxStudent, shared_dir: Path) -> None:
    files = sorted((shared_dir / "data" / "NUAA-SIRST" / "images").glob("*.png"))[:40:10]
    assert len(files) == 4
    assert check_student(small_student(), inside, files) < 1e-4


def test_a_threshold_is_a_probability(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got 1\.5"):
        export_student(small_student(), tmp_path / "out", threshold=1.5)
    assert not (tmp_path / "out").exists()


def test_graphs_of_other_models_resize_pad_and_repeat_channels() -> None:
    """Two classes at a quarter of the resolution, of three channels, padded to multiples of 32."""
    config = segformer(id2label={0: "background", 1: "target"}, label2id={"background": 0, "target": 1})
    torch.manual_seed(0)
    model = SegformerForSemanticSegmentation(config).eval()
    student = SegmentationStudent(model, InfraredImageProcessor(num_channels=3, size_divisor=32))
    image = frame((50, 70))
    with torch.no_grad():
        probabilities, mask = StudentGraph(student, threshold=0.5)(
            torch.from_numpy(image.astype(np.float32))[None, None]
        )
    np.testing.assert_allclose(probabilities[0, 0], student.probabilities(image), atol=1e-6)
    assert mask.shape == (1, 1, 50, 70)


def test_int8_is_close_and_smaller(inside: OnnxStudent, tmp_path: Path) -> None:
    folder = inside.graph.path.parent
    frames = [frame((64, 64), seed) for seed in range(6)]
    for index, array in enumerate(frames):
        Image.fromarray(array).save(tmp_path / f"{index}.png")
    paths = sorted(tmp_path.glob("*.png"))
    quantized = quantize_student(folder, paths)
    test = frame((50, 81), 9)
    error = np.abs(quantized.probabilities(test) - inside.probabilities(test))
    assert 0 < error.mean() < 0.01
    graph = onnx.load(folder / "model_int8.onnx").graph
    kinds = {i.name: i.data_type for i in graph.initializer if len(i.dims) == 4}
    assert len(kinds) == sum(node.op_type == "Conv" for node in graph.node)
    assert sorted(kinds.values()) == [onnx.TensorProto.FLOAT] * 2 + [onnx.TensorProto.INT8] * (len(kinds) - 2)
    with pytest.raises(ValueError, match="no frame to calibrate"):
        quantize_student(folder, [])


def test_int8_cuts_nothing_off_a_target(inside: OnnxStudent, tmp_path: Path) -> None:
    """A few pixels in 65,536 are all that a target has: what clips the rarest values clips targets."""
    frames = [frame((256, 256), seed).astype(np.float32) for seed in range(3)]
    for array in frames:
        array[99:102, 119:122] = 14500
    quantized = quantize_student(inside.graph.path.parent, frames)
    for array in frames:
        error = np.abs(quantized.probabilities(array) - inside.probabilities(array))
        assert error[95:106, 115:126].mean() < 0.02  # 0.2 with the 99.99th percentile as greatest value


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_student_in_half_precision_is_exported_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    student = small_student()
    student.model.to(dtype)
    student.save_pretrained(tmp_path)
    loaded = SegmentationStudent.from_pretrained(tmp_path, dtype="auto")
    assert loaded.model.dtype == dtype
    exported = export_student(loaded, tmp_path / "onnx")  # it is of the weights in the folder
    assert check_student(loaded, exported, [frame((40, 40))]) < 1e-5
    assert loaded.model.dtype == dtype


def test_full_resolution_in_the_graph_and_in_8_bits(tmp_path: Path) -> None:
    student, frames = small_student(full_resolution_channels=4), [frame(shape) for shape in SHAPES]
    exported = export_student(student, tmp_path)
    assert check_student(student, exported, frames) < 1e-5
    quantized = quantize_student(tmp_path, frames[2:])
    assert np.abs(quantized.probabilities(frames[2]) - student.probabilities(frames[2])).mean() < 0.01


def test_int8_scales_are_per_channel(inside: OnnxStudent) -> None:
    folder = inside.graph.path.parent
    quantize_student(folder, [frame((64, 64))])
    model = onnx.load(folder / "model_int8.onnx")
    tensors = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    inputs = [node.input for node in model.graph.node if node.op_type == "DequantizeLinear"]
    weights = [(tensors[name], tensors[scale]) for name, scale, *_ in inputs if len(tensors.get(name, [])) == 4]
    assert weights and all(list(scales) == [weight[0]] for weight, scales in weights)
