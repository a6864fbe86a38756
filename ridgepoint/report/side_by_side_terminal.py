"""One plan on several targets: step time, throughput, memory and what bounds it, and the operators beside each other."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ridgepoint.hardware import Target
from ridgepoint.quantity import show_bytes, show_time
from ridgepoint.report.grid_terminal import add, grid, heading, line
from ridgepoint.report.operator_words import operator_words
from ridgepoint.report.words import ABSENT, clean, short
from ridgepoint.result import Result

__all__ = ["side_by_side"]

_WIDE = 112
_NAME, _CELL = 26, 19
"""Widths of an operator's name and of its time with its bound."""


def side_by_side(results: Sequence[Result], targets: Sequence[Target]) -> RenderableType:
    """A row for each target, the fastest marked; then a row for each operator with a column for each target, in as many
    blocks as the terminal needs."""
    return _SideBySide(results, targets)


class _SideBySide:
    def __init__(self, results: Sequence[Result], targets: Sequence[Target]):
        self._results, self._targets = results, targets

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        first = self._results[0]
        title = Text.assemble(
            ("predicted", "bold"), f"  {clean(first.workload)}, {clean(first.step)}, {clean(first.side)}"
        )
        yield Rule(title, align="left", style="dim")
        yield _totals(self._results, self._targets, options.max_width >= _WIDE)
        yield heading("operators")
        each = max(1, (options.max_width - _NAME) // _CELL)
        for start in range(0, len(self._results), each):
            yield _operators(self._results[start : start + each])
        for result in self._results:
            for flag in result.flags:
                yield line(f"! {result.target}: {flag}", "yellow")


def _totals(results: Sequence[Result], targets: Sequence[Target], wide: bool) -> RenderableType:
    names = ("<target", "step", "80 %", "tokens/s", "memory", "of", "<mostly bound by", "against the fastest")
    table = _named(names if wide else (*names[:4], *names[7:]))
    fastest = min(r.latency_s for r in results)
    for result, target in zip(results, targets, strict=True):
        latency, tokens, memory = (result.metrics[k] for k in ("latency_s", "tokens_per_s", "memory_bytes"))
        assert latency is not None and tokens is not None and memory is not None, "predictions have all three"
        room = show_bytes(target.memory_bytes) if target.memory_bytes else ABSENT
        cells = [
            result.target, show_time(latency.value), f"{show_time(latency.low)} to {show_time(latency.high)}",
            f"{tokens.value:.4g}",
        ]  # fmt: skip
        cells += [show_bytes(memory.value), room, _bound(result)] if wide else []
        add(table, *cells, "fastest" if latency.value == fastest else f"{latency.value / fastest:.2f}x slower")
    return table


def _named(columns: Sequence[str]) -> Table:
    """A table whose first column keeps its words whole."""
    table = grid(columns)
    table.columns[0].no_wrap = True
    return table


def _bound(result: Result) -> str:
    shares: dict[str, float] = {}
    for row in result.ops:
        shares[row.bound or "unknown"] = shares.get(row.bound or "unknown", 0.0) + row.time_s
    name = max(shares, key=lambda bound: shares[bound])
    return f"{name}, {100 * shares[name] / sum(shares.values()):.0f} %"


def _operators(results: Sequence[Result]) -> RenderableType:
    names = list(dict.fromkeys(row.name for result in results for row in result.ops))
    table = _named(("<operator", *(result.target for result in results)))
    for name in names:
        cells = []
        for result in results:
            row = next((r for r in result.ops if r.name == name), None)
            cells.append(f"{show_time(row.time_s)} {row.bound}" if row else ABSENT)
        add(table, short(operator_words(name), _NAME - 1), *cells)
    return table
