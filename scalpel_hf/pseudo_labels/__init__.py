"""Pseudo labels: a teacher labels the frames that nobody has labelled, in columns beside those of people's labels."""

from scalpel_hf.data.pseudo_columns import PSEUDO_FEATURES
from scalpel_hf.data.training_labels import training_mask

from .calibration import Calibration, fit_calibration, match_prevalence
from .job import LabellingJob, label_in_shards
from .labelling import add_pseudo_labels
from .output import summarize
from .rules import Rules

__all__ = [
    "PSEUDO_FEATURES",
    "Calibration",
    "LabellingJob",
    "Rules",
    "add_pseudo_labels",
    "fit_calibration",
    "label_in_shards",
    "match_prevalence",
    "summarize",
    "training_mask",
]
