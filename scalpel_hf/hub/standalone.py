"""A teacher's adapter and base as one model, which needs neither peft nor this package."""

import shutil
from pathlib import Path

from scalpel_hf.evaluation.unseen import TRAINED_ON_FILE
from scalpel_hf.modeling.modeling_scalpel_sam import ScalpelSamModel
from scalpel_hf.modeling.processing_scalpel_sam import ScalpelSamProcessor
from scalpel_hf.predictors.teacher import Teacher
from scalpel_hf.training.run_record import METRICS_FILE
from scalpel_hf.utils.files import as_umask_says


def save_standalone(teacher: str | Path, folder: str | Path, base: str | Path | None = None) -> None:
    """
    Write the stand-alone model of a teacher in a folder or on the Hub: weights, configuration, processor, and the
    run's metrics.json and trained_on.json where they are there.

    Args:
        base: where the base model is, if not at the adapter's `base_model_name_or_path`.
    """
    loaded = Teacher.from_pretrained(teacher, base)
    ScalpelSamModel.from_peft(loaded.one_model).save_pretrained(str(folder))
    ScalpelSamProcessor(loaded.processor).save_pretrained(str(folder))
    as_umask_says(Path(folder), "*.safetensors")
    for name in (METRICS_FILE, TRAINED_ON_FILE):
        if (Path(teacher) / name).is_file():
            shutil.copy(Path(teacher) / name, folder)
