"""When a cheaper format is enough: the sides of a bet by loss, speed, memory and energy, which suffice and which are beaten."""

from collections.abc import Mapping, Sequence
from typing import Any

from ridgepoint.quantity import show_bytes, show_ratio
from ridgepoint.study.document import Bet, Point

__all__ = ["sufficiency"]


def sufficiency(bet: Bet, points: Sequence[Point], accuracy: Mapping[str, Any]) -> dict[str, Any]:
    """The answer's `sufficiency`: {} where no accuracy was measured.

    A side suffices where the whole interval of its loss over A lies within the tolerance, and does not where it lies
    beyond. At each batch a side is on the frontier unless another one loses no more, is no slower and no larger, and is
    better in one of the three (by the expected values). Speed is per token, over A: measured where the point was, else
    predicted. Memory is what was predicted at the largest batch.
    """
    if not accuracy.get("measured"):
        return {}
    rows = [_row(bet, name, points, accuracy["sides"][name]) for name in (bet.a.text, *(b.text for b in bet.b))]
    for batch in map(str, bet.grid):
        for row in rows:
            row["speed"][batch]["frontier"] = not any(_beats(other, row, batch) for other in rows)
    enough = [row for row in rows if row["suffices"] == "yes"]
    fastest = {b: _fastest_of(enough, b, bet.tie)["side"] for b in map(str, bet.grid)}
    smallest = min(enough, key=lambda r: (r["memory_bytes"], r["loss"]))["side"]
    found = {"tolerance": accuracy["tolerance"], "sides": rows, "fastest": fastest, "smallest": smallest}
    return {**found, "statement": _statement(bet, found)}


def _row(bet: Bet, name: str, points: Sequence[Point], loss: Mapping[str, Any]) -> dict[str, Any]:
    own = name == bet.a.text
    card = bet.a if own else next(b for b in bet.b if b.text == name)
    return {
        "side": name,
        "loss": 0.0 if own else loss["difference"],
        "low": 0.0 if own else loss["low"],
        "high": 0.0 if own else loss["high"],
        "suffices": "yes" if own else _suffices(loss["verdict"]),
        "more_windows": 0 if own else loss["more_windows"],
        "weight_bytes": card.weight_bytes,
        "memory_bytes": card.memory_bytes,
        "speed": {str(batch): _speed(bet, name, batch, points) for batch in bet.grid},
    }


def _suffices(verdict: str) -> str:
    return {"undecided": "undecided", "loss": "no"}.get(verdict, "yes")


def _speed(bet: Bet, name: str, batch: int, points: Sequence[Point]) -> dict[str, Any]:
    if name == bet.a.text:
        energy = next((p.energy_a_j for p in points if p.batch == batch and p.energy_a_j is not None), None)
        return {"speedup": 1.0, "low": 1.0, "high": 1.0, "measured": True, "energy_j": energy}
    point = next((p for p in points if p.b == name and p.batch == batch and p.measured_speedup is not None), None)
    if point is not None:
        ends = {"low": point.measured_low, "high": point.measured_high}
        return {"speedup": point.measured_speedup, **ends, "measured": True, "energy_j": point.energy_b_j}
    curve = next(c for c in bet.curves if c.b == name)
    i = curve.batch.index(batch)
    ends = {"low": curve.low[i], "high": curve.high[i]}
    return {"speedup": curve.speedup[i], **ends, "measured": False, "energy_j": None}


def _fastest_of(rows: Sequence[Mapping[str, Any]], batch: str, tie: float) -> Mapping[str, Any]:
    """The fastest; of those that tie with it the one that loses least."""
    best = max(r["speed"][batch]["speedup"] for r in rows)
    return min((r for r in rows if r["speed"][batch]["speedup"] * (1 + tie) >= best), key=lambda r: r["loss"])


def _beats(one: Mapping[str, Any], other: Mapping[str, Any], batch: str) -> bool:
    """Whether `one` is at least as good in all three, and better in one."""
    mine = (-one["loss"], one["speed"][batch]["speedup"], -one["memory_bytes"])
    its = (-other["loss"], other["speed"][batch]["speedup"], -other["memory_bytes"])
    return mine != its and all(a >= b for a, b in zip(mine, its, strict=True))


def _statement(bet: Bet, found: Mapping[str, Any]) -> str:
    """`Within 0.00995 nats per token of bf16: int8 and int4 suffice, nf4 does not; …`."""
    by = {state: [r["side"] for r in found["sides"][1:] if r["suffices"] == state] for state in ("yes", "no")}
    said = [
        f"{_listed(by['yes'])} {'suffices' if len(by['yes']) == 1 else 'suffice'}" if by["yes"] else "",
        f"{_listed(by['no'])} {'does' if len(by['no']) == 1 else 'do'} not" if by["no"] else "",
        *(
            f"{r['side']} is undecided (about {r['more_windows']} more windows would tell)"
            for r in found["sides"][1:] if r["suffices"] == "undecided"
        ),
    ]  # fmt: skip
    rows = {r["side"]: r for r in found["sides"]}
    smallest = rows[found["smallest"]]
    size = f"smallest: {smallest['side']}, {show_bytes(smallest['memory_bytes'])}"
    head = f"Within {found['tolerance']:.3g} nats per token of {bet.a.text}"
    return (
        f"{head}: {', '.join(filter(None, said))}. Fastest that suffices: {_fastest(found['fastest'], rows)}; {size}."
    )


def _fastest(fastest: Mapping[str, str], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Neighbouring batches with one winner are said together."""
    runs: list[tuple[str, list[str]]] = []
    for batch, side in fastest.items():
        if runs and runs[-1][0] == side:
            runs[-1][1].append(batch)
        else:
            runs.append((side, [batch]))
    said = []
    for side, batches in runs:
        at = batches[0] if len(batches) == 1 else f"{batches[0]} to {batches[-1]}"
        gains = [show_ratio(rows[side]["speed"][b]["speedup"]) for b in dict.fromkeys((batches[0], batches[-1]))]
        said.append(f"{side} at batch {at} ({', '.join(gains)})")
    return ", ".join(said)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
