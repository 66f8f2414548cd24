"""Export of segmentation students: one ONNX graph for any frame size and batch size."""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scalpel_hf.modeling.configuration_scalpel_student import ScalpelStudentConfig
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor
from scalpel_hf.modeling.modeling_scalpel_student import ScalpelStudentBackbone, ScalpelStudentForSemanticSegmentation
from scalpel_hf.modeling.normalization import RANGE
from scalpel_hf.modeling.segmentation_maps import as_foreground
from scalpel_hf.predictors.student import DetectionStudent, SegmentationStudent
from scalpel_hf.runtime.onnx_models import OnnxStudent
from scalpel_hf.runtime.session import NORMALIZATION
from scalpel_hf.runtime.settings import CONFIG_FILE, MODEL_FILE, RuntimeConfig, hashes
from scalpel_hf.runtime.tiles import GRID, MARGIN

from .onnx_files import OPSET, checked, difference, hash_state, whole_or_not_at_all

S = TypeVar("S", SegmentationStudent, DetectionStudent)


class StudentGraph(nn.Module):
    """
    The exported module of a student: `frames` `(B, 1, H, W)` float32 → `probabilities` and `mask` (uint8), or `logits`,
    of the same shape.

    Args:
        student: the model and its processor. The graph includes the repetition of channels and the padding.
        normalize: whether the graph normalises `frames`; otherwise its inputs must be normalised.
        threshold: probability above which the mask is 1; `None` for logits instead.
    """

    def __init__(self, student: SegmentationStudent, normalize: bool = True, threshold: float | None = 0.5):
        super().__init__()
        self.model, self.processor = student.model, student.processor
        self.normalize, self.threshold = normalize, threshold
        self.eval()

    def forward(self, frames: Tensor, given: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        height, width = frames.shape[-2:]
        x = model_input(self.processor, frames, self.normalize, given)
        if isinstance(self.model, ScalpelStudentForSemanticSegmentation):
            logits = self.model.foreground(x)
        else:  # others predict at a fraction of the resolution
            logits = as_foreground(self.model(pixel_values=x).logits)
            logits = F.interpolate(logits, size=x.shape[-2:], mode="bilinear", align_corners=False)
        logits = logits[..., :height, :width]
        if self.threshold is None:
            return logits
        probabilities = logits.sigmoid()
        return probabilities, (probabilities > self.threshold).to(torch.uint8)


def model_input(processor: InfraredImageProcessor, frames: Tensor, normalize: bool, given: Tensor | None) -> Tensor:
    """
    What a processor makes of frames `(B, 1, H, W)`: normalised, padded and repeated as channels.

    Args:
        normalize: whether to normalise them; otherwise they are normalised already.
        given: see [`normalize_frames`].
    """
    x, (height, width), divisor = frames, frames.shape[-2:], processor.size_divisor
    if normalize:
        x = normalize_frames(frames, processor.normalization, percentiles=processor.percentiles, given=given)
    if divisor:
        x = F.pad(x, (0, -width % divisor, 0, -height % divisor), mode="replicate")
    return x.expand(-1, processor.num_channels, -1, -1)


def normalize_frames(
    frames: Tensor, normalization: str, percentiles: Sequence[float], given: Tensor | None = None
) -> Tensor:
    """
    `scalpel_hf.modeling.normalize_frame` for a batch `(B, 1, H, W)`, with operators that can be exported.

    It computes in double precision: with float32, one hot pixel would cost a faint scene its precision.

    Args:
        frames: as they were read.
        normalization, percentiles: of the processor.
        given: `(2,)`, offset and scale to use instead of the frames' own, such as those of a tile's whole frame. They
            are ignored if the scale is 0.
    """
    x = frames.double()
    lowest = x.amin((-2, -1), keepdim=True)
    x = x - (lowest if given is None else torch.where(given[1] > 0, 0, lowest))
    if normalization == "zscore":
        offset = x.mean((-2, -1), keepdim=True)
        scale = (x - offset).square().mean((-2, -1), keepdim=True).sqrt()
    elif normalization == "range":
        offset, scale = x.mean((-2, -1), keepdim=True), x.amax((-2, -1), keepdim=True) / RANGE
    else:
        offset, high = (_percentile(x, percent) for percent in percentiles)
        scale = torch.where(high > offset, high - offset, x.amax((-2, -1), keepdim=True))
    if given is not None:
        offset, scale = (torch.where(given[1] > 0, one, own) for one, own in zip(given, (offset, scale), strict=True))
    return ((x - offset) / torch.where(scale > 0, scale, 1)).float()


def _percentile(x: Tensor, percent: float) -> Tensor:
    """Linearly interpolated percentile `(B, 1, 1, 1)` of each frame's pixels; sorts only the smaller tail."""
    values = x.flatten(2)
    count, lower = values.shape[2], percent < 50
    share = percent if lower else 100 - percent
    size = torch.sym_min(count * math.ceil(100 * share) // 10_000 + 2, count)
    tail = values.topk(size, dim=2, largest=not lower).values
    last = torch.scalar_tensor(count - 1, dtype=torch.float64)
    position = last * percent / 100
    ranks = position.floor(), torch.minimum(position.floor() + 1, last)
    below, above = (tail.index_select(2, (rank if lower else last - rank).long()[None]) for rank in ranks)
    return (below + (above - below) * (position - ranks[0]))[..., None]


def export_student(
    student: SegmentationStudent,
    folder: str | Path,
    normalize: bool = True,
    apply_threshold: bool = True,
    threshold: float = 0.5,
) -> OnnxStudent:
    """
    Export a segmentation student: write model.onnx and runtime.json.

    Args:
        student: this project's, or any transformers model for semantic segmentation.
        folder: to write to.
        normalize: whether the graph normalises frames; see [`StudentGraph`].
        apply_threshold: whether the graph returns probabilities and a mask, or logits.
        threshold: probability above which a pixel is target.

    Returns the student, loaded by the runtime. Raises `ValueError` for a threshold outside (0, 1).
    """
    config = runtime_config(
        student, normalize=normalize, threshold=threshold, threshold_inside=apply_threshold, task="segmentation"
    )
    graph = StudentGraph(in_float32(student), normalize, threshold if apply_threshold else None)
    outputs = ["probabilities", "mask"] if apply_threshold else ["logits"]
    with whole_or_not_at_all(folder, CONFIG_FILE) as work:
        onnx.save(to_proto(graph, outputs, normalize), work / MODEL_FILE)
        replace(config, files=hashes(work)).write(work)
    return OnnxStudent.from_pretrained(folder)


def in_float32(student: S) -> S:
    """A copy of a student in float32, which graphs compute in; the student itself, if it is."""
    if student.model.dtype == torch.float32:
        return student
    return type(student)(copy.deepcopy(student.model).float(), student.processor)


def runtime_config(
    student: SegmentationStudent | DetectionStudent,
    normalize: bool,
    threshold: float,
    threshold_inside: bool,
    task: str,
) -> RuntimeConfig:
    """The content of a student's runtime.json; `ValueError` for a threshold that isn't a probability."""
    return RuntimeConfig(
        normalization=student.processor.normalization,
        percentiles=student.processor.percentiles,
        normalization_inside=normalize,
        threshold=threshold,
        threshold_inside=threshold_inside,
        opset=OPSET,
        id2label={str(key): label for key, label in student.model.config.id2label.items()},
        task=task,
        files={},
        weights=hash_state(student.model.state_dict()),
        exact_tiles=_has_exact_tiles(student),
    )


def _has_exact_tiles(student: SegmentationStudent | DetectionStudent) -> bool:
    """Whether tiles give the whole frame's result, see [`scalpel_hf.runtime.tiles`]."""
    model = student.model
    if not isinstance(model, ScalpelStudentBackbone):
        return False
    return reach(model.config) <= MARGIN and GRID % (student.processor.size_divisor or 1) == 0


def reach(config: ScalpelStudentConfig) -> int:
    """How many pixels, at most, a prediction of one of this project's students looks away from its own pixel."""
    strides = [2 ** (1 + level) for level in range(len(config.hidden_sizes))]
    encoder = sum(stride * (1 + 2 * depth) for stride, depth in zip(strides, config.depths, strict=True))
    decoder, coarsest_cell = sum(strides[:-1]), strides[-1] - 1
    full_resolution, head = 3, 2 * 2 + 1  # convolutions of 3 x 3 pixels, and of cells of 2 x 2; a peak's neighbours
    return coarsest_cell + encoder + decoder + head + (full_resolution if config.full_resolution_channels else 0)


@torch.no_grad()
def to_proto(graph: nn.Module, outputs: Sequence[str], normalizes: bool = False) -> onnx.ModelProto:
    """
    Convert a module to an ONNX graph with dynamic batch size, height and width.

    Args:
        graph: from `frames` `(B, 1, H, W)` to outputs of the same shape, or with a fixed number of rows for each frame.
        outputs: their names.
        normalizes: whether it has a second, optional input `normalization` `(2,)`: offset and scale. By default its
            scale is 0, and each frame is normalised by its own statistics.
    """
    sizes = {axis: torch.export.Dim(name) for axis, name in {0: "batch", 2: "height", 3: "width"}.items()}
    own = torch.zeros(2, dtype=torch.float64)
    program = torch.onnx.export(
        graph,
        (torch.randn(2, 1, 64, 96), *([own] if normalizes else [])),
        dynamo=True,
        opset_version=OPSET,
        input_names=["frames", *([NORMALIZATION] if normalizes else [])],
        output_names=outputs,
        dynamic_shapes=(sizes, *([{}] if normalizes else [])),
        verbose=False,
    )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    if normalizes:
        model.graph.initializer.append(onnx.numpy_helper.from_array(own.numpy(), NORMALIZATION))
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer]
    for item in [*model.graph.node, *values]:
        item.ClearField("metadata_props")  # stack traces, with this machine's paths
    for output in model.graph.output:
        dims = output.type.tensor_type.shape.dim
        dims[0].dim_param = "batch"
        if len(dims) == 4:  # instead of the expressions that result from padding and cropping
            dims[2].dim_param, dims[3].dim_param = "height", "width"
        else:
            dims[1].dim_param = "boxes"
    return model


@torch.no_grad()
def check_student(student: SegmentationStudent, exported: OnnxStudent, frames: Iterable[Any]) -> float:
    """
    Largest difference between an exported student and PyTorch on some frames: of the probabilities, computed from the
    frame as it was read, and of the graph's outputs (probabilities or logits).

    Raises `ValueError` if it exceeds 1e-4, and without frames.
    """
    config, student = exported.config, in_float32(student)
    graph = StudentGraph(student, config.normalization_inside, config.threshold if config.threshold_inside else None)
    differences = []
    for frame in frames:
        differences.append(difference(exported.probabilities(frame), student.probabilities(frame)))
        x = exported.graph_input(frame)
        (prediction,) = exported.graph.run(x)
        expected = graph(torch.from_numpy(x))
        differences.append(difference(prediction, expected if isinstance(expected, Tensor) else expected[0]))
    return checked(differences)
