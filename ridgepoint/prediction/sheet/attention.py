"""Attention from the datasheet: prompts, decoding, and both in one step."""

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.sheet.context import Sheet, Timed
from ridgepoint.workload import Attention

__all__ = ["attention_time"]


def attention_time(sheet: Sheet, op: Attention) -> Timed:
    """One call over all groups of sequences."""
    raise NotSupported(f"{op.name}: attention is not predicted from a datasheet yet")
