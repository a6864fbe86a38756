"""Algorithms that choose the codes of quantised weights from what a model's layers are given as input."""

__all__: list[str] = []
