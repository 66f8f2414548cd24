"""Students in the field: NumPy and onnxruntime alone, neither torch nor transformers.

Example:
    >>> from scalpel_hf.runtime import OnnxStudent
    >>> student = OnnxStudent.from_pretrained("runs/nuaa/student")  # a folder or a repository on the Hub
    >>> boxes, scores, mask = student.detect("frame.png")

`python -m scalpel_hf.runtime` does the same for folders, multi-page TIFFs, videos and cameras.
"""

from .components import Detections, find_detections
from .normalization import normalize_frame
from .sources import read_stream
from .student import OnnxStudent

__all__ = ["Detections", "OnnxStudent", "find_detections", "normalize_frame", "read_stream"]
