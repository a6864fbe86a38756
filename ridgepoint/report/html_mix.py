"""`ridge mix` as a page: a heat map of layers and formats, the mixture marked in it, and the figures."""

from collections.abc import Mapping
from html import escape
from typing import Any

from ridgepoint.report.html import page
from ridgepoint.report.markup import cell, escaped, figure, scrolling_table
from ridgepoint.report.mix_words import mix_lines, show_cost
from ridgepoint.report.svg import element, label, picture

__all__ = ["mix_html", "sensitivity_map"]

_LEFT, _TOP, _WIDE, _HIGH = 56.0, 34.0, 132.0, 26.0


def mix_html(found: Mapping[str, Any]) -> str:
    """The page. The same document gives the same text."""
    title = f"Which layers of {found['model']} need how many bits?"
    lines = mix_lines(found)
    head = (
        f'<header>\n<p class="kicker">Ridgepoint · formats by layer</p>\n<h1>{escaped(title)}</h1>\n'
        f'<div class="verdict"><p>{escaped(lines[0])}</p></div>\n'
        + "".join(f"<p>{escaped(text)}</p>" for text in lines[1:])
        + "</header>"
    )
    caption = escaped("The fuller a cell, the more KL the layer adds in that format when it alone is stored so; on a "
                      "logarithmic scale. Framed: the mixture.")  # fmt: skip
    chart = figure("each layer alone", sensitivity_map(found), caption)
    names = ("layer", "format", "KL added", "loss over A", "95 %", "cost over A")
    rows = [
        [
            cell(str(r["layer"])), cell(r["format"]), cell(f"{r['kl_added']:.3g}"), cell(f"{r['loss']:+.5f}"),
            cell(f"{r['low']:+.5f} to {r['high']:+.5f}"), cell(_cost(found, r)),
        ]
        for r in found["sensitivity"]
    ]  # fmt: skip
    note = f"{found['definition']}; {found['text']}, seed {found['seed']}"
    table = scrolling_table("nats per token", names, rows)
    return page(title, (head, f"<h2>Layer by layer</h2>\n{chart}{table}", f'<p class="soft">{escaped(note)}</p>'))


def _cost(found: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    value = found["costs"][row["layer"]][row["number"]]
    return ("-" if value < 0 else "+") + show_cost(found, abs(value))


def sensitivity_map(found: Mapping[str, Any]) -> str:
    """A row per layer, a column per format."""
    from math import log

    names = found["formats"]
    layers = 1 + max(r["layer"] for r in found["sensitivity"])
    seen = [r["kl_added"] for r in found["sensitivity"] if r["kl_added"] > 0] or [1.0]
    low, high = min(seen) / 2, max(seen)
    parts = [label(_LEFT + (i + 0.5) * _WIDE, _TOP - 12, name, "bar-name", "middle") for i, name in enumerate(names)]
    parts += [label(_LEFT - 8, _TOP + (i + 0.7) * _HIGH, f"layer {i}", "tick", "end") for i in range(layers)]
    for r in found["sensitivity"]:
        share = log(max(r["kl_added"], low) / low) / log(high / low) if high > low else 0.0
        x, y = _LEFT + (r["number"] - 1) * _WIDE, _TOP + r["layer"] * _HIGH
        box = {"x": x + 2, "y": y + 2, "width": _WIDE - 4, "height": _HIGH - 4, "rx": 3.0}
        parts.append(element("rect", {**box, "class": "weights", "fill-opacity": round(0.06 + 0.8 * share, 3)}))
        if found["assignment"] is not None and found["assignment"][r["layer"]] == r["number"]:
            parts.append(element("rect", {**box, "fill": "none", "stroke": "currentColor", "stroke-width": 2.0}))
        parts.append(label(x + _WIDE / 2, y + 0.7 * _HIGH, escape(f"{r['kl_added']:.2g}"), "tick lifted", "middle"))
    said = "; ".join(f"layer {r['layer']} {r['format']} {r['kl_added']:.2g}" for r in found["sensitivity"])
    return picture(
        int(_LEFT + len(names) * _WIDE + 10), int(_TOP + layers * _HIGH + 10), f"KL added by layer: {said}.", parts
    )
