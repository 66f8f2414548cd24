"""Reads and writes labels in the formats of other programs; docs/reference/formats.md says what each can hold."""

from .coco import read_coco, write_coco
from .export_rows import LossyExportWarning
from .hugging_face import write_imagefolder, write_parquet
from .human_labels import HumanLabel, LabelFileError, import_human_labels
from .label_files import READABLE, read_label_file
from .label_studio import read_label_studio, write_label_studio
from .mask_files import read_masks, write_masks
from .plain_json import read_boxes
from .voc import read_voc_boxes, write_voc
from .yolo import read_yolo, write_yolo_detection, write_yolo_segmentation

__all__ = [
    "READABLE",
    "HumanLabel",
    "LabelFileError",
    "LossyExportWarning",
    "import_human_labels",
    "read_boxes",
    "read_coco",
    "read_label_file",
    "read_label_studio",
    "read_masks",
    "read_voc_boxes",
    "read_yolo",
    "write_coco",
    "write_imagefolder",
    "write_label_studio",
    "write_masks",
    "write_parquet",
    "write_voc",
    "write_yolo_detection",
    "write_yolo_segmentation",
]
