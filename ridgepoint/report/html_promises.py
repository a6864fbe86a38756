"""Promises as one page that stands alone: the score, a table, and a chart for each case."""

from collections.abc import Sequence

from ridgepoint.report.html import page
from ridgepoint.report.markup import cell, escaped, fact_list, figure, legend, scrolling_table
from ridgepoint.report.promise_words import SCORE_HEAD, flip_words, held_words, score_cells
from ridgepoint.report.scale import LogScale, log_scale
from ridgepoint.report.svg import element, label, picture
from ridgepoint.report.words import ABSENT, factor, span
from ridgepoint.study.promises.outcome import Comparison, Outcome
from ridgepoint.study.promises.scoring import score
from ridgepoint.study.promises.settle import Ran

__all__ = ["promise_chart", "promises_html"]

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 420, 74.0, 404.0, 16.0, 34.0
_KEYS = (
    ("square", "promised"), ("dots", "roofline"), ("band", "predicted, 80 %"), ("seen", "measured, 95 %"),
)  # fmt: skip


def promises_html(ran: Ran) -> str:
    """The page. The same outcomes give the same text; nothing is requested from anywhere."""
    measured = [o for o in ran.outcomes if not o.on_paper]
    paper = [o for o in ran.outcomes if o.on_paper]
    title = "Broken promises: what was promised, predicted and measured"
    head = f'<header>\n<p class="kicker">Ridgepoint · promises</p>\n<h1>{escaped(title)}</h1>\n</header>'
    parts = [head]
    if measured:
        rows = [[cell(word) for word in score_cells(row)] for row in score(ran.outcomes)]
        parts.append(f"<h2>Score</h2>\n{scrolling_table('over what was measured', SCORE_HEAD, rows)}")
        parts.append(f"<h2>Measured</h2>\n{_points(measured, True)}\n{_charts(measured)}")
    if paper:
        parts.append(f"<h2>On paper only</h2>\n<p>Nothing of this was measured, and none of it is in the score.</p>"
                     f"\n{_points([o for o in paper if o.points], False)}\n{_said(paper)}")  # fmt: skip
    if ran.refused:
        parts.append(f"<h2>Not run</h2>\n{fact_list((r.case, r.words) for r in ran.refused)}")
    parts.append(_threads(ran.outcomes))
    return page(title, parts)


def _points(outcomes: Sequence[Outcome], measured: bool) -> str:
    if not outcomes:
        return ""
    seen = ("measured", "95 %") if measured else ()
    names = ("case", "batch", "promised", "roofline", "predicted", "80 %", *seen, "known", "found")
    rows = [[cell("" if i else o.case), *_cells(p, measured)] for o in outcomes for i, p in enumerate(o.points)]
    return scrolling_table("speed-up of B over A", names, rows)


def _cells(p: Comparison, measured: bool) -> list[str]:
    words = [str(p.batch), factor(p.claim), factor(p.roofline), factor(p.predicted)]
    words.append(span(p.predicted_low, p.predicted_high))
    words += [factor(p.measured), span(p.measured_low, p.measured_high)] if measured else []
    return [cell(word) for word in (*words, p.known or ABSENT, held_words(p.stands))]


def _charts(outcomes: Sequence[Outcome]) -> str:
    scale = log_scale([1.0, *(v for o in outcomes for p in o.points for v in _values(p))], least=4.0)
    charts = "".join(
        figure(o.question, promise_chart(o, scale), escaped(f"{o.asked}{_flips(o)}")) for o in outcomes if o.points
    )
    return f'{legend(_KEYS)}<div class="charts">{charts}</div>'


def _flips(outcome: Outcome) -> str:
    parts = [f"{name}{flip_words(outcome, by)}".replace(";", "") for by, name in _SEEN if outcome.flips.get(by)]
    return f"; {', '.join(parts)}" if parts else ""


_SEEN = (("predicted", "prediction"), ("measured", "measurement"))


def _values(p: Comparison) -> list[float]:
    values = (p.claim, p.roofline, p.predicted_low, p.predicted_high, p.measured_low, p.measured_high)
    return [v for v in values if v]


def promise_chart(outcome: Outcome, scale: LogScale) -> str:
    """A row for each batch: what was promised, by the roofline, predicted and measured, on one logarithmic axis."""
    bottom = _TOP + _ROW * len(outcome.points)
    still = []
    for value in sorted({*scale.ticks(5), 1.0}):
        x = _x(scale, value)
        style = "one" if value == 1.0 else "grid"
        still.append(element("line", {"x1": x, "x2": x, "y1": _TOP - 6, "y2": bottom, "class": style}))
        still.append(label(x, bottom + 17, factor(value), "tick", "middle"))
    for i, p in enumerate(outcome.points):
        still += _row(p, _TOP + _ROW * (i + 0.5), scale)
    marks = [_mark(p, _TOP + _ROW * (i + 0.5), scale) for i, p in enumerate(outcome.points) if p.measured]
    said = "; ".join(_words(p) for p in outcome.points)
    return picture(_WIDTH, int(bottom + 24), f"{outcome.asked}: {said}.", still, marks)


def _x(scale: LogScale, value: float) -> float:
    return _LEFT + scale.share(value) * (_RIGHT - _LEFT)


def _row(p: Comparison, y: float, scale: LogScale) -> list[str]:
    low, high, at = (_x(scale, v) for v in (p.predicted_low, p.predicted_high, p.predicted))
    roof, claim = _x(scale, p.roofline), _x(scale, p.claim)
    return [
        label(_LEFT - 10, y + 4, f"batch {p.batch}", "tick", "end"),
        element("rect", {"x": low, "y": y - 8, "width": max(2.0, high - low), "height": 16.0, "class": "band"}),
        element("line", {"x1": at, "x2": at, "y1": y - 8, "y2": y + 8, "class": "b"}),
        element("line", {"x1": roof, "x2": roof, "y1": y - 11, "y2": y + 11, "class": "roofline"}),
        element("g", {"class": "a"}, element("rect", {"x": claim - 4.5, "y": y - 4.5, "width": 9.0, "height": 9.0,
                                                      "class": "dot"})),
    ]  # fmt: skip


def _mark(p: Comparison, y: float, scale: LogScale) -> str:
    ends = [_x(scale, v) for v in (p.measured_low, p.measured_high) if v]
    whisker = (
        element("line", {"x1": ends[0], "x2": ends[1], "y1": y, "y2": y, "class": "whisker"}) if len(ends) == 2 else ""
    )
    dot = element("circle", {"cx": _x(scale, p.measured or 1.0), "cy": y, "r": 5.0, "class": "dot"})
    return element(
        "g",
        {"class": "mark", "role": "img", "aria-label": _words(p)},
        element("title", {}, escaped(_words(p))),
        whisker,
        dot,
    )


def _words(p: Comparison) -> str:
    return (
        f"batch {p.batch}: promised {factor(p.claim)}, roofline {factor(p.roofline)}, predicted {factor(p.predicted)}, "
        f"measured {factor(p.measured)}"
    )


def _said(outcomes: Sequence[Outcome]) -> str:
    rows = [
        [cell(o.case), cell(o.said["claim"], style="reason"), cell(o.said["predicted"], style="reason"),
         cell(o.said["known"], style="reason"), cell(held_words(o.stands))]
        for o in outcomes if o.said
    ]  # fmt: skip
    return (
        scrolling_table("questions that are no speed-up", ("case", "promised", "predicted", "known", "found"), rows)
        if rows
        else ""
    )


def _threads(outcomes: Sequence[Outcome]) -> str:
    rows = [(o.case, "; ".join(o.threads)) for o in outcomes]
    return f"<h2>The threads</h2>\n{fact_list(rows)}" if rows else ""
