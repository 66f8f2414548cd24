"""From a tenth of the masks to a small infrared target detector.

Importing this package makes the PEFT method `SCALPEL_MOE` and the model types `mobile_sam`, `scalpel_sam` and
`scalpel_student` known to peft and transformers. Everything heavy is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .registration import register_all
from .version import __version__

if TYPE_CHECKING:
    from .adapter import ScalpelMoeConfig, ScalpelMoeModel, link_frames, record_router
    from .data import SyntheticInfrared, apply_label_budget, load_irst_dataset
    from .evaluation import DetectionMetrics, IRSTDMetrics
    from .modeling.configuration_mobile_sam import MobileSamConfig
    from .modeling.configuration_scalpel_sam import ScalpelSamConfig
    from .modeling.configuration_scalpel_student import ScalpelStudentConfig, ScalpelStudentDetectionConfig
    from .modeling.image_processing_infrared import InfraredImageProcessor
    from .modeling.modeling_mobile_sam import MobileSamModel
    from .modeling.modeling_scalpel_sam import ScalpelSamModel
    from .modeling.modeling_scalpel_student import ScalpelStudentForSemanticSegmentation
    from .modeling.modeling_scalpel_student_detection import ScalpelStudentForObjectDetection
    from .modeling.processing_scalpel_sam import ScalpelSamProcessor
    from .predictors.feature_cache import FeatureCache, FrozenFeatures
    from .predictors.load import load_predictor
    from .predictors.sam import load_sam
    from .predictors.student import DetectionStudent, SegmentationStudent, load_student
    from .predictors.teacher import Teacher
    from .pseudo_labels import add_pseudo_labels, training_mask

_HOME = {
    "ScalpelMoeConfig": "adapter",
    "ScalpelMoeModel": "adapter",
    "link_frames": "adapter",
    "record_router": "adapter",
    "SyntheticInfrared": "data",
    "apply_label_budget": "data",
    "load_irst_dataset": "data",
    "DetectionMetrics": "evaluation",
    "IRSTDMetrics": "evaluation",
    "MobileSamConfig": "modeling.configuration_mobile_sam",
    "MobileSamModel": "modeling.modeling_mobile_sam",
    "ScalpelSamConfig": "modeling.configuration_scalpel_sam",
    "ScalpelSamModel": "modeling.modeling_scalpel_sam",
    "ScalpelSamProcessor": "modeling.processing_scalpel_sam",
    "ScalpelStudentConfig": "modeling.configuration_scalpel_student",
    "ScalpelStudentDetectionConfig": "modeling.configuration_scalpel_student",
    "ScalpelStudentForObjectDetection": "modeling.modeling_scalpel_student_detection",
    "ScalpelStudentForSemanticSegmentation": "modeling.modeling_scalpel_student",
    "InfraredImageProcessor": "modeling.image_processing_infrared",
    "FrozenFeatures": "predictors.feature_cache",
    "FeatureCache": "predictors.feature_cache",
    "add_pseudo_labels": "pseudo_labels",
    "training_mask": "pseudo_labels",
    "load_predictor": "predictors.load",
    "load_sam": "predictors.sam",
    "DetectionStudent": "predictors.student",
    "SegmentationStudent": "predictors.student",
    "load_student": "predictors.student",
    "Teacher": "predictors.teacher",
}

__all__ = [
    "DetectionMetrics",
    "DetectionStudent",
    "FeatureCache",
    "FrozenFeatures",
    "IRSTDMetrics",
    "InfraredImageProcessor",
    "MobileSamConfig",
    "MobileSamModel",
    "ScalpelMoeConfig",
    "ScalpelMoeModel",
    "ScalpelSamConfig",
    "ScalpelSamModel",
    "ScalpelSamProcessor",
    "ScalpelStudentConfig",
    "ScalpelStudentDetectionConfig",
    "ScalpelStudentForObjectDetection",
    "ScalpelStudentForSemanticSegmentation",
    "SegmentationStudent",
    "SyntheticInfrared",
    "Teacher",
    "__version__",
    "add_pseudo_labels",
    "apply_label_budget",
    "link_frames",
    "load_irst_dataset",
    "load_predictor",
    "load_sam",
    "load_student",
    "record_router",
    "training_mask",
]

register_all()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
