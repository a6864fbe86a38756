"""Seconds per step of each operator of a plan: leaves of the same last name are added up over layers."""

from ridgepoint.measurement.clock import Clock
from ridgepoint.measurement.optime import overhead_s, timed_leaves
from ridgepoint.measurement.runnable import Runnable

__all__ = ["leaf_totals", "own_cost_s"]


def own_cost_s(run: Runnable, clock: Clock) -> float:
    """What timing adds to each operator of `run`; to be measured once, before the steps."""
    if not run.rows:
        return overhead_s(clock)
    from ridgepoint.measurement.trace.timing import call_overhead_s

    return call_overhead_s(clock)


def leaf_totals(run: Runnable, clock: Clock, own_s: float | None = None) -> dict[str, float]:
    """One step of `run`, operator by operator; `own_s` is `own_cost_s`, measured now where it is not given."""
    own_s = own_cost_s(run, clock) if own_s is None else own_s
    if run.rows:
        from ridgepoint.measurement.trace.timing import call_totals

        return call_totals(run.plain, run.rows, clock, own_s)
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
