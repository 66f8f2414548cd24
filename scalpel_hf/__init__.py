"""From a tenth of the masks to a small infrared target detector.

Importing this package makes the PEFT method `SCALPEL_MOE` and the model types `mobile_sam` and `scalpel_student` known
to peft and transformers. Everything heavy is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .registration import register_all
from .version import __version__

if TYPE_CHECKING:
    from .adapter import ScalpelMoeConfig, ScalpelMoeModel, link_frames, record_router
    from .data import SyntheticInfrared, apply_label_budget, load_irst_dataset
    from .metrics import IRSTDMetrics
    from .modeling.configuration_mobile_sam import MobileSamConfig
    from .modeling.configuration_scalpel_student import ScalpelStudentConfig
    from .modeling.image_processing_infrared import InfraredImageProcessor
    from .modeling.modeling_mobile_sam import MobileSamModel
    from .modeling.modeling_scalpel_student import ScalpelStudentForSemanticSegmentation
    from .prefix_cache import FrozenPrefix, PrefixCache
    from .pseudo_labels import add_pseudo_labels, training_mask
    from .student import Student
    from .teacher import Teacher

_HOME = {
    "ScalpelMoeConfig": "adapter",
    "ScalpelMoeModel": "adapter",
    "link_frames": "adapter",
    "record_router": "adapter",
    "SyntheticInfrared": "data",
    "apply_label_budget": "data",
    "load_irst_dataset": "data",
    "IRSTDMetrics": "metrics",
    "MobileSamConfig": "modeling.configuration_mobile_sam",
    "MobileSamModel": "modeling.modeling_mobile_sam",
    "ScalpelStudentConfig": "modeling.configuration_scalpel_student",
    "ScalpelStudentForSemanticSegmentation": "modeling.modeling_scalpel_student",
    "InfraredImageProcessor": "modeling.image_processing_infrared",
    "FrozenPrefix": "prefix_cache",
    "PrefixCache": "prefix_cache",
    "add_pseudo_labels": "pseudo_labels",
    "training_mask": "pseudo_labels",
    "Student": "student",
    "Teacher": "teacher",
}

__all__ = [
    "FrozenPrefix",
    "IRSTDMetrics",
    "InfraredImageProcessor",
    "MobileSamConfig",
    "MobileSamModel",
    "PrefixCache",
    "ScalpelMoeConfig",
    "ScalpelMoeModel",
    "ScalpelStudentConfig",
    "ScalpelStudentForSemanticSegmentation",
    "Student",
    "SyntheticInfrared",
    "Teacher",
    "__version__",
    "add_pseudo_labels",
    "apply_label_budget",
    "link_frames",
    "load_irst_dataset",
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
