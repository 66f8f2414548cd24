"""Students and teachers as ONNX, each checked against torch. Needs the extra `onnx`.

What runs an exported student, [`scalpel_hf.runtime`], needs the ONNX file and the runtime.json beside it.
"""

from .int8 import quantize_student
from .onnx_detector import DetectorGraph, check_detector, export_detector
from .onnx_student import StudentGraph, check_student, export_student
from .onnx_teacher import TeacherDecoder, TeacherEncoder, check_teacher, export_teacher

__all__ = [
    "DetectorGraph",
    "StudentGraph",
    "TeacherDecoder",
    "TeacherEncoder",
    "check_detector",
    "check_student",
    "check_teacher",
    "export_detector",
    "export_student",
    "export_teacher",
    "quantize_student",
]
