"""Runs exported students with NumPy and onnxruntime only, without torch and transformers.

Examples:
    >>> from scalpel_hf.runtime import OnnxStudent
    >>> student = OnnxStudent.from_pretrained("runs/nuaa/student")  # a folder or a repository on the Hub
    >>> boxes, scores, mask = student.detect("frame.png")

`python -m scalpel_hf.runtime` does the same for folders, multi-page TIFFs, videos and cameras.
"""

from .components import Detections, find_detections, snap_boxes
from .onnx_models import OnnxDetector, OnnxStudent, load_exported
from .preprocessing import normalize_frame
from .sources import read_stream

__all__ = [
    "Detections",
    "OnnxDetector",
    "OnnxStudent",
    "find_detections",
    "load_exported",
    "normalize_frame",
    "read_stream",
    "snap_boxes",
]
