"""Seconds per step of each operator of a plan: leaves of the same last name are added up over layers."""

from ridgepoint.measurement.clock import Clock
from ridgepoint.measurement.optime import timed_leaves
from ridgepoint.measurement.runnable import Runnable

__all__ = ["leaf_totals"]


def leaf_totals(run: Runnable, clock: Clock, own_s: float | None = None) -> dict[str, float]:
    """One step of `run`, operator by operator; `own_s` is the wrapper's own cost where it is known already."""
    with timed_leaves(run.model, clock, own_s) as times:
        run.plain()
    totals: dict[str, float] = {}
    for name, values in times.items():
        last = name.rpartition(".")[2]
        leaf = "linear" if last.isdigit() else last
        totals[leaf] = totals.get(leaf, 0.0) + sum(values)
    return totals
