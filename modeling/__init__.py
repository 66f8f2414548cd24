"""Models, processors and operators. Their files are copied into Hub repositories as custom code.

Names are imported on first use: registration with the Auto classes runs while transformers is being imported, and must
import one module of this package without the others.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_mobile_sam import MobileSamConfig
    from .configuration_scalpel_sam import ScalpelSamConfig
    from .configuration_scalpel_student import ScalpelStudentConfig, ScalpelStudentDetectionConfig
    from .image_processing_infrared import InfraredImageProcessor
    from .losses import soft_iou_loss, weighted_bce
    from .modeling_mobile_sam import MobileSamModel
    from .modeling_scalpel_sam import ScalpelSamModel
    from .modeling_scalpel_student import ScalpelStudentForSemanticSegmentation
    from .modeling_scalpel_student_detection import ScalpelStudentForObjectDetection
    from .normalization import normalize_frame, read_frame, to_sam_input
    from .operators import AnisotropicDiffusion, LocalContrast, MatchedFilter, TopHat
    from .processing_scalpel_sam import ScalpelSamProcessor

_HOME = {
    "AnisotropicDiffusion": "operators",
    "LocalContrast": "operators",
    "MatchedFilter": "operators",
    "MobileSamConfig": "configuration_mobile_sam",
    "MobileSamModel": "modeling_mobile_sam",
    "TopHat": "operators",
    "InfraredImageProcessor": "image_processing_infrared",
    "ScalpelSamConfig": "configuration_scalpel_sam",
    "ScalpelSamModel": "modeling_scalpel_sam",
    "ScalpelSamProcessor": "processing_scalpel_sam",
    "ScalpelStudentConfig": "configuration_scalpel_student",
    "ScalpelStudentDetectionConfig": "configuration_scalpel_student",
    "ScalpelStudentForObjectDetection": "modeling_scalpel_student_detection",
    "ScalpelStudentForSemanticSegmentation": "modeling_scalpel_student",
    "normalize_frame": "normalization",
    "read_frame": "normalization",
    "soft_iou_loss": "losses",
    "to_sam_input": "normalization",
    "weighted_bce": "losses",
}

__all__ = [
    "AnisotropicDiffusion",
    "InfraredImageProcessor",
    "LocalContrast",
    "MatchedFilter",
    "MobileSamConfig",
    "MobileSamModel",
    "ScalpelSamConfig",
    "ScalpelSamModel",
    "ScalpelSamProcessor",
    "ScalpelStudentConfig",
    "ScalpelStudentDetectionConfig",
    "ScalpelStudentForObjectDetection",
    "ScalpelStudentForSemanticSegmentation",
    "TopHat",
    "normalize_frame",
    "read_frame",
    "soft_iou_loss",
    "to_sam_input",
    "weighted_bce",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
