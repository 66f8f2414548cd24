"""Custom code for Hub repositories: with `trust_remote_code=True` they load where scalpel_hf is not installed.

Such a repository contains the files of `modeling/` that its classes need, and the `auto_map` of its configurations
names the file and class for each Auto class. Where scalpel_hf has been imported, its own classes are used instead.
"""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

MODULES = Path(__file__).parent
IMAGE_PROCESSOR_FILE, PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"

# `auto_map` of each `model_type`: the class that an Auto class loads.
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
# `auto_map` of each processor class that a configuration names.
PROCESSORS: dict[str, dict[str, str]] = {
    "InfraredImageProcessor": {"AutoImageProcessor": "image_processing_infrared.InfraredImageProcessor"},
    "ScalpelSamProcessor": {"AutoProcessor": "processing_scalpel_sam.ScalpelSamProcessor"},
}


class CustomCodeMixin:
    """Mixin for models and processors: `push_to_hub` also uploads the code that `trust_remote_code=True` runs."""

    def _upload_modified_files(self, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        # Transformers' `push_to_hub` and `save_pretrained(..., push_to_hub=True)` call this last, on the saved files.
        add_code(Path(working_dir))
        return super()._upload_modified_files(working_dir, *args, **kwargs)  # type: ignore[misc]


def add_code(folder: Path) -> None:
    """Add code and `auto_map` to a folder with saved configurations, so that `trust_remote_code=True` loads it."""
    configs = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*config.json")}
    published = published_configs(configs)
    for name in configs.keys() - published.keys():
        (folder / name).unlink()
    for name, config in published.items():
        (folder / name).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for path in code_files(configs.values()):
        shutil.copy(path, folder)


def published_configs(configs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """
    Convert saved configurations, by file name, to those of a repository with code.

    An image processor's settings move to processor_config.json. If preprocessor_config.json had an `auto_map`,
    transformers' pipelines would take it for a video processor's as well, and ask for permission to run its code.
    """
    published = {name: with_auto_map(config) for name, config in configs.items()}
    if "auto_map" in published.get(IMAGE_PROCESSOR_FILE, {}) and PROCESSOR_FILE not in published:
        published[PROCESSOR_FILE] = {"image_processor": published.pop(IMAGE_PROCESSOR_FILE)}
    return published


def with_auto_map(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of a model's or processor's configuration, with `auto_map` if its class is one of this project's."""
    found = {
        **MODELS.get(config.get("model_type", ""), {}),
        **PROCESSORS.get(config.get("image_processor_type", ""), {}),
        **PROCESSORS.get(config.get("processor_class", ""), {}),
    }
    config = {**config, "auto_map": found} if found else dict(config)
    if isinstance(config.get("image_processor"), dict):
        config["image_processor"] = with_auto_map(config["image_processor"])
    return config


def code_files(configs: Iterable[dict[str, Any]]) -> list[Path]:
    """The files of this folder that the configurations' classes import, directly or through other files."""
    modules: set[str] = set()
    for config in configs:
        found = with_auto_map(config)
        for part in (found, found.get("image_processor") or {}):
            modules |= {reference.split(".")[0] for reference in part.get("auto_map", {}).values()}
    waiting = list(modules)
    while waiting:
        source = (MODULES / f"{waiting.pop()}.py").read_text(encoding="utf-8")
        new = set(re.findall(r"^\s*from \.(\w+) import", source, re.MULTILINE)) - modules
        modules |= new
        waiting += new
    return sorted(MODULES / f"{module}.py" for module in modules)
