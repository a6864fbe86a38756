"""Seconds per step of each operator of a plan: leaves of the same last name are added up over layers."""

from ridgepoint.measurement.clock import Clock
from ridgepoint.measurement.optime import timed_leaves
from ridgepoint.measurement.runnable import Runnable

__all__ = ["leaf_totals"]


def leaf_totals(run: Runnable, clock: Clock, own_s: float | None = None) -> dict[str, float]:
    """One step of `run`, operator by operator; `own_s` is the wrapper's own cost where it is known already."""
    if run.rows:
        from ridgepoint.measurement.trace.timing import call_overhead_s, call_totals

        return call_totals(run.plain, run.rows, clock, call_overhead_s(clock) if own_s is None else own_s)
    with timed_leaves(run.model, clock, own_s) as times:
        run.plain()
    totals: dict[str, float] = {}
    for name, values in times.items():
        row = _row(run.model, name)
        totals[row] = totals.get(row, 0.0) + sum(values)
    return totals


def _row(model: object, name: str) -> str:
    """The row of the plan that a module's path belongs to: `layers.7.attention` is the attention of layer 7's block."""
    path = name.split(".")
    decoder = getattr(model, "decoder", None)
    if decoder is not None and path[0] == "layers":
        names = decoder.row_names[decoder.block_of(int(path[1]))]
        return names.get(path[-1], path[-1])
    return "linear" if path[-1].isdigit() else path[-1]
