"""Operators of a plan on a machine that is known from its datasheet: each by its time model and its class's parameters."""

__all__: list[str] = []
