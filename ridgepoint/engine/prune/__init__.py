"""Pruning: which weights become zero, and which channels and heads go."""

__all__: list[str] = []
