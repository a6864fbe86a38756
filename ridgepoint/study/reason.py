"""Why one side won, from the operators on paper: the group of operators that makes the difference, and what it waits for."""

from collections.abc import Mapping

from ridgepoint.quantity import show, show_time
from ridgepoint.result import OpRow
from ridgepoint.study.betting import TIE
from ridgepoint.study.choosing import side_of

__all__ = ["Rows", "reason"]

Rows = tuple[tuple[OpRow, ...], tuple[OpRow, ...]]
"""Predicted operators of side a and of side b."""
_GROUPS = {
    "linear": "the linear layers", "conv": "the convolutions", "matmul": "the products of activations",
    "attention": "attention",
}  # fmt: skip
_REST = "the operators between the layers"
_CACHE = "writing and reading the KV cache"


def reason(measured: Mapping[int, float], rows: Mapping[int, Rows], a: str, b: str) -> str:
    """Why the measured winner won at each batch of `rows`; "" where nobody won, or paper had expected the other.

    `measured`: speed-up of b over a by batch. A reason that argues for the loser would be worse than none.
    """
    parts = {}
    for batch, (rows_a, rows_b) in rows.items():
        said = _why(rows_a, rows_b, side_of(measured[batch]), a, b)
        if said:
            parts[batch] = said
    if len(set(parts.values())) == 1 and len(parts) == len(rows):
        return next(iter(parts.values()))
    return ", ".join(f"at batch {batch} {said}" for batch, said in parts.items())


def _why(rows_a: tuple[OpRow, ...], rows_b: tuple[OpRow, ...], winner: int, a: str, b: str) -> str:
    times_a, times_b = _by_group(rows_a), _by_group(rows_b)
    gains = {group: winner * (times_a.get(group, 0.0) - times_b.get(group, 0.0)) for group in {**times_a, **times_b}}
    group = max(gains, key=lambda g: gains[g], default="")
    if winner == 0 or not group or gains[group] <= 0:
        return ""
    if group == _GROUPS["linear"]:
        return _linear_reason(rows_a, rows_b, winner, a, b)
    if group in (_GROUPS["conv"], _GROUPS["matmul"]):
        kind = "conv" if group == _GROUPS["conv"] else "matmul"
        return f"{group} compute at {_rate(rows_b, kind)} in {b} against {_rate(rows_a, kind)} in {a}"
    verb = "takes" if group in (_GROUPS["attention"], _CACHE) else "take"
    said = f"{group} {verb} {show_time(times_b.get(group, 0.0))} in {b} and {show_time(times_a.get(group, 0.0))} in {a}"
    if group == _CACHE and _reads_codes(rows_a) != _reads_codes(rows_b):
        said += f": no kernel here reads {a if _reads_codes(rows_a) else b}, so all of it is dequantised at each step"
    return said


def _reads_codes(rows: tuple[OpRow, ...]) -> bool:
    return any(row.kind.startswith("kv_read") for row in rows)


def _by_group(rows: tuple[OpRow, ...]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for row in rows:
        group = _CACHE if row.kind.startswith("kv_") else _GROUPS.get(row.kind, _REST)
        totals[group] = totals.get(group, 0.0) + row.time_s
    return totals


def _linear_reason(rows_a: tuple[OpRow, ...], rows_b: tuple[OpRow, ...], winner: int, a: str, b: str) -> str:
    """Fewer bytes, where the loser waits for memory and the winner moves fewer; else the rates of the kernels."""
    fast_rows, slow_rows, fast = (rows_b, rows_a, b) if winner > 0 else (rows_a, rows_b, a)
    moved = _sum(slow_rows, "bytes") / max(_sum(fast_rows, "bytes"), 1.0)
    if moved > 1 + TIE and _waits_for_memory(slow_rows):
        return f"the linear layers wait for weights and {fast} moves {moved:.1f}x fewer bytes"
    if all(_kernels(rows_a).values()) and _kernels(rows_a) == _kernels(rows_b) and abs(moved - 1) <= TIE:
        times = (show_time(_sum(rows, "time_s")) for rows in (rows_b, rows_a))
        return f"the same linear layers, calls included, take {next(times)} in {b} and {next(times)} in {a}"
    return f"{b}'s kernels compute at {_rate(rows_b, 'linear')} against {_rate(rows_a, 'linear')} of {a}"


def _kernels(rows: tuple[OpRow, ...]) -> dict[str, str]:
    return {row.name: row.kernel for row in rows if row.kind == "linear"}


def _rate(rows: tuple[OpRow, ...], kind: str) -> str:
    return show(_sum(rows, "flops", kind) / _sum(rows, "time_s", kind), "FLOP/s")


def _sum(rows: tuple[OpRow, ...], field: str, kind: str = "linear") -> float:
    return sum(getattr(row, field) for row in rows if row.kind == kind) or 1e-12


def _waits_for_memory(rows: tuple[OpRow, ...]) -> bool:
    totals: dict[str, float] = {}
    for row in rows:
        if row.kind == "linear":
            totals[row.bound] = totals.get(row.bound, 0.0) + row.time_s
    return max(totals, key=lambda bound: totals[bound], default="") in ("memory", "cache")
