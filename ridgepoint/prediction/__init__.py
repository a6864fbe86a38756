"""Prediction: pure functions of plan and target, with no torch, no clock and no measurement."""

from ridgepoint.prediction.latency import Z80, StepTime, predict, ratio_sigma, step_time
from ridgepoint.prediction.memory import MemoryNeed, predict_memory
from ridgepoint.prediction.roofline import roofline_seconds

__all__ = [
    "Z80", "MemoryNeed", "StepTime", "predict", "predict_memory", "ratio_sigma", "roofline_seconds", "step_time",
]  # fmt: skip
