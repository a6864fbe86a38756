"""Probes of a calibration: what this machine does with each kernel, as raw samples."""

__all__: list[str] = []
