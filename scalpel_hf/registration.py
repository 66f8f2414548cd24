"""What `import scalpel_hf` makes known to PEFT and to transformers' Auto classes, each once its module is imported."""

from .after_import import AfterImport

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
