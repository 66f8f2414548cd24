"""Merges a teacher's adapter and base into one model, which loads without peft and this package."""

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
    Write a teacher as a stand-alone model: weights, configuration, processor, and the run's metrics.json and
    trained_on.json if they exist.

    Args:
        teacher: folder or repository of the teacher.
        folder: to write to.
        base: folder or repository of the base model, if not the adapter's `base_model_name_or_path`.

    Raises `ValueError` for a committee, and for bases that [`ScalpelSamModel`] doesn't support.
    """
    loaded = Teacher.from_pretrained(teacher, base)
    model = ScalpelSamModel.from_peft(loaded.one_model)
    model.save_pretrained(str(folder))
    ScalpelSamProcessor(loaded.processor, model.config.mask_grid).save_pretrained(str(folder))
    as_umask_says(Path(folder), "*.safetensors")
    for name in (METRICS_FILE, TRAINED_ON_FILE):
        if (Path(teacher) / name).is_file():
            shutil.copy(Path(teacher) / name, folder)
