"""Seconds per step of each operator of a plan: leaves of the same last name are added up over layers."""

from dataclasses import dataclass

from ridgepoint.measurement.clock import Clock
from ridgepoint.measurement.optime import overhead_s, timed_leaves
from ridgepoint.measurement.runnable import Runnable

__all__ = ["OwnCost", "leaf_totals", "own_cost"]


@dataclass(frozen=True, slots=True)
class OwnCost:
    """What timing adds to each operator call, and between two calls of a module."""

    call_s: float
    gap_s: float = 0.0


def own_cost(run: Runnable, clock: Clock) -> OwnCost:
    """To be measured once, before the steps."""
    if not run.rows:
        return OwnCost(overhead_s(clock))
    from ridgepoint.measurement.trace.timing import call_overhead_s, gap_overhead_s

    return OwnCost(call_overhead_s(clock), gap_overhead_s(clock))


def leaf_totals(run: Runnable, clock: Clock, own: OwnCost | None = None) -> dict[str, float]:
    """One step of `run`, operator by operator, of a module also what passes between its calls; `own` is `own_cost`,
    measured now where it is not given."""
    own = own_cost(run, clock) if own is None else own
    if run.rows:
        from ridgepoint.measurement.trace.timing import call_totals

        return call_totals(run.plain, run.rows, clock, own.call_s, own.gap_s)
    with timed_leaves(run.model, clock, own.call_s) as times:
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
