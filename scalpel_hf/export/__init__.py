"""Export of students and teachers to ONNX, with checks against PyTorch. Needs the extra `onnx`.

[`scalpel_hf.runtime`] runs exported students; it needs the ONNX file and runtime.json in one folder.
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
