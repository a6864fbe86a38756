"""Inline SVG by hand: escaped elements, a plot with two logarithmic axes, and marks with their words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import wrap

from ridgepoint.report.scale import LogScale
from ridgepoint.report.words import clean

__all__ = ["Plot", "area", "axes", "element", "label", "line", "mark", "picture"]

_TIP_LETTERS = 64


def element(name: str, attributes: Mapping[str, object], *children: str) -> str:
    """One element; attribute values are escaped, children are markup already."""
    words = "".join(f' {key}="{escape(_value(value))}"' for key, value in attributes.items())
    return f"<{name}{words}>{''.join(children)}</{name}>"


def _value(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else clean(value)


def label(x: float, y: float, text: str, style: str = "", anchor: str = "start") -> str:
    """Text at a place; `style` is a class of the page."""
    return element("text", {"x": float(x), "y": float(y), "class": style, "text-anchor": anchor}, escape(clean(text)))


def picture(width: int, height: int, description: str, still: Iterable[str], marks: Iterable[str] = ()) -> str:
    """An SVG: `still` is one image with a description, `marks` are the points, each with words of its own for a screen reader."""
    image = element("g", {"role": "img", "aria-label": description}, *still)
    return element("svg", {"viewBox": f"0 0 {width} {height}", "role": "group", "aria-label": "chart"}, image, *marks)


@dataclass(frozen=True, slots=True)
class Plot:
    """Where values lie in the picture."""

    x: LogScale
    y: LogScale
    left: float
    right: float
    top: float
    bottom: float

    def px(self, value: float) -> float:
        return self.left + self.x.share(value) * (self.right - self.left)

    def py(self, value: float) -> float:
        return self.bottom - self.y.share(value) * (self.bottom - self.top)


def axes(plot: Plot, x_values: Sequence[int], x_name: str, y_words: Mapping[float, str]) -> list[str]:
    """Grid lines with their values; x values that would touch are left out."""
    parts = []
    for value, word in y_words.items():
        y = plot.py(value)
        parts.append(element("line", {"x1": plot.left, "x2": plot.right, "y1": y, "y2": y, "class": "grid"}))
        parts.append(label(plot.left - 6, y + 4, word, "tick", "end"))
    last = -100.0
    for value in x_values:
        x = plot.px(value)
        if x - last >= 9 * len(str(value)) + 4:
            parts.append(label(x, plot.bottom + 17, str(value), "tick", "middle"))
            parts.append(element("line", {"x1": x, "x2": x, "y1": plot.bottom, "y2": plot.bottom + 4, "class": "axis"}))
            last = x
    parts.append(
        element("line", {"x1": plot.left, "x2": plot.right, "y1": plot.bottom, "y2": plot.bottom, "class": "axis"})
    )
    parts.append(label(plot.right, plot.bottom + 33, x_name, "tick", "end"))
    return parts


def line(plot: Plot, xs: Sequence[float], ys: Sequence[float], style: str) -> str:
    """Points joined by straight lines, which are power laws on these axes."""
    if len(xs) == 1:
        x, y = plot.px(xs[0]), plot.py(ys[0])
        return element("line", {"x1": x - 14, "x2": x + 14, "y1": y, "y2": y, "class": style})
    path = " ".join(f"{plot.px(x):.1f},{plot.py(y):.1f}" for x, y in zip(xs, ys, strict=True))
    return element("polyline", {"points": path, "class": style})


def area(plot: Plot, xs: Sequence[float], low: Sequence[float], high: Sequence[float], style: str) -> str:
    """The band between two curves; of a single point, a bar of some width."""
    if len(xs) == 1:
        x = plot.px(xs[0])
        corners = [
            (x - 14, plot.py(low[0])),
            (x + 14, plot.py(low[0])),
            (x + 14, plot.py(high[0])),
            (x - 14, plot.py(high[0])),
        ]
    else:
        lower = [(plot.px(x), plot.py(y)) for x, y in zip(xs, low, strict=True)]
        corners = [*lower, *((plot.px(x), plot.py(y)) for x, y in reversed(list(zip(xs, high, strict=True))))]
    return element("polygon", {"points": " ".join(f"{x:.1f},{y:.1f}" for x, y in corners), "class": style})


def mark(
    plot: Plot,
    x: float,
    y: float,
    words: str,
    style: str,
    ends: tuple[float, float] | None = None,
    square: bool = False,
) -> str:
    """A measured value with its interval; `words` are read aloud, and shown at the top of the plot where it is pointed at."""
    px, py = plot.px(x), plot.py(y)
    parts = [element("title", {}, escape(clean(words)))]
    if ends is not None:
        parts.append(
            element("line", {"x1": px, "x2": px, "y1": plot.py(ends[0]), "y2": plot.py(ends[1]), "class": "whisker"})
        )
    if square:
        parts.append(element("rect", {"x": px - 4.5, "y": py - 4.5, "width": 9, "height": 9, "class": "dot"}))
    else:
        parts.append(element("circle", {"cx": px, "cy": py, "r": 5, "class": "dot"}))
    parts.append(element("circle", {"cx": px, "cy": py, "r": 13, "class": "halo"}))
    tip = wrap(clean(words), _TIP_LETTERS, max_lines=2, placeholder=" …")
    parts += [label(4.0, 10.0 + 14 * i, text, "tip") for i, text in enumerate(tip)]
    return element("g", {"class": f"mark {style}", "role": "img", "aria-label": words}, *parts)
