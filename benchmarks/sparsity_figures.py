"""Figures of the records about sparsity: timings and break-even densities, and the loss of what was pruned."""

import math
from pathlib import Path
from typing import Any

from sheet_figures import read_record

__all__ = ["sparsity_figures"]

_KINDS = {
    "rows": "sparse rows (`:csr`)", "zeros": "zeros in dense tensors", "removed": "channels, heads and layers that are gone",
}  # fmt: skip


def sparsity_figures(records: Path) -> dict[str, str]:
    """Name of a figure -> its text, of those records that exist."""
    found: dict[str, str] = {}
    if record := read_record(records, "sparsity.json"):
        found["sparsity.models"] = str(len({p["model"] for p in record["points"]}))
        found["sparsity.table"] = f"\n{_scores(record)}\n"
        found["sparsity.break-even"] = f"\n{_break_even(record)}\n"
        pairs = [b for b in record["break_even"] if b["measured"] is not None]
        apart = [abs(b["predicted"] - b["measured"]) for b in pairs]
        found["sparsity.within"] = f"{sum(a <= 0.10 for a in apart)} of {len(apart)}"
        if "moved" in record:
            moved = record["moved"]["rows"]
            found["sparsity.moved.points"] = str(moved["points"])
            found["sparsity.moved"] = _percent(moved["mean"])
            found["sparsity.moved.most"] = _percent(moved["most"])
            found["sparsity.moved.middle"] = _percent(moved["mean"] / math.sqrt(2.0))
        for kind, score in record["score"].items():
            found |= _score(kind, score)
    if record := read_record(records, "sparsity-before.json"):
        found |= _score("before", record["score"]["rows"])
    if record := read_record(records, "gathers.json"):
        found["gathers.table"] = f"\n{_gathers(record['points'])}\n"
    if record := read_record(records, "prefetcher.json"):
        found |= _prefetcher(record)
    if record := read_record(records, "pruned.json"):
        found["pruned.windows"] = str(record["windows"])
        found["pruned.table"] = f"\n{_losses(record)}\n"
        found["pruned.outputs"] = f"\n{_outputs(record['outputs'])}\n"
    return found


def _score(name: str, score: dict[str, Any]) -> dict[str, str]:
    return {
        f"sparsity.{name}.mape": _percent(score["mape"]),
        f"sparsity.{name}.sign": f"{score['signs_right']} of {score['effects']}",
    }


def _prefetcher(record: dict[str, Any]) -> dict[str, str]:
    best, there = record["best"], min(record["sweep"], key=lambda x: x["elsewhere"])
    found = {
        "prefetcher.shapes": str(record["shapes"]), "prefetcher.exponents": f"{best['p']:g} and {best['q']:g}",
        "prefetcher.elsewhere.exponents": f"{there['p']:g} and {there['q']:g}",
        "prefetcher.elsewhere.best": _percent(math.expm1(there["elsewhere"])),
    }  # fmt: skip
    for name in ("law", "without", "best"):
        found[f"prefetcher.{name}"] = _percent(math.expm1(record[name]["error"]))
        found[f"prefetcher.{name}.elsewhere"] = _percent(math.expm1(record[name]["elsewhere"]))
    return found


def _scores(record: dict[str, Any]) -> str:
    lines = [
        "| | points | speed-up off by (mean) | roofline | sign right beyond 10 % | roofline | 1.0x inside the 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, words in _KINDS.items():
        s = record["score"][kind]
        cells = [
            words, str(s["points"]), _percent(s["mape"]), _percent(s["roofline_mape"]), f"{s['signs_right']} of {s['effects']}",
            f"{s['roofline_right']} of {s['effects']}", f"{s['one_inside_95']} of {s['points']}" if kind == "zeros" else "–",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _break_even(record: dict[str, Any]) -> str:
    lines = ["| | batch | predicted (80 %) | measured | between |", "|---|---|---|---|---|"]
    for b in record["break_even"]:
        low, high = b["between"]
        seen = (
            f"{b['measured']:.2f}"
            if b["measured"] is not None
            else f"below {high:.2f}"
            if low == 0
            else f"above {low:.2f}"
        )
        name = b["model"].rpartition("/")[2].removesuffix(".json")
        lines.append(
            f"| {name} | {b['batch']} | {b['predicted']:.2f} ({b['low']:.2f} to {b['high']:.2f}) | {seen} | "
            f"{low:.2f} and {high:.2f} |"
        )
    return "\n".join(lines)


def _gathers(points: list[dict[str, Any]]) -> str:
    rows = [m for m in sorted({p["m"] for p in points}) if m > 1]
    shapes = sorted({(p["n"], p["k"]) for p in points}, key=lambda shape: shape[1])
    cells = {(p["m"], p["n"], p["k"], p["density"]): f"{p['ns']:.1f}" for p in points}
    names = [f"{n}x{k}, {m} rows" for m in rows for n, k in shapes]
    lines = [f"| density | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for density in sorted({p["density"] for p in points}):
        values = [cells[m, n, k, density] for m in rows for n, k in shapes]
        lines.append(f"| {density:g} | {' | '.join(values)} |")
    return "\n".join(lines)


def _losses(record: dict[str, Any]) -> str:
    lines = [
        "| side | over dense (95 %) | with `:wanda`, over dense | `:wanda` over the weights alone |",
        "|---|---|---|---|",
    ]
    rows = {r["side"]: r for r in record["rows"]}
    for side, row in rows.items():
        if side.endswith(":wanda"):
            continue
        other = rows.get(f"{side}:wanda")
        cells = [
            f"`{side}`", _interval(row["over_dense"]), _interval(other["over_dense"]) if other else "–",
            _interval(other["over_magnitude"]) if other else "–",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _outputs(errors: dict[str, dict[str, float]]) -> str:
    ways = list(next(iter(errors.values())))
    lines = [
        f"| half of the weights gone by | {' | '.join(ways)} |".replace("|w|", "\\|w\\|"),
        "|---" * (len(ways) + 1) + "|",
    ]
    lines += [f"| `{name}` | {' | '.join(f'{100 * by[w]:.1f} %' for w in ways)} |" for name, by in errors.items()]
    return "\n".join(lines)


def _interval(values: list[float]) -> str:
    mean, low, high = values
    return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
