"""Words of the records on machines that are not at hand: signs of speed-ups, intervals, whole machines left out."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["sheet_figures", "whole_gpus_table"]

_FEW_ROWS = 40
Rows = Sequence[dict[str, Any]]


def sheet_figures(records: Path) -> dict[str, str]:
    """Name of a figure -> its text, of those records that exist."""
    found: dict[str, str] = {}
    if held := _read(records, "held-out.json"):
        found |= _intervals(
            [r for r in held["rows"] if r["regime"] == "all" and r["framework"] and r["n"] >= _FEW_ROWS]
        )
    if pairs := _read(records, "held-out-pairs.json"):
        found |= _signs("shapes", pairs["rows"])
    if whole := _read(records, "held-out-gpus.json"):
        found |= _signs("gpus", whole["pairs"])
    return found


def _read(records: Path, name: str) -> Any:
    path = records / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _signs(name: str, rows: Rows) -> dict[str, str]:
    clear = sum(r["clear"] for r in rows)
    if not clear:
        return {}
    gains = sum(r["faster"] for r in rows) / clear
    shares = {key: sum(r[key] for r in rows) / clear for key in ("right", "roofline_right", "bytes_right")}
    shares |= {"faster": gains, "one_sign": max(gains, 1.0 - gains)}
    return {
        f"pairs.{name}.clear": f"{clear:,}",
        f"pairs.{name}.formats": ", ".join(sorted({r["dtype"] for r in rows})),
    } | {f"pairs.{name}.{key}": f"{100 * share:.1f} %" for key, share in shares.items()}


def _intervals(rows: Rows) -> dict[str, str]:
    """Means over rows of all cells."""
    count = sum(r["n"] for r in rows)

    def mean(name: str) -> float:
        return sum(r[name] * r["n"] for r in rows) / count

    held = [r["coverage80"] for r in rows]
    return {
        "intervals.coverage": f"{100 * mean('coverage80'):.1f} %", "intervals.half": f"{100 * mean('half_width80'):.1f} %",
        "intervals.band_coverage": f"{100 * mean('band_coverage80'):.1f} %",
        "intervals.band_half": f"{100 * mean('band_half_width80'):.1f} %",
        "intervals.inside": f"{sum(0.75 <= x <= 0.85 for x in held)} of {len(held)}",
        "intervals.span": f"{100 * min(held):.0f} to {100 * max(held):.0f} %",
    }  # fmt: skip


def whole_gpus_table(record: dict[str, Any]) -> str:
    """A row for each operator, machine and dtype of which all fits on that machine were taken away."""
    lines = [
        "| operator | machine | dtype | rows | median error, by stack | p90 | bias | inside 80 % | roofline | taken from |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for r in record["rows"]:
        alone = r["version"] != "all" or not any(_same(r, x) and x["version"] != "all" for x in record["rows"])
        if r["regime"] == "all" and r["metric"] == "latency" and r["n"] >= _FEW_ROWS and alone:
            groups.setdefault((r["kind"], r["gpu"], r["dtype"]), []).append(r)
    for (kind, gpu, dtype), rows in groups.items():
        n = sum(r["n"] for r in rows)
        inside = sum(r["coverage80"] * r["n"] for r in rows) / n
        cells = (
            kind, gpu, dtype, str(n), _span(rows, "median_ape"), _span(rows, "p90_ape"), _bias(rows), f"{100 * inside:.0f} %",
            _span(rows, "roofline_median_ape"), ", ".join(sorted({r["steps"] for r in rows})),
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(a[name] == b[name] for name in ("file", "kind", "metric", "gpu", "dtype", "framework", "regime"))


def _bias(rows: Rows) -> str:
    low, high = (f(r["bias"] for r in rows) for f in (min, max))
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f}–{high:.2f}"


def _span(rows: Rows, name: str) -> str:
    low, high = (100 * f(r[name] for r in rows) for f in (min, max))
    return f"{low:.0f} %" if f"{low:.0f}" == f"{high:.0f}" else f"{low:.0f}–{high:.0f} %"
