"""Infrared small-target data: loading, label budgets, synthetic frames and augmentation."""

from scalpel_hf.modeling.frame_io import read_frame

from .budget import LabelBudget, apply_label_budget
from .layouts import LAYOUTS, Layout
from .loading import as_irst_dataset, load_irst_dataset
from .masks import IGNORED, MaskValues, MaskValuesError, read_mask, read_row_mask, read_target
from .objects import objects_from_mask
from .prepared import human_labelled, labelled_by_people, load_prepared, load_split, split_by_source
from .rows import FEATURES, BrokenPairsError
from .synthetic import SyntheticInfrared

__all__ = [
    "FEATURES",
    "IGNORED",
    "LAYOUTS",
    "BrokenPairsError",
    "LabelBudget",
    "Layout",
    "MaskValues",
    "MaskValuesError",
    "SyntheticInfrared",
    "apply_label_budget",
    "as_irst_dataset",
    "human_labelled",
    "labelled_by_people",
    "load_irst_dataset",
    "load_prepared",
    "load_split",
    "objects_from_mask",
    "read_frame",
    "read_mask",
    "read_row_mask",
    "read_target",
    "split_by_source",
]
