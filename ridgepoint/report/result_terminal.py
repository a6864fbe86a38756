"""One result on the terminal, a row per operator and its totals; and two of them side by side with signed errors."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.rule import Rule
from rich.text import Text

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target
from ridgepoint.quantity import show, show_bytes, show_time
from ridgepoint.report.grid_terminal import add, grid, heading, line, pairs
from ridgepoint.report.operator_words import kernel_lines, operator_notes, operator_words
from ridgepoint.report.unit_words import metric_definition, metric_label, metric_method
from ridgepoint.report.words import ABSENT, clean, given, signed
from ridgepoint.result import METRICS, OpRow, Result, Value
from ridgepoint.study.units import unit_of
from ridgepoint.workload import arithmetic_dtype

__all__ = ["compare_table", "result_table"]

_WIDE = 98
"""Columns from which rates stand beside their shares of the peak; with more room the kernel gets a column too."""


def result_table(result: Result, target: Target | None = None) -> RenderableType:
    """Time, interval, share, bound, work and achieved rates by operator, then the totals with their definitions.

    With a target the rates are also given as MFU and MBU of its figures.
    """
    return _Operators(result, target)


@dataclass(frozen=True)
class _Operators:
    result: Result
    target: Target | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        result = self.result
        kernels = {row.name: row.kernel for row in result.ops if row.kernel}
        in_row = options.max_width >= _WIDE + max(map(len, kernels.values()), default=0)
        yield _head(result.kind, result)
        yield _operators(result, self.target, options.max_width >= _WIDE, in_row)
        for note in operator_notes(row.name for row in result.ops):
            yield line(note, "dim")
        if kernels and not in_row:
            yield heading("kernels")
            yield pairs(kernel_lines(kernels))
        yield heading("totals")
        yield pairs(_totals(result))
        yield heading("definitions")
        yield pairs(_definitions(result, self.target))
        for flag in result.flags:
            yield line(f"! {flag}", "yellow")


def _head(word: str, result: Result) -> RenderableType:
    title = Text.assemble((word, "bold"), f"  {clean(result.workload)}, {clean(result.step)}")
    return Group(Rule(title, align="left", style="dim"), line(f"{result.side} on {result.target}", "dim"))


def _operators(result: Result, target: Target | None, rates: bool, kernels: bool) -> RenderableType:
    columns = ["<operator", "n", "time", "80 %", "share", "<bound", "GFLOP", "MB"]
    columns += ["GFLOP/s", "GB/s"] if rates or target is None else []
    columns += ["MFU", "MBU"] if target is not None else []
    if not result.ops:
        return line("no operator rows in this result", "dim")
    table = grid([*columns, "<kernel"] if kernels else columns)
    table.columns[0].overflow, table.columns[5].no_wrap = "ellipsis", True
    total = result.latency_s
    for row in result.ops:
        cells = [
            operator_words(row.name), str(row.count), show_time(row.time_s), _interval(row.time_s, row.low_s, row.high_s),
            _whole(row.time_s / total), row.bound or ABSENT, _amount(row.flops / 1e9), _amount(row.bytes / 1e6),
        ]  # fmt: skip
        flops, traffic = _rate(row.flops, row.time_s), _rate(row.bytes, row.time_s)
        if rates or target is None:
            cells += [given(flops, _giga), given(traffic, _giga)]
        if target is not None:
            cells += [_of(flops, _peak(row, result, target)), _of(traffic, _bandwidth(target))]
        add(table, *cells, *([row.kernel or ABSENT] if kernels else []))
    summed = sum(row.time_s for row in result.ops)
    add(table, "sum of operators", "", show_time(summed), "", _whole(summed / total))
    return table


def _amount(value: float) -> str:
    """Three digits or so, without an exponent: these stand below each other."""
    if value == 0:
        return "0"
    if value < 0.001:
        return "<0.001"
    return (
        f"{value:.0f}"
        if value >= 100
        else f"{value:.1f}"
        if value >= 10
        else f"{value:.2f}"
        if value >= 1
        else f"{value:.3f}"
    )


def _whole(share: float) -> str:
    return "<1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def _interval(value: float, low: float, high: float) -> str:
    """Relative ends, rounded outwards to the larger: an interval that is equally wide in the logarithm."""
    return f"±{100 * max(high / value - 1, 1 - low / value):.0f} %" if value > 0 and high > low else ABSENT


def _rate(work: float, seconds: float) -> float | None:
    return work / seconds if work > 0 and seconds > 0 else None


def _giga(rate: float) -> str:
    return _amount(rate / 1e9)


def _of(rate: float | None, roof: float | None) -> str:
    return _whole(rate / roof) if rate is not None and roof is not None else ABSENT


def _peak(row: OpRow, result: Result, target: Target) -> float | None:
    """The peak of the dtype that the row's kernel computes with: int8 where activations are quantised too."""
    law = next((law for law in target.linear if law.kernel == row.kernel), None)
    dtype = result.side.split("+")[0]
    if law is not None:
        dtype = arithmetic_dtype(law.format, law.act)
    try:
        return target.flops_per_s(dtype)
    except NotSupported:
        return None


def _bandwidth(target: Target) -> float | None:
    try:
        return target.memory_bytes_per_s()
    except NotSupported:
        return None


def _shown(name: str, value: float) -> str:
    unit = METRICS[name].unit if name in METRICS else ""
    if unit == "B":
        return show_bytes(value)
    if unit == "1/s":
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return show_time(value) if unit == "s" else show(value, unit)


def _totals(result: Result) -> Iterator[tuple[str, str]]:
    unit = unit_of(result.workload)
    for name, value in result.metrics.items():
        label = metric_label(name, unit)
        if value is None:
            yield (
                label,
                f"not {'measurable' if result.kind == 'measured' else 'predictable'} here: "
                f"{_reason(result, name).removeprefix('not measurable here: ')}",
            )
        else:
            yield label, f"{_shown(name, value.value)}{_ends(name, value)}; {metric_method(value, unit)}"


def _reason(result: Result, name: str) -> str:
    return result.absent.get(name, "no reason recorded")


def _ends(name: str, value: Value) -> str:
    return f" ({_shown(name, value.low)} to {_shown(name, value.high)})" if value.low < value.high else ""


def _definitions(result: Result, target: Target | None) -> Iterator[tuple[str, str]]:
    unit = unit_of(result.workload)
    for name in result.metrics:
        if name in METRICS:
            yield metric_label(name, unit), metric_definition(name, unit)
    if target is not None:
        used = {p for p in target.peaks if not p.sparse and p.flops_per_s == target.flops_per_s(p.dtype)}
        scopes = ", ".join(sorted({f"{p.dtype} {show(p.flops_per_s, 'FLOP/s')} ({p.scope})" for p in used}))
        yield "MFU", f"mfu.v1: achieved FLOP/s / peak of the kernel's dtype: {scopes or 'no peaks in this target'}"
        roof = _bandwidth(target)
        yield (
            "MBU",
            f"mbu.v1: achieved bytes/s / DRAM read bandwidth{'' if target.is_datasheet else ', one thread'}: "
            f"{given(roof, lambda r: show(r, 'B/s'))}; cached data may exceed it",
        )


def compare_table(predicted: Result, measured: Result) -> RenderableType:
    """Both results side by side: signed error by operator, what each adds to the error of the step, then the totals."""
    parts: list[RenderableType] = [_head("predicted and measured", measured), *_compared_operators(predicted, measured)]
    parts += [heading("totals"), _compared_totals(predicted, measured)]
    parts += [line(f"! {flag}", "yellow") for flag in dict.fromkeys((*predicted.flags, *measured.flags))]
    return Group(*parts)


def _compared_operators(predicted: Result, measured: Result) -> Iterator[RenderableType]:
    ours, theirs = ({row.name: row for row in result.ops} for result in (predicted, measured))
    if not theirs:  # a compiled step: half a table of dashes would say nothing
        yield line("no measured operators to compare; `ridge predict` shows the predicted ones", "dim")
        return
    table = grid(("<operator", "n", "predicted", "80 %", "measured", "error", "adds", "in 80 %"))
    for name in dict.fromkeys((*ours, *theirs)):
        add(table, *_compared(name, ours.get(name), theirs.get(name), measured.latency_s))
    yield table
    yield line("error: predicted / measured - 1; adds: its share of the measured step", "dim")
    for note in operator_notes((*ours, *theirs)):
        yield line(note, "dim")
    yield from _unlike(ours, theirs)


def _compared(name: str, ours: OpRow | None, theirs: OpRow | None, step_s: float) -> tuple[str, ...]:
    if ours is None or theirs is None:
        row = ours or theirs
        assert row is not None, "a name comes from one of the two"
        times = (show_time(row.time_s), ABSENT) if ours else (ABSENT, show_time(row.time_s))
        return operator_words(name), str(row.count), times[0], ABSENT, times[1], ABSENT, ABSENT, ABSENT
    error = ours.time_s / theirs.time_s - 1 if theirs.time_s > 0 else None
    interval = _interval(ours.time_s, ours.low_s, ours.high_s)
    hit = "yes" if ours.low_s <= theirs.time_s <= ours.high_s else "no"
    return (
        operator_words(name), str(ours.count), show_time(ours.time_s), interval, show_time(theirs.time_s), signed(error),
        signed((ours.time_s - theirs.time_s) / step_s), hit,
    )  # fmt: skip


def _unlike(ours: dict[str, OpRow], theirs: dict[str, OpRow]) -> Iterator[RenderableType]:
    for name, row in ours.items():
        other = theirs.get(name)
        if other is not None and row.kernel and other.kernel and row.kernel != other.kernel:
            yield line(f"! {operator_words(name)}: predicted for {row.kernel}, measured with {other.kernel}", "yellow")


def _compared_totals(predicted: Result, measured: Result) -> RenderableType:
    table = grid(("<metric", "predicted", "80 %", "measured", "error", "in 80 %"))
    unit, reasons = unit_of(measured.workload), []
    for name in dict.fromkeys((*predicted.metrics, *measured.metrics)):
        ours, theirs = predicted.metrics.get(name), measured.metrics.get(name)
        label = metric_label(name, unit)
        error = ours.value / theirs.value - 1 if ours and theirs and theirs.value else None
        hit = (
            ABSENT
            if not ours or not theirs or ours.low == ours.high
            else "yes"
            if ours.low <= theirs.value <= ours.high
            else "no"
        )
        cells = (
            _shown(name, ours.value) if ours else ABSENT,
            _interval(ours.value, ours.low, ours.high) if ours else ABSENT,
        )
        add(table, label, *cells, _shown(name, theirs.value) if theirs else ABSENT, signed(error), hit)
        for word, result, value in (("predicted", predicted, ours), ("measured", measured, theirs)):
            if value is None:
                reasons.append(line(f"{ABSENT} {label} not {word}: {_reason(result, name)}", "dim"))
    return Group(table, *reasons)
