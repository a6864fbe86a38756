"""Kernel ladders in plain torch: for each weight format, the naive and the tuned ways to compute it."""

__all__: list[str] = []
