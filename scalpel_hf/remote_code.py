"""What lets `trust_remote_code=True` load this project's classes where scalpel_hf is not installed.

A repository then holds the files of `modeling/` that its classes need, and its configurations say in `auto_map` which
class of which file is meant. Where scalpel_hf is imported, its own classes are used instead.
"""

import re
from pathlib import Path
from typing import Any

from . import modeling

MODULES = Path(modeling.__path__[0])

# By `model_type`: the class of each Auto class that takes it.
MODELS: dict[str, dict[str, str]] = {
    "mobile_sam": {
        "AutoConfig": "configuration_mobile_sam.MobileSamConfig",
        "AutoModel": "modeling_mobile_sam.MobileSamModel",
        "AutoModelForMaskGeneration": "modeling_mobile_sam.MobileSamModel",
    },
    "scalpel_sam": {
        "AutoConfig": "configuration_scalpel_sam.ScalpelSamConfig",
        "AutoModel": "modeling_scalpel_sam.ScalpelSamModel",
        "AutoModelForMaskGeneration": "modeling_scalpel_sam.ScalpelSamModel",
    },
    "scalpel_student": {
        "AutoConfig": "configuration_scalpel_student.ScalpelStudentConfig",
        "AutoModel": "modeling_scalpel_student.ScalpelStudentForSemanticSegmentation",
        "AutoModelForSemanticSegmentation": "modeling_scalpel_student.ScalpelStudentForSemanticSegmentation",
    },
    "scalpel_student_detection": {
        "AutoConfig": "configuration_scalpel_student.ScalpelStudentDetectionConfig",
        "AutoModel": "modeling_scalpel_student_detection.ScalpelStudentForObjectDetection",
        "AutoModelForObjectDetection": "modeling_scalpel_student_detection.ScalpelStudentForObjectDetection",
    },
}
# By the class's name in a processor's configuration.
PROCESSORS: dict[str, dict[str, str]] = {
    "InfraredImageProcessor": {"AutoImageProcessor": "image_processing_infrared.InfraredImageProcessor"},
    "ScalpelSamProcessor": {"AutoProcessor": "processing_scalpel_sam.ScalpelSamProcessor"},
}


def with_auto_map(config: dict[str, Any]) -> dict[str, Any]:
    """A config.json, preprocessor_config.json or processor_config.json that says where its classes are."""
    found = {
        **MODELS.get(config.get("model_type", ""), {}),
        **PROCESSORS.get(config.get("image_processor_type", ""), {}),
        **PROCESSORS.get(config.get("processor_class", ""), {}),
    }
    config = {**config, "auto_map": found} if found else dict(config)
    if isinstance(config.get("image_processor"), dict):
        config["image_processor"] = with_auto_map(config["image_processor"])
    return config


def code_files(configs: list[dict[str, Any]]) -> list[Path]:
    """The files of `modeling/` that the classes in the configurations' `auto_map` need, directly and through others."""
    modules: set[str] = set()
    for config in configs:
        for part in (config, config.get("image_processor") or {}):
            modules |= {reference.split(".")[0] for reference in part.get("auto_map", {}).values()}
    waiting = list(modules)
    while waiting:
        source = (MODULES / f"{waiting.pop()}.py").read_text(encoding="utf-8")
        new = set(re.findall(r"^\s*from \.(\w+) import", source, re.MULTILINE)) - modules
        modules |= new
        waiting += new
    return sorted(MODULES / f"{module}.py" for module in modules)
