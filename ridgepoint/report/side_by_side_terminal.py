"""One plan on several targets: step time, throughput, memory and what bounds it, and the operators beside each other."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from ridgepoint.hardware import Target
from ridgepoint.quantity import show_bytes, show_time
from ridgepoint.report.grid_terminal import add, grid, heading, line
from ridgepoint.report.words import ABSENT, clean
from ridgepoint.result import Result

__all__ = ["side_by_side"]


def side_by_side(results: Sequence[Result], targets: Sequence[Target]) -> RenderableType:
    """A row for each target, the fastest marked; then a row for each operator with a column for each target."""
    first = results[0]
    title = Text.assemble(("predicted", "bold"), f"  {clean(first.workload)}, {clean(first.step)}, {clean(first.side)}")
    parts: list[RenderableType] = [Rule(title, align="left", style="dim"), _totals(results, targets)]
    parts += [heading("operators"), _operators(results)]
    parts += [line(f"! {r.target}: {flag}", "yellow") for r in results for flag in r.flags]
    return Group(*parts)


def _totals(results: Sequence[Result], targets: Sequence[Target]) -> RenderableType:
    table = grid(("<target", "step", "80 %", "tokens/s", "memory", "of", "<mostly bound by", "against the fastest"))
    fastest = min(r.latency_s for r in results)
    for result, target in zip(results, targets, strict=True):
        latency, tokens, memory = (result.metrics[k] for k in ("latency_s", "tokens_per_s", "memory_bytes"))
        assert latency is not None and tokens is not None and memory is not None, "predictions have all three"
        room = show_bytes(target.memory_bytes) if target.memory_bytes else ABSENT
        add(
            table, result.target, show_time(latency.value), f"{show_time(latency.low)} to {show_time(latency.high)}",
            f"{tokens.value:.4g}", show_bytes(memory.value), room, _bound(result),
            "fastest" if latency.value == fastest else f"{latency.value / fastest:.2f}x slower",
        )  # fmt: skip
    return table


def _bound(result: Result) -> str:
    shares: dict[str, float] = {}
    for row in result.ops:
        shares[row.bound or "unknown"] = shares.get(row.bound or "unknown", 0.0) + row.time_s
    name = max(shares, key=lambda bound: shares[bound])
    return f"{name}, {100 * shares[name] / sum(shares.values()):.0f} %"


def _operators(results: Sequence[Result]) -> RenderableType:
    names = list(dict.fromkeys(row.name for result in results for row in result.ops))
    table = grid(("<operator", *(result.target for result in results)))
    for name in names:
        cells = []
        for result in results:
            row = next((r for r in result.ops if r.name == name), None)
            cells.append(f"{show_time(row.time_s)} {row.bound}" if row else ABSENT)
        add(table, name, *cells)
    return table
