"""Fitting: parameters of time models from measured rows, on paper."""

__all__: list[str] = []
