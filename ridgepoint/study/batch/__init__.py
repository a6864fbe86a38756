"""Batch as a decision: throughput and latency by batch, the knee, the memory wall and an SLO, predicted, then measured."""

__all__: list[str] = []
