"""Metrics of infrared small-target detection."""

from .irstd_metrics import IRSTDMetrics

__all__ = ["IRSTDMetrics"]
