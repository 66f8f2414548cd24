"""What `import scalpel_hf` makes known to PEFT and to transformers' Auto classes, each once its module is imported.

That takes seconds, which `import scalpel_hf` should not: each registration waits for its module, and then for the end
of the outermost import that it could disturb. transformers imports its Auto classes while it is still defining the
models that ours derive from.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any

AUTO = "transformers.models.auto"


def register_all() -> None:
    functions = {
        "peft": register_peft_method,
        f"{AUTO}.configuration_auto": register_configs,
        f"{AUTO}.modeling_auto": register_models,
        f"{AUTO}.image_processing_auto": register_image_processors,
        f"{AUTO}.processing_auto": register_processors,
        "transformers.pipelines": register_pipelines,
    }
    # Any model of transformers may be the first that is imported, and need modules that ours need too.
    AfterImport(functions, guards=["transformers.", f"{__package__}."]).install()


def register_peft_method() -> None:
    """
    Add the adapter to PEFT's mappings.

    `peft.utils.register_peft_method` takes only names in peft's own `PeftType`, so the mappings that it fills are
    filled here. `tests/adapter/test_registration.py` fails when a release of peft changes them.
    """
    from peft.mapping import (
        PEFT_TYPE_TO_CONFIG_MAPPING,
        PEFT_TYPE_TO_PREFIX_MAPPING,
        PEFT_TYPE_TO_TUNER_MAPPING,
    )

    from .adapter.config import ScalpelMoeConfig, ScalpelPeftType
    from .adapter.model import ScalpelMoeModel

    peft_type = ScalpelPeftType.SCALPEL_MOE
    PEFT_TYPE_TO_CONFIG_MAPPING[peft_type] = ScalpelMoeConfig
    PEFT_TYPE_TO_TUNER_MAPPING[peft_type] = ScalpelMoeModel
    PEFT_TYPE_TO_PREFIX_MAPPING[peft_type] = ScalpelMoeModel.prefix


def register_configs() -> None:
    from transformers import AutoConfig

    from .modeling.configuration_mobile_sam import MobileSamConfig
    from .modeling.configuration_scalpel_sam import ScalpelSamConfig
    from .modeling.configuration_scalpel_student import ScalpelStudentConfig, ScalpelStudentDetectionConfig

    for config in (MobileSamConfig, ScalpelSamConfig, ScalpelStudentConfig, ScalpelStudentDetectionConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)


def register_models() -> None:
    from transformers import (
        AutoModel,
        AutoModelForMaskGeneration,
        AutoModelForObjectDetection,
        AutoModelForSemanticSegmentation,
    )
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES,
        MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES,
    )

    from .modeling.configuration_mobile_sam import MobileSamConfig
    from .modeling.configuration_scalpel_sam import ScalpelSamConfig
    from .modeling.configuration_scalpel_student import ScalpelStudentConfig, ScalpelStudentDetectionConfig
    from .modeling.modeling_mobile_sam import MobileSamModel
    from .modeling.modeling_scalpel_sam import ScalpelSamModel
    from .modeling.modeling_scalpel_student import ScalpelStudentForSemanticSegmentation
    from .modeling.modeling_scalpel_student_detection import ScalpelStudentForObjectDetection

    for auto_class in (AutoModel, AutoModelForMaskGeneration):
        auto_class.register(MobileSamConfig, MobileSamModel, exist_ok=True)
        auto_class.register(ScalpelSamConfig, ScalpelSamModel, exist_ok=True)
    AutoModel.register(ScalpelStudentConfig, ScalpelStudentForSemanticSegmentation, exist_ok=True)
    AutoModelForSemanticSegmentation.register(
        ScalpelStudentConfig, ScalpelStudentForSemanticSegmentation, exist_ok=True
    )
    for auto_class in (AutoModel, AutoModelForObjectDetection):
        auto_class.register(ScalpelStudentDetectionConfig, ScalpelStudentForObjectDetection, exist_ok=True)
    # Where the stock pipelines look for the models that they know; of others they log an error.
    MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES["scalpel_student_detection"] = "ScalpelStudentForObjectDetection"
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES["scalpel_student"] = "ScalpelStudentForSemanticSegmentation"


def register_image_processors() -> None:
    from transformers import AutoImageProcessor

    from .modeling.configuration_scalpel_sam import ScalpelSamConfig
    from .modeling.configuration_scalpel_student import ScalpelStudentConfig, ScalpelStudentDetectionConfig
    from .modeling.image_processing_infrared import InfraredImageProcessor

    for config in (ScalpelSamConfig, ScalpelStudentConfig, ScalpelStudentDetectionConfig):
        AutoImageProcessor.register(config, InfraredImageProcessor, exist_ok=True)


def register_processors() -> None:
    from transformers import AutoProcessor

    from .modeling.configuration_scalpel_sam import ScalpelSamConfig
    from .modeling.processing_scalpel_sam import ScalpelSamProcessor

    AutoProcessor.register(ScalpelSamConfig, ScalpelSamProcessor, exist_ok=True)


def register_pipelines() -> None:
    from transformers.pipelines import PIPELINE_REGISTRY

    from .pipelines import TASK, InfraredModel, InfraredSmallTargetPipeline

    PIPELINE_REGISTRY.register_pipeline(TASK, InfraredSmallTargetPipeline, pt_model=InfraredModel, type="image")
    # Marks pipelines whose code is saved with their model, which then can't be loaded without `trust_remote_code`.
    del InfraredSmallTargetPipeline._registered_impl


class AfterImport(importlib.abc.MetaPathFinder):
    """
    Finder that calls functions after imports.

    Args:
        functions: what to call once, by the name of the module to wait for.
        guards: names of modules, and prefixes ending in a dot, during whose import nothing may be called.
    """

    def __init__(self, functions: dict[str, Callable[[], None]], guards: Iterable[str]):
        self.functions = dict(functions)
        self.names = {*functions, *(g for g in guards if not g.endswith("."))}
        self.prefixes = tuple(g for g in guards if g.endswith("."))
        self.importing: list[str] = []
        self.ready: list[Callable[[], None]] = []
        self.busy = False

    def install(self) -> None:
        sys.meta_path.insert(0, self)
        for name in [n for n in self.functions if n in sys.modules]:
            self.ready.append(self.functions.pop(name))
        self.call_ready()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self.names and not fullname.startswith(self.prefixes):
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None

    def finished(self, name: str) -> None:
        self.importing.remove(name)
        if name in self.functions:
            self.ready.append(self.functions.pop(name))
        self.call_ready()

    def call_ready(self) -> None:
        while self.ready and not self.importing and not self.busy:
            self.busy = True
            try:
                self.ready.pop(0)()
            finally:
                self.busy = False


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader, watcher: AfterImport):
        self.loader, self.watcher = loader, watcher

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__.loader = module.__loader__ = self.loader  # type: ignore[union-attr]
        self.watcher.importing.append(module.__name__)
        try:
            self.loader.exec_module(module)
        except BaseException:  # the import may be tried again
            self.watcher.importing.remove(module.__name__)
            raise
        self.watcher.finished(module.__name__)

    def __getattr__(self, name: str) -> Any:
        # What else a loader can do: `runpy` and `inspect` ask for code and source.
        return getattr(self.loader, name)
