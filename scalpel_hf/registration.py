"""What `import scalpel_hf` makes known to PEFT and to transformers' Auto classes, each once its module is imported."""

from .after_import import AfterImport

AUTO = "transformers.models.auto"
SAM = "transformers.models.sam"


def register_all() -> None:
    functions = {
        "peft": register_peft_method,
        f"{AUTO}.configuration_auto": register_configs,
        f"{AUTO}.modeling_auto": register_models,
        f"{AUTO}.image_processing_auto": register_image_processors,
    }
    AfterImport(functions, guards=[f"{SAM}.configuration_sam", f"{SAM}.modeling_sam", f"{__package__}."]).install()


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
    from .modeling.configuration_scalpel_student import ScalpelStudentConfig

    for config in (MobileSamConfig, ScalpelStudentConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)


def register_models() -> None:
    from transformers import AutoModel, AutoModelForMaskGeneration, AutoModelForSemanticSegmentation

    from .modeling.configuration_mobile_sam import MobileSamConfig
    from .modeling.configuration_scalpel_student import ScalpelStudentConfig
    from .modeling.modeling_mobile_sam import MobileSamModel
    from .modeling.modeling_scalpel_student import ScalpelStudentForSemanticSegmentation

    AutoModel.register(MobileSamConfig, MobileSamModel, exist_ok=True)
    AutoModelForMaskGeneration.register(MobileSamConfig, MobileSamModel, exist_ok=True)
    AutoModel.register(ScalpelStudentConfig, ScalpelStudentForSemanticSegmentation, exist_ok=True)
    AutoModelForSemanticSegmentation.register(
        ScalpelStudentConfig, ScalpelStudentForSemanticSegmentation, exist_ok=True
    )


def register_image_processors() -> None:
    from transformers import AutoImageProcessor

    from .modeling.configuration_scalpel_student import ScalpelStudentConfig
    from .modeling.image_processing_infrared import InfraredImageProcessor

    AutoImageProcessor.register(ScalpelStudentConfig, InfraredImageProcessor, exist_ok=True)
