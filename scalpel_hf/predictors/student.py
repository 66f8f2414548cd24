"""Students and stand-alone teachers: one transformers model with its image processor, trained or new."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoModelForMaskGeneration,
    AutoModelForObjectDetection,
    AutoModelForSemanticSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
)

from scalpel_hf.modeling.configuration_scalpel_student import ScalpelStudentConfig, ScalpelStudentDetectionConfig
from scalpel_hf.modeling.frame_io import read_frame
from scalpel_hf.modeling.image_processing_infrared import InfraredImageProcessor
from scalpel_hf.modeling.modeling_scalpel_student import ScalpelStudentBackbone, ScalpelStudentForSemanticSegmentation
from scalpel_hf.modeling.modeling_scalpel_student_detection import ScalpelStudentForObjectDetection
from scalpel_hf.modeling.processing_scalpel_sam import ScalpelSamProcessor
from scalpel_hf.modeling.whole_weights import check_numbers, check_weights, keys_that_differ, load_whole
from scalpel_hf.utils.files import as_umask_says

from .kinds import HUB_ARGUMENTS, ModelKind, kind_of
from .prediction import Prediction, fingerprint_of
from .pushing import FromFolder
from .strict_loading import load_image_processor, loading
from .tiling import blend_tiles

# Fields of a configuration that predictions don't depend on.
IRRELEVANT_FIELDS = ("_name_or_path", "transformers_version", "auto_map", "dtype")
SIZE_DIVISOR = 32  # the coarsest stride of other models
LABELS = {"segmentation": ["background", "target"], "detection": ["target"]}

S = TypeVar("S", bound="_ModelWithProcessor")


class _ModelWithProcessor(FromFolder):
    """A transformers model and its image processor, saved in one folder."""

    auto_class: Any

    def __init__(self, model: PreTrainedModel, processor: Any):
        self.model, self.processor = model, processor

    @classmethod
    def from_pretrained(cls: type[S], name_or_path: str | Path, **kwargs: Any) -> S:
        """
        Load the model and its image processor from a folder or the Hub.

        Args:
            name_or_path: folder or repository.
            kwargs: of transformers' `from_pretrained`, such as `revision` or `dtype`.

        Raises `ValueError` if files are damaged or of another kind of model, or if weights are missing, which is why
        there is no `output_loading_info`.
        """
        if kwargs.pop("output_loading_info", False):
            raise ValueError("`output_loading_info` is of transformers' own classes: missing weights are an error here")
        with loading(name_or_path, "config.json"):
            model = load_whole(cls.auto_class.from_pretrained, str(name_or_path), **kwargs)
        loaded = cls(model.eval(), load_image_processor(name_or_path, **kwargs))
        loaded.remember(name_or_path)
        return loaded

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model and processor, for `from_pretrained`."""
        self.model.save_pretrained(str(folder))
        self.processor.save_pretrained(str(folder))
        as_umask_says(Path(folder), "*.safetensors")

    def to(self: S, device: torch.device | str) -> S:
        """Move the model to a device, and return self."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def _outputs(self, frame: Any) -> tuple[Any, Any]:
        """The model's outputs for a frame, and the frame's size as post-processing takes it."""
        inputs = self.processor(frame, return_tensors="pt")
        outputs = self.model(pixel_values=inputs["pixel_values"].to(self.model.device, self.model.dtype))
        return outputs, inputs["original_sizes"]


class SegmentationStudent(_ModelWithProcessor):
    """
    A model for semantic segmentation of background and target, with its image processor.

    Examples:
        >>> student = SegmentationStudent.from_pretrained("runs/nuaa/student")
        >>> student.probabilities("frame.png").shape
        (64, 96)
    """

    auto_class = AutoModelForSemanticSegmentation

    def probabilities(self, frame: Any) -> np.ndarray:
        """Target probability of each pixel, `(H, W)` float32, see [`Teacher.probabilities`]."""
        outputs, sizes = self._outputs(frame)
        return self.processor.post_process_probabilities(outputs, sizes)[0].float().cpu().numpy()

    def predict(self, frames: Sequence[Any]) -> list[Prediction]:
        """Predictions for frames, see [`Teacher.predict`]; of one view each."""
        return [Prediction(self.probabilities(frame)) for frame in frames]

    def fingerprint(self) -> str:
        """Hash of everything that predictions depend on: weights, architecture and processor."""
        config = self.model.config.to_dict()
        kept = {key: value for key, value in config.items() if key not in IRRELEVANT_FIELDS}
        return fingerprint_of(self.model, {"config": kept, "processor": self.processor.to_dict()})


class DetectionStudent(_ModelWithProcessor):
    """A model for object detection of one class, target, with its image processor."""

    auto_class = AutoModelForObjectDetection

    def detect(self, frame: Any, threshold: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """
        Find targets in a frame.

        Args:
            frame: a path, `PIL.Image` or array `(H, W)`, see [`InfraredImageProcessor`].
            threshold: of the scores.

        Returns the scores `(N,)` above the threshold, highest first, and boxes `(N, 4)` as (x0, y0, x1, y1) in pixels.
        """
        outputs, sizes = self._outputs(frame)
        found = self.processor.post_process_object_detection(outputs, threshold, sizes)[0]
        return found["scores"].cpu().numpy(), found["boxes"].cpu().numpy()


class StandAloneTeacher(_ModelWithProcessor):
    """A teacher merged with its base into one model, [`ScalpelSamModel`], with its processor."""

    auto_class = AutoModelForMaskGeneration

    def __init__(self, model: PreTrainedModel, processor: InfraredImageProcessor):
        super().__init__(model, ScalpelSamProcessor(processor, model.config.mask_grid))

    def probabilities(self, frame: Any) -> np.ndarray:
        """
        Target probability of each pixel, `(H, W)` float32, see [`Teacher.probabilities`]; in tiles, as a [`Teacher`]'s,
        if the frame is larger than the model's input.
        """
        size = self.processor.image_processor.sam_size
        return blend_tiles(self._maps, read_frame(frame), tile=size, overlap=size // 8)[0]

    @torch.no_grad()
    def _maps(self, tile: np.ndarray) -> np.ndarray:
        """Target probability of each pixel of a tile, `(1, h, w)`."""
        inputs = self.processor(tile, return_tensors="pt").to(self.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        maps = self.processor.post_process_probabilities(self.model(**inputs), inputs["original_sizes"])
        return maps[0][None].numpy(force=True)


STUDENTS: dict[ModelKind, type[SegmentationStudent | DetectionStudent | StandAloneTeacher]] = {
    ModelKind.STAND_ALONE: StandAloneTeacher,
    ModelKind.SEGMENTATION: SegmentationStudent,
    ModelKind.DETECTION: DetectionStudent,
}


def load_student(name_or_path: str | Path, **kwargs: Any) -> SegmentationStudent | DetectionStudent:
    """
    Load a segmentation or detection student from a folder or the Hub.

    Args:
        name_or_path: folder or repository; its config.json tells the kind.
        kwargs: of transformers' `from_pretrained`, such as `revision` or `dtype`.

    Raises `ValueError` if there is no student, or one exported to ONNX.

    Examples:
        >>> type(load_student("runs/nuaa/student")).__name__
        'SegmentationStudent'
    """
    kind = kind_of(name_or_path, **{name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs})
    if kind not in (ModelKind.SEGMENTATION, ModelKind.DETECTION):
        raise ValueError(f"{name_or_path} holds {kind.value}, not a student in PyTorch")
    return cast(SegmentationStudent | DetectionStudent, STUDENTS[kind].from_pretrained(name_or_path, **kwargs))


def new_student(
    task: str, name_or_path: str | Path = "", size: str = "small", normalization: str = "zscore"
) -> SegmentationStudent | DetectionStudent:
    """
    A student to train.

    Args:
        task: `segmentation` or `detection`.
        name_or_path: folder or repository of any transformers model for the task; a new model of this project if empty.
            A folder with config.json alone gives a new model with random weights. A head for other classes is replaced
            by a new one.
        size: of this project's model, see [`ScalpelStudentConfig.from_size`].
        normalization: of the [`InfraredImageProcessor`]. It replaces a transformers model's own image processor, which
            would cut 16-bit frames to 8 bits and resize all frames to one size.

    Raises `ValueError` for an unknown task or size, and if there is no such model or it is for another task.

    Examples:
        >>> new_student("segmentation", size="small").model.num_parameters() < 1_000_000
        True
    """
    if task not in LABELS:
        raise ValueError(f"`task` must be one of {', '.join(LABELS)}, got {task!r}")
    kind = SegmentationStudent if task == "segmentation" else DetectionStudent
    model: Any
    if name_or_path:
        model = _transformers_model(kind.auto_class, str(name_or_path), LABELS[task])
    elif task == "segmentation":
        model = ScalpelStudentForSemanticSegmentation(ScalpelStudentConfig.from_size(size))
    else:
        model = ScalpelStudentForObjectDetection(ScalpelStudentDetectionConfig.from_size(size))
    own = isinstance(model, ScalpelStudentBackbone)
    processor = InfraredImageProcessor(
        normalization=normalization,
        num_channels=getattr(model.config, "num_channels", 3),
        size_divisor=None if own else SIZE_DIVISOR,
    )
    return kind(model, processor)


def _transformers_model(auto_class: Any, name: str, labels: list[str]) -> PreTrainedModel:
    ids = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    try:
        with loading(name, "config.json"):
            config: PreTrainedConfig = AutoConfig.from_pretrained(name)
    except OSError as error:
        raise ValueError(
            f"{name!r} is neither a folder with a model nor a model that the Hub gives: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    if type(config) not in auto_class._model_mapping:
        raise ValueError(f"{name!r} is a {config.model_type!r} model, which {auto_class.__name__} doesn't support")
    saved_as, classes = config.architectures or [], (config.num_labels, config.num_labels + 1)
    with loading(name):
        config = AutoConfig.from_pretrained(name, **ids)
        if Path(name).is_dir() and not [*Path(name).glob("*.safetensors"), *Path(name).glob("*.bin")]:
            return auto_class.from_config(config)
        model, found = auto_class.from_pretrained(
            name, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
    missing, unexpected, mismatched = keys_that_differ(found)
    if not isinstance(model, ScalpelStudentBackbone) or type(model).__name__ not in saved_as:
        unexpected = []  # weights of another head, or that this version of transformers doesn't use
    if type(model).__name__ not in saved_as:  # transformers warns that the head is new
        missing = [key for key in missing if _is_backbone_weight(model, key)]
    check_weights(
        f"{name} doesn't hold the weights of a {type(model).__name__}",
        missing=missing,
        unexpected=unexpected,
        mismatched={key: shapes for key, shapes in mismatched.items() if not _differ_in_classes(*shapes, classes)},
    )
    check_numbers(name, model.named_parameters())
    return model


def _is_backbone_weight(model: PreTrainedModel, key: str) -> bool:
    """Whether a weight belongs to the backbone, not to the head."""
    if isinstance(model, ScalpelStudentBackbone):
        return not key.startswith(("classifier.", "head."))
    return key.startswith(f"{model.base_model_prefix}.")


def _differ_in_classes(there: tuple[int, ...], here: tuple[int, ...], classes: tuple[int, ...]) -> bool:
    """Whether a weight's two shapes differ only in the number of classes. `classes`: possible numbers in the file."""
    return len(there) == len(here) and all(a in classes for a, b in zip(there, here, strict=True) if a != b)
