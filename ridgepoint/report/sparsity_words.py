"""Sparsity in words: how much is there, how much of it is exploited and by which kernel, and where sparse rows break even."""

from collections.abc import Iterator

from ridgepoint.report.words import clean, factor, percent, span
from ridgepoint.study.document import Answer, Bet, BreakEven, Point, SideCard

__all__ = ["break_even_lines", "predicted_sparsity_lines", "sparsity_lines"]


def predicted_sparsity_lines(bet: Bet) -> Iterator[str]:
    """A line per side that takes something away, before anything is measured, and one per break-even density."""
    for side in (bet.a, *bet.b):
        if side.sparsity:
            yield f"{clean(side.text)}: {_present(side, None)}; {_exploited(side)}"
    for found in bet.break_even:
        yield f"{clean(found.family)} at batch {found.batch}: {_foretold(found)}"


def sparsity_lines(answer: Answer) -> Iterator[str]:
    """The same after measuring, with zeros as counted and the speed-up of each measured batch."""
    for side in (answer.bet.a, *answer.bet.b):
        if side.sparsity:
            mine = [p for p in answer.points if p.b == side.text and p.measured_speedup]
            gains = ", ".join(f"{factor(p.measured_speedup)} at batch {p.batch}" for p in mine)
            so = f": {gains}" if gains else ""
            yield f"{clean(side.text)}: {_present(side, _counted(answer, side))}; {_exploited(side)}{so}"


def break_even_lines(answer: Answer) -> Iterator[str]:
    """Foretold and measured break-even densities, a line per family and batch."""
    measured = {(m.family, m.batch): m for m in answer.break_even}
    for found in answer.bet.break_even:
        seen = measured.get((found.family, found.batch))
        yield f"{clean(found.family)} at batch {found.batch}: {_foretold(found)}; {_seen(seen)}"


def _counted(answer: Answer, side: SideCard) -> float | None:
    return next((share for p in answer.points if (share := _share_of(p, answer.bet, side)) is not None), None)


def _share_of(point: Point, bet: Bet, side: SideCard) -> float | None:
    if point.b == side.text and "b" in point.zeros:
        return point.zeros["b"]
    return point.zeros.get("a") if side is bet.a else None


def _present(side: SideCard, counted: float | None) -> str:
    said = []
    if removed := side.sparsity["removed"]:
        said.append(f"{percent(removed)} of the parameters are gone")
    if "zeros" in side.sparsity:
        zeros = side.sparsity["zeros"] if counted is None else counted
        said.append(f"{100 * zeros:.1f} % of the layers' weights are zero{'' if counted is None else ' (counted)'}")
    return "present: " + ", ".join(said)


def _exploited(side: SideCard) -> str:
    layers = {name: kernel for name, kernel in side.kernels.items() if name != "lm_head"} or side.kernels
    names = list(dict.fromkeys(clean(kernel) for kernel in layers.values()))
    kernels, one = ", ".join(names), len(names) == 1
    if "zeros" not in side.sparsity:
        return "exploited: all of it, the tensors are smaller"
    skipped = side.sparsity["skipped"]
    if not skipped:
        return f"exploited: nothing, {kernels} {'multiplies' if one else 'multiply'} zeros like any number"
    return f"exploited: {kernels} {'leaves' if one else 'leave'} {percent(skipped)} of the weights out"


def _foretold(found: BreakEven) -> str:
    if found.density == 0.0:
        return "predicted slower than A at any density"
    if found.density == 1.0:
        return "predicted faster than A at any density"
    return f"predicted faster than A below a density of {found.density:.2f} ({_ends(found)})"


def _seen(found: BreakEven | None) -> str:
    if found is None:
        return "fewer than two densities were measured"
    if found.density is not None:
        return f"measured {found.density:.2f}, between {_ends(found)}"
    return f"measured below {found.high:.2g}" if found.low == 0.0 else f"measured above {found.low:.2g}"


def _ends(found: BreakEven) -> str:
    return span(found.low, found.high) if found.low >= 0.1 else f"{found.low:.2g}–{found.high:.2g}"
