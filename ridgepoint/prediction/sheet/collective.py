"""Collectives from the datasheet: what devices of a node tell each other."""

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.sheet.context import Sheet, Timed
from ridgepoint.workload import Collective

__all__ = ["collective_op_time"]


def collective_op_time(sheet: Sheet, op: Collective) -> Timed:
    """One call."""
    raise NotSupported(f"{op.name}: collectives are not predicted from a datasheet yet")
