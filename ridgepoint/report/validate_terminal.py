"""The errors of predictions against published measurements as a terminal table, a row for each group."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

from ridgepoint.report.grid_terminal import add, grid, heading, line, pairs
from ridgepoint.report.words import percent
from ridgepoint.study.score_published import ALL, ScoreLine
from ridgepoint.study.validate import Validation

__all__ = ["validation_table"]

_WIDE = 118
_MOST_REFUSED = 8


def validation_table(validation: Validation, regimes: bool = True) -> RenderableType:
    """Median, mean and 90th percentile of the errors, bias, coverage; beside them the datasheet roofline's median."""
    return _Table(validation, regimes)


class _Table:
    def __init__(self, validation: Validation, regimes: bool):
        self._validation, self._regimes = validation, regimes

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        found = self._validation
        wide = options.max_width >= _WIDE
        for file in dict.fromkeys(x.file for x in found.lines):
            lines = [x for x in found.lines if x.file == file and (self._regimes or x.regime == ALL)]
            yield heading(f"{file}: {lines[0].kind}, {', '.join(sorted({x.metric for x in lines}))}")
            yield _rows(lines, wide)
        yield heading("how to read it")
        yield pairs(_notes(found))
        for refused in found.refused[:_MOST_REFUSED]:
            yield line(f"! {refused}", "yellow")
        if len(found.refused) > _MOST_REFUSED:
            yield line(f"! {len(found.refused) - _MOST_REFUSED} more refusals; --json has them all", "yellow")


def _rows(lines: Sequence[ScoreLine], wide: bool) -> RenderableType:
    names = ["<gpu", "<dtype", "<stack", "<regime", "n", "median", "mean", "p90", "bias", "in 80 %"]
    table = grid([*names, "width", "roofline", "<fit"] if wide else [*names, "roofline"])
    last: tuple[str, ...] = ()
    several = len({x.metric for x in lines}) > 1
    for x in lines:
        stack = f"{x.framework} {x.version}".strip()
        stack = " ".join(y for y in (x.model, x.metric if several else "", stack) if y)
        key = (x.gpu, x.dtype, stack)
        shown = ["", "", ""] if key == last else list(key)
        last = key
        cells = [
            *shown, x.regime, str(x.n), percent(x.median_ape), percent(x.mape), percent(x.p90_ape), f"{x.bias:.2f}",
            percent(x.coverage80),
        ]  # fmt: skip
        cells += [percent(x.width80)] if wide else []
        cells += [percent(x.roofline_median_ape)]
        cells += [_fit(x)] if wide else []
        add(table, *cells, style="bold" if x.regime == ALL else "")
    return table


def _fit(x: ScoreLine) -> str:
    if x.in_sample:
        return "in sample"
    return f"other {x.steps.replace('+', ', ')}" if x.steps else "same machine and stack"


def _notes(found: Validation) -> list[tuple[str, str]]:
    kept = found.rows - found.left_out - found.inputs
    told = f"; {found.inputs} told the launch floor" if found.inputs else ""
    rows = [
        ("error", "|predicted - measured| / measured: median, mean and 90th percentile of the rows of a group"),
        ("bias", "median of predicted / measured"),
        ("in 80 %", "share of measurements inside the 80 % interval of their prediction"),
        ("roofline", "median error of max(FLOPs / peak, bytes / bandwidth) by the datasheet, on the same rows"),
        (
            "rows",
            f"{kept} of {found.rows} scored; the others are flagged as suspect, known as wrong, or refused below{told}",
        ),
    ]
    floors = list(dict.fromkeys(s.basis for s in found.scored if "launch floor" in s.basis))
    rows += [("launch floor", f"an input here, not a prediction: {text}") for text in floors[:_MOST_REFUSED]]
    if any(x.in_sample for x in found.lines):
        rows.append(("in sample", "parameters were fitted on this file; docs/datasheet.md has leave-shape-out errors"))
    return rows
