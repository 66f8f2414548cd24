"""Metrics of infrared small-target detection."""

from .detection_metrics import DetectionMetrics
from .irstd_metrics import IRSTDMetrics

__all__ = ["DetectionMetrics", "IRSTDMetrics"]
