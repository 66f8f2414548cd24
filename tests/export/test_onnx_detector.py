from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import YolosForObjectDetection

pytest.importorskip("onnxscript")
from scalpel_hf import DetectionStudent, InfraredImageProcessor, ScalpelStudentForObjectDetection, load_student
from scalpel_hf.export import check_detector, export_detector, quantize_student
from scalpel_hf.modeling.configuration_scalpel_student import ScalpelStudentDetectionConfig
from scalpel_hf.runtime import OnnxDetector, OnnxStudent, load_exported
from tests.small_students import small_detector, yolos

SHAPES = [(1, 1), (7, 13), (61, 33)]


def frame(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(14000, 14100, shape).astype(np.uint16)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> OnnxDetector:
    return export_detector(small_detector(), tmp_path_factory.mktemp("detector"), threshold=0.6)


@pytest.mark.parametrize("shape", SHAPES)
def test_boxes_and_scores_are_the_detectors(exported: OnnxDetector, shape: tuple[int, int]) -> None:
    """At any size, a batch as its frames, and on the pixels' grid as the image processor has them."""
    batch = np.stack([frame(shape, seed) for seed in range(3)])
    scores, boxes = exported.graph.session.run(["scores", "boxes"], {"frames": batch[:, None].astype(np.float32)})
    count = min(20, shape[0] * shape[1])
    assert scores.shape == (3, count) and boxes.shape == (3, count, 4)
    for one, own_scores in zip(batch, scores, strict=True):
        for threshold, given in ((0.2, 0.2), (0.6, None)):
            expected_scores, expected_boxes = small_detector().detect(one, threshold)
            found = exported.detect(one, given)
            np.testing.assert_allclose(found.scores, expected_scores, atol=1e-5)
            np.testing.assert_allclose(own_scores[own_scores > threshold], expected_scores, atol=1e-5)
            np.testing.assert_array_equal(found.boxes, expected_boxes)
            assert found.mask is None
    assert len(exported.detect(batch[0], threshold=0.999999).boxes) == 0


def test_there_is_something_to_find(exported: OnnxDetector) -> None:
    found = exported.detect(frame((61, 33)))
    assert 3 < len(found.boxes) < 20 and len(np.unique(found.boxes, axis=0)) == len(found.boxes)


def test_the_check_compares_with_torch(exported: OnnxDetector) -> None:
    frames = [frame(shape) for shape in SHAPES]
    assert check_detector(small_detector(), exported, frames) < 1e-4
    with pytest.raises(ValueError, match="differs from torch"):
        check_detector(small_detector(bias=-0.99), exported, frames)
    wider = small_detector()
    with torch.no_grad():
        wider.model.head[1].bias[12:] += 0.05  # the sizes alone
    with pytest.raises(ValueError, match="differs from torch"):
        check_detector(wider, exported, frames)
    with pytest.raises(ValueError, match="no frame"):
        check_detector(small_detector(), exported, [])


def test_the_files_say_what_they_are(exported: OnnxDetector) -> None:
    path = exported.graph.path
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    dims = {o.name: [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in model.graph.output}
    assert dims == {"scores": ["batch", "boxes"], "boxes": ["batch", "boxes", 4]}
    assert exported.config.task == "detection" and exported.config.id2label == {"0": "target"}
    assert isinstance(load_exported(path.parent), OnnxDetector)
    with pytest.raises(ValueError, match="was exported for detection, not for segmentation"):
        OnnxStudent.from_pretrained(path.parent)


def test_int8(exported: OnnxDetector) -> None:
    folder = exported.graph.path.parent
    quantized = quantize_student(folder, [frame((64, 64), seed) for seed in range(4)])
    assert isinstance(quantized, OnnxDetector)
    kinds = [i.data_type for i in onnx.load(folder / "model_int8.onnx").graph.initializer if len(i.dims) == 4]
    assert len(kinds) > 2
    assert sorted(kinds) == [onnx.TensorProto.FLOAT] * 2 + [onnx.TensorProto.INT8] * (len(kinds) - 2)
    test = frame((61, 50), 9)
    predictions = [
        model.graph.session.run(["scores"], {"frames": model.graph_input(test)})[0] for model in (exported, quantized)
    ]
    assert 0 < np.abs(predictions[0] - predictions[1]).max() < 0.2
    nodes = onnx.load(folder / "model_int8.onnx").graph.node
    last = max(index for index, node in enumerate(nodes) if node.op_type == "Conv")
    after = [node.op_type for node in nodes[last + 1 :]]
    assert "Add" in after and "QuantizeLinear" not in after  # nor the coordinates of boxes


def test_full_resolution(tmp_path: Path) -> None:
    detector, frames = small_detector(full_resolution_channels=4), [frame(shape) for shape in SHAPES]
    assert check_detector(detector, export_detector(detector, tmp_path), frames) < 1e-4
    assert len(quantize_student(tmp_path, frames[2:]).detect(frames[2], threshold=0.2).boxes) > 0


def test_channels_and_padding_of_the_processor_are_in_the_graph(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = ScalpelStudentDetectionConfig(hidden_sizes=(8, 8), depths=(1, 0), num_channels=3, num_queries=20)
    model = ScalpelStudentForObjectDetection(config).eval()
    with torch.no_grad():
        model.head[1].weight.normal_(std=0.05)
        model.head[1].bias[: model.cell**2] = -1
    detector = DetectionStudent(model, InfraredImageProcessor(num_channels=3, size_divisor=32))
    exported, test = export_detector(detector, tmp_path), frame((41, 53))
    assert check_detector(detector, exported, [test, frame((64, 33))]) < 1e-4
    (scores, boxes), found = detector.detect(test, 0.1), exported.detect(test, 0.1)
    assert len(scores) > 2
    np.testing.assert_allclose(found.scores, scores, atol=1e-4)
    np.testing.assert_array_equal(found.boxes, boxes)


def test_a_detector_in_half_precision(tmp_path: Path) -> None:
    small_detector().model.bfloat16().save_pretrained(tmp_path)
    small_detector().processor.save_pretrained(tmp_path)
    detector = load_student(tmp_path, dtype="auto")
    assert isinstance(detector, DetectionStudent) and detector.model.dtype == torch.bfloat16
    assert check_detector(detector, export_detector(detector, tmp_path / "onnx"), [frame((40, 40))]) < 1e-4
    assert detector.model.dtype == torch.bfloat16


def test_other_detectors_are_refused(tmp_path: Path) -> None:
    other = DetectionStudent(YolosForObjectDetection(yolos()), InfraredImageProcessor(num_channels=3, size_divisor=32))
    with pytest.raises(ValueError, match="not YolosForObjectDetection"):
        export_detector(other, tmp_path)
