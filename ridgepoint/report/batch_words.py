"""The words of a batch curve that terminal and page share: who keeps the SLO, where the knee may be, what ends the grid."""

import math
from collections.abc import Sequence

from ridgepoint.quantity import show, show_bytes, show_time
from ridgepoint.report.words import ABSENT, clean, percent, signed
from ridgepoint.study.batch.bet import rate_words
from ridgepoint.study.batch.document import BatchAnswer, BatchBet, BatchPoint, CurvePoint, KneeCard, SloCard, WallCard
from ridgepoint.study.units import unit_of

__all__ = [
    "energy_words",
    "error_words",
    "gains",
    "knee_mark",
    "loss_words",
    "mean_error_words",
    "measured_words",
    "memory_words",
    "method_words",
    "mfu_words",
    "per_token_words",
    "point_at",
    "question_words",
    "slo_mark",
    "slo_words",
    "span_words",
    "unit",
    "wall_words",
]  # fmt: skip


def unit(bet: BatchBet) -> str:
    """`"tokens"`, `"rows"` or `"items"`."""
    return unit_of(bet.model)


def question_words(bet: BatchBet) -> str:
    """What is asked, in one sentence."""
    asked = "" if bet.slo is None else f" that keeps {bet.slo.metric} <= {show_time(bet.slo.bound_s)}"
    return f"Which batch{asked} for {clean(bet.model)} as {clean(bet.side)}?"


def gains(seconds: Sequence[float], batches: Sequence[int]) -> list[float | None]:
    """By what a doubled batch multiplies throughput, from the batch before; None at the first."""
    out: list[float | None] = [None]
    for i in range(1, len(batches)):
        grown = batches[i] / batches[i - 1]
        gained = grown * seconds[i - 1] / seconds[i]
        out.append(float(gained ** _per_doubling(grown)))
    return out


def _per_doubling(grown: float) -> float:
    return math.log(2) / math.log(grown)


def span_words(low: float, high: float) -> str:
    """`"95.7–141 ms"`: two times in one unit where they share it."""
    a, b = show_time(low), show_time(high)
    return f"{a.split(' ')[0]}–{b}" if a.split(" ")[1:] == b.split(" ")[1:] else f"{a}–{b}"


def knee_mark(knee: KneeCard, batch: int) -> str:
    """`"knee"`, or `"maybe"` where it is too close to call."""
    return "knee" if batch == knee.batch else "maybe" if knee.low <= batch <= knee.high else ""


def slo_mark(slo: SloCard | None, low: float, value: float, high: float) -> str:
    """Whether a step keeps the objective: `"keeps"`, `"over"`, with a question mark where the 80 % interval has both."""
    if slo is None:
        return ""
    doubt = "?" if low <= slo.bound_s < high else ""
    return f"{'keeps' if value <= slo.bound_s else 'over'}{doubt}"


def slo_words(slo: SloCard, unit_: str) -> str:
    """The largest batch within the objective."""
    asked = f"{slo.metric} <= {show_time(slo.bound_s)}"
    ends = f"{slo.low or 'none'}–{slo.high or 'none'}" if slo.low != slo.high else f"{slo.low or 'none'}"
    if not slo.batch:
        return f"{asked}: no batch ({ends})"
    least = "at least " if slo.at_end else ""
    return f"{asked}: {least}batch {slo.batch} ({ends}), {rate_words(slo.tokens_per_s)} {unit_}/s there"


def wall_words(wall: WallCard | None) -> str:
    """Where memory ends."""
    if wall is None:
        return "not known: the target says no memory"
    of = wall.of if wall.of.startswith("the memory") else f"what is {wall.of}"
    room = f"90 % of {clean(of)}"
    if wall.searched:
        return f"beyond batch {wall.batch}, the largest that was tried: it needs {show_bytes(wall.need_bytes)}"
    return f"at batch {wall.batch}: {show_bytes(wall.need_bytes)}, {room}"


def point_at(answer: BatchAnswer, batch: int) -> BatchPoint | None:
    """What was tried at that batch."""
    return next((p for p in answer.points if p.batch == batch), None)


def measured_words(curve: CurvePoint, point: BatchPoint | None) -> str:
    """Step time as it was measured at a batch of the curve."""
    if not curve.fits:
        return "does not fit"
    return ABSENT if point is None or not point.measured_s else show_time(point.measured_s)


def error_words(point: BatchPoint | None) -> str:
    """predicted / measured - 1."""
    return ABSENT if point is None or not point.measured_s else signed(point.predicted_s / point.measured_s - 1)


def memory_words(answer: BatchAnswer) -> str:
    """Predicted and counted memory of the measured batches."""
    seen = [p for p in answer.points if p.memory_bytes is not None]
    return "; ".join(
        f"batch {p.batch}: predicted {show_bytes(p.predicted_memory_bytes)}, counted {show_bytes(p.memory_bytes or 0.0)}"
        for p in seen
    )


def energy_words(answer: BatchAnswer) -> list[str]:
    """Joules per token of each measured batch with their method, or the reason why there are none."""
    found = answer.energy
    if not found.get("measured"):
        return [clean(found.get("reason", "not measurable here"))]
    one = unit(answer.bet).removesuffix("s")
    lines = [f"batch {p['batch']}: {show(p['j_per_token'], 'J')} per {one}" for p in found["points"]]
    return [*lines, clean(found.get("method", ""))]


def mfu_words(bet: BatchBet, i: int, seconds: float) -> str:
    """Model FLOPs utilisation of a training step of that time at the i-th batch of the grid."""
    peak = bet.curve.peak_flops_per_s
    return ABSENT if peak is None or not bet.curve.flops else percent(bet.curve.flops[i] / seconds / peak)


def loss_words(answer: BatchAnswer) -> list[str]:
    """What a second of training is worth at each measured batch, and where the loss falls fastest."""
    found = answer.loss
    if not found.get("measured"):
        return []
    lines = [
        f"batch {r['batch']}: {r['steps']} steps in {show_time(r['seconds'])}, {r['before']:.4f} to {r['after']:.4f} nats, "
        f"{r['per_s']:.2g} nats/s ({r['low']:.2g} to {r['high']:.2g})"
        for r in found["rows"]
    ]
    best = max(found["rows"], key=lambda r: r["per_s"])
    if best["high"] <= 0 or best["per_s"] <= 0:
        lines.append(
            f"falls at none of them: the checkpoint has learned {clean(found['text'])} already, or the rate is too high"
        )
        return lines
    close = ", ".join(map(str, found["close"]))
    doubt = f"; {close} too close to it to call" if close else ""
    lines.append(
        f"falls fastest at batch {found['fastest']}{doubt}; over {len(found['seeds'])} seeds on {clean(found['text'])}"
    )
    return lines


def per_token_words(bet: BatchBet, i: int) -> str:
    """Predicted joules per token at the i-th batch of the grid, where the target has a power model."""
    joules = bet.curve.energy_j[i]
    return ABSENT if joules is None else show(joules / bet.curve.tokens[i], "J")


def mean_error_words(answer: BatchAnswer) -> str:
    """How far the step times were off, beside the roofline."""
    roofline = dict(zip(answer.bet.grid, answer.bet.curve.roofline_s, strict=True))
    pairs = [(roofline[p.batch], p.measured_s) for p in answer.points if p.measured_s]
    theirs = [abs(r / m - 1) for r, m in pairs if r is not None]
    beside = f" (roofline {percent(sum(theirs) / len(theirs))})" if theirs else ""
    return f"mean error of step times {percent(answer.error)}{beside}"


def method_words(answer: BatchAnswer) -> str:
    """How step times were measured: the clock, which step counts, and how many were kept at each batch."""
    known = [p for p in answer.points if p.measured_s is not None]
    clocks = "; ".join(sorted({clean(p.method.partition(",")[0]) for p in known}))
    steps = ", ".join(f"{p.steps} at batch {p.batch}" for p in known)
    return f"{clocks}; 20th percentile of the steps ({steps})" if known else "nothing"
