"""What suffices, as a section of a page: a picture of loss against speed at two batches, and the table."""

from collections.abc import Mapping, Sequence
from typing import Any

from ridgepoint.quantity import show_bytes
from ridgepoint.report.charts import HEIGHT, WIDTH
from ridgepoint.report.markup import cell, escaped, figure, legend, scrolling_table
from ridgepoint.report.scale import LogScale, log_scale
from ridgepoint.report.svg import element, label, picture
from ridgepoint.report.words import factor

__all__ = ["frontier_chart", "sufficient_section"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, WIDTH - 24.0, 26.0, HEIGHT - 46.0


def sufficient_section(found: Mapping[str, Any], reference: str) -> str:
    """ "" where accuracy was not measured."""
    if not found:
        return ""
    batches = list(found["sides"][0]["speed"])
    ends = list(dict.fromkeys((batches[0], batches[-1])))
    keys = (("seen", "measured, with its intervals"), ("hollow", "speed predicted"), ("dots", "the tolerance"))
    charts = "".join(figure(f"loss against speed at batch {b}", frontier_chart(found, b, reference)) for b in ends)
    head = (
        "side", "loss over A, nats", "95 %", "suffices", "weights", "memory", *(f"speed-up at {b}" for b in batches)
    )  # fmt: skip
    rows = [_cells(row, batches, reference) for row in found["sides"]]
    return (
        f"<h2>What suffices</h2>\n<p>{escaped(found['statement'])}</p>\n{legend(keys)}"
        f'<div class="charts">{charts}</div>'
        + scrolling_table("* no other side loses no more, is as fast and as small; ~ predicted", head, rows)
    )


def _cells(row: Mapping[str, Any], batches: Sequence[str], reference: str) -> list[str]:
    ends = "" if row["side"] == reference else f"{row['low']:+.4f} to {row['high']:+.4f}"
    speeds = [row["speed"][b] for b in batches]
    words = [
        row["side"], f"{row['loss']:+.4f}", ends, row["suffices"], show_bytes(row["weight_bytes"]),
        show_bytes(row["memory_bytes"]),
        *(("" if s["measured"] else "~") + factor(s["speedup"]) + ("*" if s["frontier"] else "") for s in speeds),
    ]  # fmt: skip
    return [cell(word) for word in words]


def frontier_chart(found: Mapping[str, Any], batch: str, reference: str) -> str:
    """Speed-up over A to the right, loss over A downwards from the top, so that what nobody beats lies at the upper right."""
    rows = found["sides"]
    x = log_scale([1.0, *(r["speed"][batch][k] for r in rows for k in ("low", "speedup", "high"))])
    worst = max(found["tolerance"], *(r["high"] for r in rows)) * 1.12
    best = min(0.0, *(r["low"] for r in rows))
    best -= 0.08 * (worst - best)

    def py(loss: float) -> float:
        return _TOP + (loss - best) / (worst - best) * (_BOTTOM - _TOP)

    still = [*_grid(x, py, best, worst), *_tolerance(py(found["tolerance"]))]
    edge = sorted((r for r in rows if r["speed"][batch]["frontier"]), key=lambda r: r["speed"][batch]["speedup"])
    path = " ".join(f"{_px(x, r['speed'][batch]['speedup']):.1f},{py(r['loss']):.1f}" for r in edge)
    still.append(element("polyline", {"points": path, "class": "curve a"}))
    marks = [_mark(r, batch, x, py) for r in rows]
    said = "; ".join(f"{r['side']} {factor(r['speed'][batch]['speedup'])}, {r['loss']:+.4f} nats" for r in rows)
    return picture(WIDTH, HEIGHT, f"Loss over {reference} against speed-up at batch {batch}: {said}.", still, marks)


def _px(x: LogScale, value: float) -> float:
    return _LEFT + x.share(value) * (_RIGHT - _LEFT)


def _grid(x: LogScale, py: Any, best: float, worst: float) -> list[str]:
    parts = []
    for value in x.ticks(5):
        at = _px(x, value)
        parts.append(element("line", {"x1": at, "x2": at, "y1": _TOP, "y2": _BOTTOM, "class": "grid"}))
        parts.append(label(at, _BOTTOM + 17, factor(value), "tick", "middle"))
    step = _round_step((worst - best) / 4)
    first = int(best / step) - 1
    for i in range(first, first + 12):
        if best <= i * step <= worst:
            y = py(i * step)
            parts.append(element("line", {"x1": _LEFT, "x2": _RIGHT, "y1": y, "y2": y, "class": "grid"}))
            parts.append(label(_LEFT - 6, y + 4, f"{i * step:+.4g}" if i else "0", "tick", "end"))
    parts.append(label(_RIGHT, _BOTTOM + 33, "speed-up over A", "tick", "end"))
    parts.append(label(_LEFT - 56, _TOP - 12, "loss over A, nats per token (less is up)", "tick"))
    return parts


def _round_step(rough: float) -> float:
    power = 1e-9
    while power * 10 <= rough:
        power *= 10
    return next(power * m for m in (1, 2, 5, 10) if power * m >= rough)


def _tolerance(y: float) -> list[str]:
    return [
        element("line", {"x1": _LEFT, "x2": _RIGHT, "y1": y, "y2": y, "class": "one"}),
        label(_RIGHT, y - 5, "tolerance", "note", "end"),
    ]


def _mark(row: Mapping[str, Any], batch: str, x: LogScale, py: Any) -> str:
    speed = row["speed"][batch]
    at, y = _px(x, speed["speedup"]), py(row["loss"])
    words = (
        f"{row['side']}: {factor(speed['speedup'])}, {row['loss']:+.4f} nats ({row['low']:+.4f} to {row['high']:+.4f})"
    )
    anchor, shift = ("end", -8.0) if at > (_LEFT + _RIGHT) / 2 else ("start", 8.0)
    return element(
        "g", {"class": "mark" if speed["measured"] else "mark unseen"},
        element("title", {}, escaped(words)),
        element("line", {"x1": at, "x2": at, "y1": py(row["low"]), "y2": py(row["high"]), "class": "whisker"}),
        element(
            "line", {"x1": _px(x, speed["low"]), "x2": _px(x, speed["high"]), "y1": y, "y2": y, "class": "whisker"}
        ),
        element("circle", {"cx": at, "cy": y, "r": 5.0, "class": "dot"}),
        label(at + shift, y - 7, row["side"], "lifted", anchor),
    )  # fmt: skip
