"""A batch curve on the terminal: the prediction before measuring, the curve as known after it, and targets side by side."""

from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ridgepoint.quantity import show_bytes, show_time
from ridgepoint.report.batch_words import (
    energy_words,
    error_words,
    gains,
    knee_mark,
    loss_words,
    mean_error_words,
    measured_words,
    memory_words,
    method_words,
    mfu_words,
    per_token_words,
    point_at,
    question_words,
    slo_mark,
    slo_words,
    span_words,
    unit,
    wall_words,
)
from ridgepoint.report.grid_terminal import add, grid, heading, line, pairs
from ridgepoint.report.unit_words import step_words, weights_words
from ridgepoint.report.words import ABSENT, clean
from ridgepoint.study.batch.bet import rate_words
from ridgepoint.study.batch.document import BatchAnswer, BatchBet, CurvePoint

__all__ = ["batch_answer_table", "batch_bet_panel", "batches_side_by_side"]

_WIDE, _UTILISED = 104, 8
_BAR = 10
_LEGEND = (
    "step: what was predicted and what was measured, each weighed by its error; error: predicted / measured - 1; "
    "x2 gains: what a doubled batch multiplies throughput by; one beyond the knee is below 1.41x"
)


def batch_bet_panel(bet: BatchBet) -> RenderableType:
    """What is printed before anything is measured: the predicted curve, knee, memory wall and what an SLO leaves."""
    return _Panel(bet)


def batch_answer_table(answer: BatchAnswer) -> RenderableType:
    """The curve as known, what was measured beside it, and what follows."""
    return _Table(answer)


def batches_side_by_side(bets: Sequence[BatchBet]) -> RenderableType:
    """A row for each target: where the knee, the memory wall and the SLO's batch are predicted, and the throughput there."""
    first = bets[0]
    title = Text.assemble(("predicted", "bold"), f"  {clean(first.model)} as {clean(first.side)}, {step_words(first)}")  # type: ignore[arg-type]
    parts: list[RenderableType] = [Rule(title, align="left", style="dim"), _knees(bets)]
    if first.slo is not None:
        parts += [
            heading(f"largest batch that keeps {first.slo.metric} <= {show_time(first.slo.bound_s)}"),
            _reaches(bets),
        ]
    return Group(
        *parts,
        *(line(f"! {bet.target}: {flag}", "yellow") for bet in bets for flag in bet.flags),
        line("nothing was measured; `ridge validate` has the errors of predictions from datasheets", "dim"),
    )


def _knees(bets: Sequence[BatchBet]) -> Table:
    table = grid(["<target", "knee", "80 %", "step", f"{unit(bets[0])}/s", "bound", "memory ends at"])
    for bet in bets:
        i, curve = bet.grid.index(bet.knee.batch), bet.curve
        beyond = "≥ " if bet.knee.end == "last" else ""
        wall = ABSENT if bet.wall is None else f"{'> ' if bet.wall.searched else ''}{bet.wall.batch}"
        add(
            table, bet.target, f"{beyond}{bet.knee.batch}", _between(bet.knee.low, bet.knee.high),
            show_time(curve.seconds[i]), rate_words(curve.tokens[i] / curve.seconds[i]), curve.bound[i], wall,
        )  # fmt: skip
    return table


def _reaches(bets: Sequence[BatchBet]) -> Table:
    table = grid(["<target", "batch", "80 %", f"{unit(bets[0])}/s there"])
    for bet in bets:
        assert bet.slo is not None, "all bets were asked the same"
        most = f"{'≥ ' if bet.slo.at_end else ''}{bet.slo.batch}" if bet.slo.batch else "none"
        rate = rate_words(bet.slo.tokens_per_s) if bet.slo.batch else ABSENT
        add(table, bet.target, most, _between(bet.slo.low, bet.slo.high), rate)
    return table


def _between(low: int, high: int) -> str:
    return str(low or "none") if low == high else f"{low or 'none'}–{high}"


class _Panel:
    def __init__(self, bet: BatchBet):
        self._bet = bet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bet = self._bet
        yield Rule(Text("the curve, stated before measuring", style="bold"), align="left", style="dim")
        yield line(question_words(bet), "bold")
        yield pairs(_asked(bet))
        yield Text()
        yield _predicted(bet, options.max_width >= _WIDE)
        yield Text()
        yield Text.assemble(("Predicted: ", "bold"), clean(bet.statement))
        for flag in bet.flags:
            yield line(f"! {flag}", "yellow")
        yield Rule(style="dim")


def _asked(bet: BatchBet) -> Iterator[tuple[str, str]]:
    yield "step", f"{step_words(bet)}, on {bet.device} of {bet.target}, {weights_words(bet)}"  # type: ignore[arg-type]
    if bet.slo is not None:
        yield "SLO", slo_words(bet.slo, unit(bet))
    yield "memory", f"ends {wall_words(bet.wall)}"
    if bet.capped != "as asked":
        yield "grid", f"ends at {bet.grid[-1]}, {bet.capped}"


def _predicted(bet: BatchBet, wide: bool) -> Table:
    curve = bet.curve
    energy = any(j is not None for j in curve.energy_j)
    names = ["batch", "step", "80 %", f"{unit(bet)}/s", "x2 gains", "memory", "bound", "knee"]
    names += ["SLO"] if bet.slo else []
    names += ["MFU"] if curve.flops else []
    names += [f"J/{unit(bet).removesuffix('s')}"] if energy and wide else []
    table = grid(names)
    for i, gain in enumerate(gains(curve.seconds, curve.batch)):
        cells = [
            str(curve.batch[i]), show_time(curve.seconds[i]), span_words(curve.low[i], curve.high[i]),
            rate_words(curve.tokens[i] / curve.seconds[i]), _gain(gain), show_bytes(curve.memory_bytes[i]),
            curve.bound[i], knee_mark(bet.knee, curve.batch[i]),
        ]  # fmt: skip
        cells += [slo_mark(bet.slo, curve.low[i], curve.seconds[i], curve.high[i])] if bet.slo else []
        cells += [mfu_words(bet, i, curve.seconds[i])] if curve.flops else []
        cells += [per_token_words(bet, i)] if energy and wide else []
        fits = bet.wall is None or curve.batch[i] <= bet.wall.batch
        add(table, *cells, style="" if fits else "dim")
    return table


def _gain(gain: float | None) -> str:
    return ABSENT if gain is None else f"{gain:.2f}x"


class _Table:
    def __init__(self, answer: BatchAnswer):
        self._answer = answer

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        answer = self._answer
        yield Rule(Text("the curve, measured", style="bold"), align="left", style="dim")
        yield line(question_words(answer.bet), "bold")
        yield Text()
        yield _curve(answer, options.max_width >= _WIDE + (_UTILISED if answer.bet.curve.flops else 0))
        yield line(_LEGEND, "dim")
        yield Text()
        yield Text(clean(answer.verdict), style="bold")
        yield Text()
        yield pairs(_footer(answer))
        for flag in answer.flags:
            yield line(f"! {flag}", "yellow")


def _curve(answer: BatchAnswer, wide: bool) -> Table:
    bet, points = answer.bet, answer.curve
    names = [
        "batch",
        "predicted",
        "measured",
        "error",
        "step",
        *(["80 %"] if wide else []),
        f"{unit(bet)}/s",
        "x2 gains",
        "knee",
    ]
    names += ["SLO"] if answer.slo else []
    names += ["MFU"] if bet.curve.flops else []
    table = grid([*names, *(["<throughput"] if wide else [])])
    most = max(p.tokens_per_s for p in points)
    for i, gain in enumerate(gains([p.seconds for p in points], bet.grid)):
        p = points[i]
        seen = point_at(answer, p.batch)
        cells = [
            str(p.batch),
            show_time(bet.curve.seconds[i]),
            measured_words(p, seen),
            error_words(seen),
            show_time(p.seconds),
        ]
        cells += [span_words(p.low, p.high)] if wide else []
        cells += [rate_words(p.tokens_per_s), _gain(gain), knee_mark(answer.knee, p.batch)]
        cells += [slo_mark(answer.slo, p.low, p.seconds, p.high)] if answer.slo else []
        cells += [mfu_words(bet, i, p.seconds)] if bet.curve.flops else []
        add(table, *cells, *([_bar(p, most)] if wide else []), style="" if p.fits else "dim")
    return table


def _bar(p: CurvePoint, most: float) -> str:
    return ("█" if p.how == "measured" else "░") * max(1, round(_BAR * p.tokens_per_s / most))


def _footer(answer: BatchAnswer) -> Iterator[tuple[str, str]]:
    bet = answer.bet
    ends = _between(answer.knee.low, answer.knee.high)
    yield (
        "knee",
        f"batch {answer.knee.batch} ({ends}); predicted {bet.knee.batch} ({_between(bet.knee.low, bet.knee.high)})",
    )
    if answer.slo is not None and bet.slo is not None:
        yield "SLO", slo_words(answer.slo, unit(bet))
        yield "", f"predicted {slo_words(bet.slo, unit(bet)).partition(': ')[2]}"
    yield "memory", f"ends {wall_words(bet.wall)}"
    if words := memory_words(answer):
        yield "", words
    if answer.ran_out_at is not None:
        yield "", f"ran out at batch {answer.ran_out_at} while measuring"
    for words in loss_words(answer):
        yield "loss", words
    for words in energy_words(answer):
        yield "energy", words
    yield "errors", mean_error_words(answer)
    yield "measured", method_words(answer)
    yield "record", f"{answer.id}, sha256 {answer.digest[:12]}…, {answer.created}"
