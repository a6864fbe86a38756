"""An answer as one HTML page that stands alone: question, verdict, charts, figures, and how they were measured."""

from collections.abc import Iterable
from html import escape
from importlib.resources import files

from ridgepoint.quantity import show_bytes, show_ratio
from ridgepoint.report.accuracy_words import accuracy_lines, accuracy_method
from ridgepoint.report.charts import (
    COLOURS,
    OTHERS,
    memory_chart,
    operator_colours,
    share_chart,
    speedup_chart,
    speedup_scale,
    step_chart,
)
from ridgepoint.report.compile_words import compile_lines
from ridgepoint.report.contents import with_contents
from ridgepoint.report.curve_words import curve_lines
from ridgepoint.report.html_curve import curve_section
from ridgepoint.report.html_operators import operators_section, record_section
from ridgepoint.report.html_sufficient import sufficient_section
from ridgepoint.report.machine_words import machine_facts
from ridgepoint.report.markup import cell, escaped, fact_list, figure, legend, scrolling_table
from ridgepoint.report.operator_words import kernel_lines
from ridgepoint.report.sparsity_words import break_even_lines, sparsity_lines
from ridgepoint.report.task_words import task_methods
from ridgepoint.report.training_words import training_lines
from ridgepoint.report.unit_words import beside_weights, bet_definitions, step_words, weights_words
from ridgepoint.report.words import (
    ABSENT,
    absent_reason,
    batches,
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
from ridgepoint.study.document import Answer, Bet, Curve, Flip, Point, SideCard

__all__ = ["answer_html", "page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def answer_html(answer: Answer) -> str:
    """The page. The same answer gives the same text; nothing is requested from anywhere and nothing is run."""
    sections = (
        _head(answer), _speedups(answer), sufficient_section(answer.sufficiency, answer.bet.a.text), _table_section(answer),
        _times(answer), operators_section(answer.bet), _memory(answer), curve_section(answer.curve), record_section(answer),
        _method(answer),
        _machine(answer), _flags(answer), _definitions(answer.bet),
    )  # fmt: skip
    return page(question(answer.bet), sections)


def page(title: str, sections: Iterable[str]) -> str:
    """Sections of markup as one document with the house's style, which requests nothing and runs nothing."""
    style = files("ridgepoint.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_POLICY)}">\n<link rel="icon" href="data:,">\n'
        f"<title>{escaped(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + with_contents("\n".join(sections))
        + "\n</body>\n</html>\n"
    )


def _head(answer: Answer) -> str:
    bet = answer.bet
    outside = [clean(curve.outside) for curve in bet.curves if curve.outside]
    lines = "".join(f"<p>{escaped(_without(text, outside))}</p>" for text in verdicts(answer))
    beside = "".join(f"<p>{escaped(words)}.</p>" for words in outside)
    cards = "".join(_card(answer, curve) for curve in bet.curves)
    return (
        f'<header>\n<p class="kicker">Ridgepoint · a bet, settled · {escaped(answer.created[:10])}</p>\n'
        f"<h1>{escaped(question(bet))}</h1>\n"
        f'<div class="verdict">{lines}</div>\n{beside}<p class="soft">Stated before measuring: “{escaped(bet.statement)}”. '
        f'{escaped(_weights(bet))}</p>\n</header>\n<div class="cards">{cards}</div>'
    )


def _without(verdict: str, sentences: Iterable[str]) -> str:
    """The verdict without the sentences that stand below it."""
    return next((verdict.removesuffix(f". {s}") for s in sentences if verdict.endswith(f". {s}")), verdict)


def _weights(bet: Bet) -> str:
    step = step_words(bet)
    return f"{step[0].upper()}{step[1:]}, with {weights_words(bet)}, on {bet.device} of {bet.target}.".replace(
        "  ", " "
    )


def _card(answer: Answer, curve: Curve) -> str:
    points = points_of(answer, curve)
    known = [p for p in points if p.measured_speedup is not None]
    ends = known[:1] + known[-1:] if len(known) > 1 else known
    big = "".join(
        f"<div><span>batch {p.batch}, predicted {factor(p.predicted_speedup)}</span>"
        f"<b>{escaped(_outcome(p, answer.bet.tie))}</b></div>"
        for p in ends
    )
    score = tally(points, answer.bet.tie)
    seen = measured_flip(answer, curve.b)
    facts = [
        (
            "flip at batch",
            f"{'none' if seen is None else f'{seen:.0f}'}; predicted {_flip_number(answer.bet.flips.get(curve.b))}",
        ),
        ("mean error", f"{percent(score.error)} (roofline {percent(score.roofline_error)})"),
        ("sign right", f"{score.right} of {score.signs} (roofline {score.roofline_right})"),
        ("inside 80 %", f"{score.inside} of {score.measured} measured points"),
    ]
    rows = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in facts)
    body = big or "<div><b>not measured</b></div>"
    title = f"{escaped(curve.b)} against {escaped(answer.bet.a.text)}"
    return f'<section class="card"><h3>{title}</h3><div class="big">{body}</div><dl>{rows}</dl></section>'


def _outcome(point: Point, tie: float) -> str:
    assert point.measured_speedup is not None, "asked of measured points only"
    sign = sign_of(point, point.predicted_speedup, tie)
    return (
        show_ratio(point.measured_speedup)
        if sign in ("right", "WRONG")
        else f"{sign}, {factor(point.measured_speedup)}"
    )


def _flip_number(flip: Flip | None) -> str:
    return flip_words(flip, ()).removeprefix("batch ")


def _speedups(answer: Answer) -> str:
    bet = answer.bet
    scale = speedup_scale(answer)
    keys = (
        ("line", "predicted"), ("band", "80 % interval"), ("seen", "measured, 95 % interval"),
        ("hollow", "not measured"), ("dots", "roofline"), ("up", "flip predicted"),
        ("up open", "flip measured"),
    )  # fmt: skip
    step_keys = (
        ("aline", f"{bet.a.text} predicted"),
        ("square", f"{bet.a.text} measured"),
        ("line", "B predicted"),
        ("seen", "B measured"),
    )
    speed = [figure(f"{c.b}: speed-up over {bet.a.text}", speedup_chart(answer, c, scale)) for c in bet.curves]
    steps = [
        figure(f"{bet.a.text} and {c.b}: time of a step", step_chart(answer, c), legend(step_keys)) for c in bet.curves
    ]
    return (
        '<h2>Predicted and measured</h2>\n<p class="soft">Above the dashed line B is faster. Both axes are '
        "logarithmic; point at a dot to read it; the figures are below as a table.</p>\n"
        f'{legend(keys)}\n<div class="charts">{"".join([*speed, *steps])}</div>'
    )


def _table_section(answer: Answer) -> str:
    head = (
        "batch",
        "predicted",
        "80 %",
        "measured",
        "95 %",
        "error",
        "in 80 %",
        "sign",
        "roofline",
        "its sign",
        "ceiling",
    )
    parts = ["<h2>The figures</h2>"]
    for curve in answer.bet.curves:
        points = points_of(answer, curve)
        ceilings = dict(zip(curve.batch, curve.ceiling, strict=False))
        rows = [_speed_row(p, answer.bet.tie, ceilings.get(p.batch)) for p in points]
        parts.append(scrolling_table(f"{curve.b} over {answer.bet.a.text}: speed-up", head, rows))
        steps = (
            "batch",
            "A predicted",
            "A measured",
            "error",
            "B predicted",
            "B measured",
            "error",
            "rounds",
            "spread",
        )
        inner = scrolling_table(
            f"Time of a step, A {answer.bet.a.text} and B {curve.b}", steps, [_step_row(p) for p in points]
        )
        parts.append(f"<details><summary>Step times behind it</summary>{inner}</details>")
    return "\n".join(parts)


def _speed_row(point: Point, tie: float, ceiling: float | None) -> list[str]:
    cells = [
        cell(str(point.batch)),
        cell(factor(point.predicted_speedup)),
        cell(span(point.predicted_low, point.predicted_high)),
    ]
    if point.measured_speedup is None:
        cells.append(cell(f"not measured: {absent_reason(point)}", 5, "reason"))
    else:
        sign = sign_of(point, point.predicted_speedup, tie)
        cells += [
            cell(factor(point.measured_speedup)),
            cell(span(point.measured_low, point.measured_high)),
            cell(signed(error_of(point))),
        ]
        cells += [cell("yes" if inside(point) else "no"), cell(sign, 1, _judge(sign))]
    theirs = sign_of(point, point.roofline_speedup, tie)
    return [*cells, cell(factor(point.roofline_speedup)), cell(theirs, 1, _judge(theirs)), cell(factor(ceiling))]


def _judge(sign: str) -> str:
    return sign.lower() if sign in ("right", "WRONG") else ""


def _step_row(point: Point) -> list[str]:
    a, a_seen, b, b_seen = times(point.predicted_a_s, point.measured_a_s, point.predicted_b_s, point.measured_b_s)
    errors = [
        signed(predicted / seen - 1 if seen else None)
        for predicted, seen in ((point.predicted_a_s, point.measured_a_s), (point.predicted_b_s, point.measured_b_s))
    ]
    cells = (
        str(point.batch),
        a,
        a_seen,
        errors[0],
        b,
        b_seen,
        errors[1],
        str(point.rounds or ABSENT),
        given(point.spread, percent),
    )
    return [cell(text) for text in cells]


def _times(answer: Answer) -> str:
    bet = answer.bet
    sides = (bet.a, *bet.b)
    ends = list(dict.fromkeys(batch for side in sides for batch in side.shares))
    if not ends:
        return ""
    colours = operator_colours(sides)
    figures = [figure(f"batch {batch}", share_chart(batch, _bars(bet, batch), colours)) for batch in ends]
    keys = [(f"c{i}", name) for name, i in colours.items()]
    named = {name for side in sides for shares in side.shares.values() for name in shares}
    keys += [(f"c{COLOURS}", OTHERS)] if len(named) > len(colours) else []
    rows = [
        [
            f'<th scope="row">{escaped(name)}</th>',
            *(cell(given(side.shares[b].get(name), percent)) for side in sides for b in ends if b in side.shares),
        ]
        for name in [*colours, *sorted(named - set(colours))]
    ]
    head = ["operator", *(f"{side.text}, batch {b}" for side in sides for b in ends if b in side.shares)]
    return (
        '<h2>Where the time goes</h2>\n<p class="soft">Predicted. A bar is as long as its side\'s step; beside it, '
        f'what the side waits for.</p>\n{legend(keys)}\n<div class="charts">{"".join(figures)}</div>\n'
        f"<details><summary>The same as a table</summary>{scrolling_table('Share of the predicted step', head, rows)}</details>"
    )


def _bars(bet: Bet, batch: str) -> list[tuple[str, float | None, SideCard]]:
    """A and every B at that batch with its predicted seconds, where a curve has them."""
    at = {curve.b: next((i for i, b in enumerate(curve.batch) if str(b) == batch), None) for curve in bet.curves}
    first = bet.curves[0] if bet.curves else None
    i = at[first.b] if first else None
    rows: list[tuple[str, float | None, SideCard]] = [
        (bet.a.text, first.a_s[i] if first and i is not None else None, bet.a)
    ]
    for curve in bet.curves:
        side, i = side_named(bet, curve.b), at[curve.b]
        if side is not None:
            rows.append((curve.b, curve.b_s[i] if i is not None else None, side))
    return rows


def _memory(answer: Answer) -> str:
    bet = answer.bet
    sides = (bet.a, *bet.b)
    chart = figure(
        f"at batch {bet.grid[-1]}", memory_chart(sides), legend((("w", "weights"), ("m", beside_weights(bet))))
    )
    peak = [
        f"{p.b} at batch {p.batch}: {show_bytes(p.peak_memory_bytes)}"
        for p in answer.points
        if p.peak_memory_bytes is not None
    ]
    rows = [("peak of the measuring process", text) for text in peak]
    rows += [("energy", _block(answer.energy)), *(("accuracy", words) for words in accuracy_lines(answer.accuracy))]
    rows += [("compilation", words) for words in compile_lines(answer)]
    rows += [("sparsity", words) for words in sparsity_lines(answer)]
    rows += [("break-even density", words) for words in break_even_lines(answer)]
    rows += [("peak memory of a training step", words) for words in training_lines(answer)]
    rows += [("loss", words) for words in curve_lines(answer.curve)]
    if method := accuracy_method(answer.accuracy):
        rows.append(("how accuracy was measured", method))
    rows += [("how accuracy on tasks was measured", words) for words in task_methods(answer.accuracy)]
    rows += [
        ("energy", f"{p.b} at batch {p.batch}: A {p.energy_a_j:.3g} J, B {p.energy_b_j:.3g} J per step")
        for p in answer.points
        if p.energy_a_j is not None and p.energy_b_j is not None
    ]
    return (
        f'<h2>Memory, energy, accuracy</h2>\n<div class="charts">{chart}<div class="card">{fact_list(rows)}</div></div>'
    )


def _block(block: dict[str, object]) -> str:
    """A part of the answer in words: its reason if it has one, else its plain fields."""
    if "reason" in block:
        return str(block["reason"])
    plain = [
        f"{name} {value}"
        for name, value in block.items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    ]
    return ", ".join(plain) or ("measured, see below" if block.get("measured") else "absent: no reason recorded")


def _method(answer: Answer) -> str:
    bet = answer.bet
    known = [p for p in answer.points if p.measured_speedup is not None]
    clocks = ", ".join(sorted({p.clock for p in known if p.clock})) or "nothing was measured"
    rounds = sorted(p.rounds for p in known)
    rows = [
        ("order", "the prediction was stored with its hash, then A and B were run in turns on the same machine"),
        (
            "asked",
            f"{step_words(bet)}; {batches(bet.grid)}; within {percent(bet.tie)} of 1 is a tie, fixed beforehand",
        ),
        ("clock", clocks),
        ("rounds", f"{rounds[0]} to {rounds[-1]} per point" if rounds else ABSENT),
    ]
    for letter, side in (("A", bet.a), *(("B", side) for side in bet.b)):
        rows.append((f"{letter}: {side.text}", side.spec))
        rows += [("kernel", f"{kernel} for {operators}") for kernel, operators in kernel_lines(side.kernels)]
        rows += [("waits for", f"batch {batch}: {bounds_words(shares, 4)}") for batch, shares in side.bounds.items()]
    loads = [
        [cell(f"{p.b}, batch {p.batch}"), cell(p.load or ABSENT, 1, "reason"), cell(p.record or ABSENT)]
        for p in answer.points
    ]
    table = (
        scrolling_table("Machine load and record of each point", ("point", "load while measuring", "record"), loads)
        if loads
        else ""
    )
    details = f"<details><summary>Load and record of each point</summary>{table}</details>" if table else ""
    return f"<h2>How it was measured</h2>\n{fact_list(rows)}\n{details}"


def _machine(answer: Answer) -> str:
    bet = answer.bet
    rows = [
        ("target", f"{bet.target}, calibrated {bet.target_date}"),
        ("calibrated on machine", bet.machine_id or ABSENT),
    ]
    rows += machine_facts({name: answer.machine[name] for name in answer.machine if name not in answer.versions})
    rows += [(str(name), str(value)) for name, value in sorted(answer.versions.items())]
    rows += [("bet", answer.id), ("stored", answer.created), ("sha256 of the bet", answer.digest)]
    return f"<h2>Machine and versions</h2>\n{fact_list(rows)}"


def _flags(answer: Answer) -> str:
    items = [
        *answer.flags,
        *(f"{p.b} at batch {p.batch}: {flag}" for p in answer.points if p.measured_speedup for flag in p.flags),
    ]
    if not items:
        return "<h2>Flags</h2>\n<p>None.</p>"
    return (
        '<h2>Flags</h2>\n<ul class="flags">'
        + "".join(f"<li>{escaped(flag)}</li>" for flag in dict.fromkeys(items))
        + "</ul>"
    )


def _definitions(bet: Bet) -> str:
    return f"<h2>Definitions</h2>\n{fact_list(bet_definitions(bet.model).items())}"
