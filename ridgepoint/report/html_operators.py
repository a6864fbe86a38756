"""Two parts of an answer's page: what each operator does to the step, and how right earlier predictions were."""

from ridgepoint.quantity import show, show_time
from ridgepoint.report.charts_operators import roofline_chart, waterfall_chart
from ridgepoint.report.markup import cell, escaped, figure, legend, scrolling_table
from ridgepoint.report.operator_words import operator_notes, operator_words
from ridgepoint.report.words import percent
from ridgepoint.study.document import Answer, Bet, OpCard, SideCard

__all__ = ["operators_section", "record_section"]


def operators_section(bet: Bet) -> str:
    """Waterfalls from A to each B and rooflines at the smallest and the largest batch; "" for a bet without operators."""
    ends = list(bet.a.ops)
    if not ends:
        return ""
    falls = [
        figure(f"{bet.a.text} to {b.text}, batch {end}", waterfall_chart(bet.a, b, end)) for b in bet.b for end in ends
    ]
    roofs = [
        figure(f"roofline of {bet.a.text} and {b.text}, batch {end}", chart)
        for b in bet.b
        for end in ends
        if (chart := roofline_chart(bet.a, b, end, bet.roofs))
    ]
    keys = (
        ("saves-key", "B saves time"),
        ("adds-key", "B takes longer"),
        ("square", f"operator of {bet.a.text}"),
        ("seen", "operator of B"),
    )
    sides = (bet.a, *bet.b)
    tables = [_operators(side, end) for side in sides for end in ends]
    notes = operator_notes(op.name for side in sides for end in ends for op in side.ops[end])
    tables += [f'<p class="soft">{escaped(f"{note[0].upper()}{note[1:]}.")}</p>' for note in notes]
    return (
        '<h2>Operator by operator</h2>\n<p class="soft">Predicted. The slopes are the attained read bandwidths of each level of '
        "memory, the level lines the attained arithmetic rates, one thread; point at an operator "
        f'to read it, or open the tables below.</p>\n{legend(keys)}\n<div class="charts">{"".join([*falls, *roofs])}</div>\n'
        f"<details><summary>All operators as tables</summary>{''.join(tables)}</details>"
    )


def _operators(side: SideCard, batch: str) -> str:
    whole = sum(op.time_s for op in side.ops[batch]) or 1.0
    head = ("operator", "kernel", "time", "share", "FLOPs", "bytes", "FLOP/s", "bound")
    return scrolling_table(f"{side.text}, batch {batch}", head, [_operator(op, whole) for op in side.ops[batch]])


def _operator(op: OpCard, whole: float) -> list[str]:
    rate = show(op.flops / op.time_s, "FLOP/s") if op.time_s > 0 and op.flops else "–"
    return [
        cell(operator_words(op.name)), cell(op.kernel, 1, "reason"), cell(show_time(op.time_s)), cell(percent(op.time_s / whole)),
        cell(show(op.flops, "FLOP")), cell(show(op.bytes, "B")), cell(rate), cell(op.bound, 1, "reason"),
    ]  # fmt: skip


def record_section(answer: Answer) -> str:
    """The score of the bets that were settled before this one, on the same machine."""
    if not answer.record:
        return '<h2>The record behind it</h2>\n<p class="soft">No bet had been settled on this machine before.</p>'
    head = (
        "bets on",
        "points",
        "mean error of step times",
        "sign right, effects beyond 10 %",
        "inside the 80 % interval",
    )
    rows = [
        [
            cell(row.group), cell(str(row.points)), cell(percent(row.step_error)), cell(f"{row.sign_right} of {row.sign_n}"),
            cell("–" if row.inside is None else percent(row.inside)),
        ]
        for row in answer.record
    ]  # fmt: skip
    return (
        '<h2>The record behind it</h2>\n<p class="soft">How right this machine\'s earlier predictions were, as known when '
        f"this bet was settled.</p>\n{scrolling_table('Earlier bets', head, rows)}"
    )
