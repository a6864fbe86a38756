"""A bet on the terminal: what is stated before measuring, and prediction and measurement side by side after it."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from ridgepoint.quantity import show_bytes, show_time
from ridgepoint.report.accuracy_words import accuracy_lines
from ridgepoint.report.chart_terminal import LEGEND, speedup_chart
from ridgepoint.report.compile_words import compile_lines, predicted_compile_lines
from ridgepoint.report.curve_words import curve_lines
from ridgepoint.report.grid_terminal import add, grid, heading, line, pairs
from ridgepoint.report.operator_words import kernel_words
from ridgepoint.report.scale import log_scale
from ridgepoint.report.sparsity_words import break_even_lines, predicted_sparsity_lines, sparsity_lines
from ridgepoint.report.sufficient_terminal import sufficient_parts
from ridgepoint.report.training_words import predicted_training_lines, training_lines
from ridgepoint.report.unit_words import step_words, weights_words
from ridgepoint.report.words import (
    ABSENT,
    absent_reason,
    bounds_words,
    clean,
    error_of,
    factor,
    flip_words,
    given,
    inside,
    measured_flip,
    percent,
    points_of,
    question,
    side_named,
    sign_of,
    signed,
    span,
    tally,
    times,
    verdicts,
)
from ridgepoint.study.document import Answer, Bet, Point, SideCard

__all__ = ["answer_table", "bet_panel"]


def bet_panel(bet: Bet) -> RenderableType:
    """What is printed before anything is measured: question, sides, predictions, ceiling, flip, memory and bounds."""
    parts: list[RenderableType] = [
        Rule(Text("the bet, stated before measuring", style="bold"), align="left", style="dim"),
        line(question(bet), "bold"),
        pairs(_sides(bet)),
    ]
    for curve in bet.curves:
        table = grid(("batch", "speed-up", "80 %", "ceiling", "roofline", "A step", "B step"))
        for i, batch in enumerate(curve.batch):
            add(
                table, str(batch), factor(curve.speedup[i]), span(curve.low[i], curve.high[i]),
                factor(curve.ceiling[i]), factor(curve.roofline[i]), show_time(curve.a_s[i]), show_time(curve.b_s[i]),
            )  # fmt: skip
        parts += [
            heading(f"A {bet.a.text}  →  B {curve.b}"),
            table,
            line(f"flip predicted: {flip_words(bet.flips.get(curve.b), curve.batch)}"),
        ]
    parts += [Text(), Text.assemble(("Bet: ", "bold"), clean(bet.statement)), line(_footnote(bet), "dim")]
    parts += [line(curve.outside) for curve in bet.curves if curve.outside]
    parts += [line(words) for words in (*predicted_compile_lines(bet), *predicted_sparsity_lines(bet))]
    memory = tuple(predicted_training_lines(bet))
    parts += [heading("memory of a step, predicted"), pairs(iter(memory))] if memory else []
    parts += [line(f"! {flag}", "yellow") for flag in bet.flags]
    return Group(*parts, Rule(style="dim"))


def _sides(bet: Bet) -> Iterator[tuple[str, str]]:
    yield "step", f"{step_words(bet)}, on {bet.device} of {bet.target}"
    for letter, side in (("A", bet.a), *(("B", b) for b in bet.b)):
        yield letter, f"{side.spec}"
        yield "", f"{show_bytes(side.weight_bytes)} weights, {show_bytes(side.memory_bytes)} in all; {_bounds(side)}"
        if side.kernels:
            yield "", kernel_words(side.kernels)


def _bounds(side: SideCard) -> str:
    ends = [f"batch {batch} waits for {bounds_words(shares)}" for batch, shares in side.bounds.items()]
    return "; ".join(ends) or "bounds unknown"


def _footnote(bet: Bet) -> str:
    weights = weights_words(bet)
    values = " (speed does not depend on their values)" if weights == "random weights" else ""
    tie = f"{weights}{values}; within {percent(bet.tie)} is a tie"
    if not bet.machine_id:
        return f"{tie}; {bet.target} as its datasheet of {bet.target_date} says; roofline from the datasheet"
    return f"{tie}; calibrated {bet.target_date}; roofline from attained rates"


def answer_table(answer: Answer) -> RenderableType:
    """Predicted, measured and error at each point, step times, the picture, the verdict and the flags."""
    bet = answer.bet
    parts: list[RenderableType] = [
        Rule(Text("the bet, settled", style="bold"), align="left", style="dim"),
        line(question(bet), "bold"),
    ]
    for curve in bet.curves:
        points = points_of(answer, curve)
        parts += [heading(f"A {bet.a.text}  →  B {curve.b}: speed-up"), _speedups(points, bet.tie), *_reasons(points)]
        parts += [
            _record(points, bet.tie),
            heading(f"A {bet.a.text}, B {curve.b}: time of a step"),
            _step_times(points),
            _clocks(points),
        ]
    parts += _pictures(answer)
    parts += sufficient_parts(answer.sufficiency, bet.a.text)
    parts += [Text(), *(Text(text, style="bold") for text in verdicts(answer)), Text()]
    parts.append(pairs(_footer(answer)))
    parts += [line(f"! {flag}", "yellow") for flag in answer.flags]
    return Group(*parts)


def _speedups(points: tuple[Point, ...], tie: float) -> RenderableType:
    table = grid(("batch", "predicted (80 %)", "measured (95 %)", "error", "in", "sign", "roofline"))
    for p in points:
        hit = inside(p)
        add(
            table, str(p.batch), _with_span(p.predicted_speedup, p.predicted_low, p.predicted_high),
            _with_span(p.measured_speedup, p.measured_low, p.measured_high), signed(error_of(p)),
            ABSENT if hit is None else "yes" if hit else "no", sign_of(p, p.predicted_speedup, tie),
            f"{factor(p.roofline_speedup)} {_judged(sign_of(p, p.roofline_speedup, tie))}",
        )  # fmt: skip
    return table


def _with_span(value: float | None, low: float | None, high: float | None) -> str:
    return ABSENT if value is None else f"{factor(value)} {span(low, high):>9}"


def _judged(sign: str) -> str:
    return sign if sign in ("right", "WRONG") else "     "


def _reasons(points: tuple[Point, ...]) -> list[RenderableType]:
    """Batches that share a reason for not being measured on one line."""
    groups: dict[str, list[str]] = {}
    for point in points:
        if point.measured_speedup is None:
            groups.setdefault(absent_reason(point), []).append(str(point.batch))
    return [
        line(f"{ABSENT} batch {', '.join(which)} not measured: {reason}", "dim") for reason, which in groups.items()
    ]


def _record(points: tuple[Point, ...], tie: float) -> RenderableType:
    score = tally(points, tie)
    if not score.measured:
        return line("nothing measured yet", "yellow")
    return line(
        f"mean error {percent(score.error)} (roofline {percent(score.roofline_error)}); "
        f"sign right at {score.right} of {score.signs} points that are no ties (roofline {score.roofline_right}); "
        f"{score.inside} of {score.measured} inside the 80 % interval"
    )


def _step_times(points: tuple[Point, ...]) -> RenderableType:
    columns = ("batch", "A pred.", "measured", "error", "B pred.", "measured", "error", "rounds", "spread")
    table = grid(columns)
    for p in points:
        a_pred, a_meas, b_pred, b_meas = times(p.predicted_a_s, p.measured_a_s, p.predicted_b_s, p.measured_b_s)
        add(
            table, str(p.batch), a_pred, a_meas, _error(p.predicted_a_s, p.measured_a_s), b_pred, b_meas,
            _error(p.predicted_b_s, p.measured_b_s), str(p.rounds or ABSENT), given(p.spread, percent),
        )  # fmt: skip
    return table


def _error(predicted: float, measured: float | None) -> str:
    return signed(predicted / measured - 1 if measured else None)


def _clocks(points: tuple[Point, ...]) -> RenderableType:
    """Which clock timed which batches."""
    groups: dict[str, list[str]] = {}
    for point in points:
        if point.measured_speedup is not None and point.clock:
            groups.setdefault(point.clock, []).append(str(point.batch))
    words = (
        [f"{name} at batch {', '.join(which)}" for name, which in groups.items()] if len(groups) > 1 else list(groups)
    )
    return line(f"clock: {'; '.join(words) or 'none, nothing measured'}; spread: of the rounds' ratios", "dim")


def _pictures(answer: Answer) -> list[RenderableType]:
    bet = answer.bet
    points = {curve.b: points_of(answer, curve) for curve in bet.curves}
    measured = [p.measured_speedup for group in points.values() for p in group if p.measured_speedup]
    y = log_scale([1.0, *measured, *(v for c in bet.curves for v in (*c.low, *c.high))])
    height = 17 if len(bet.curves) == 1 else 13
    parts: list[RenderableType] = []
    for curve in bet.curves:
        flips = bet.flips.get(curve.b), measured_flip(answer, curve.b)
        parts.append(heading(f"how much faster {curve.b} is than {bet.a.text} (above 1.0x: {curve.b} wins)"))
        parts.append(speedup_chart(curve, points[curve.b], *flips, y, height))
    return [*parts, line(LEGEND, "dim")]


def _footer(answer: Answer) -> Iterator[tuple[str, str]]:
    for curve in answer.bet.curves:
        side = side_named(answer.bet, curve.b)
        flip = measured_flip(answer, curve.b)
        seen = flip_words(None, curve.batch, answer.complete) if flip is None else f"batch {flip:.0f}"
        yield "flip", f"{curve.b}: predicted {flip_words(answer.bet.flips.get(curve.b), curve.batch)}; measured {seen}"
        if side is not None:
            yield (
                "memory",
                f"{curve.b}: {show_bytes(side.memory_bytes)}, "
                f"{answer.bet.a.text}: {show_bytes(answer.bet.a.memory_bytes)}",
            )
    if "reason" in answer.energy:
        yield "energy", str(answer.energy["reason"])
    for words in compile_lines(answer):
        yield "compilation", words
    for words in sparsity_lines(answer):
        yield "sparsity", words
    for words in break_even_lines(answer):
        yield "break-even", words
    for words in training_lines(answer):
        yield "peak", words
    for words in curve_lines(answer.curve):
        yield "loss", words
    for words in accuracy_lines(answer.accuracy):
        yield "accuracy", words
    for point in answer.points:
        if point.energy_a_j is not None and point.energy_b_j is not None:
            yield (
                "energy",
                f"{point.b} at batch {point.batch}: A {point.energy_a_j:.3g} J, B {point.energy_b_j:.3g} J per step",
            )
    yield "record", f"{answer.id}, sha256 {answer.digest[:12]}…, {answer.created}"
