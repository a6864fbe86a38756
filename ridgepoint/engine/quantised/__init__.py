"""Reads linear layers of checkpoints that are quantised already, one file per layout of their tensors."""

__all__: list[str] = []
