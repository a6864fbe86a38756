"""Pieces of a page: escaped text, legends, figures, tables that scroll by themselves, lists of facts."""

from collections.abc import Iterable, Sequence
from html import escape

from ridgepoint.report.words import clean

__all__ = ["cell", "escaped", "fact_list", "figure", "legend", "scrolling_table"]


def escaped(value: object) -> str:
    """Printable and escaped."""
    return escape(clean(value))


def legend(keys: Iterable[tuple[str, str]]) -> str:
    """(class of the key, word) of each mark."""
    return (
        '<ul class="legend">'
        + "".join(f'<li><span class="key {style}"></span>{escaped(word)}</li>' for style, word in keys)
        + "</ul>"
    )


def figure(title: str, chart: str, caption: str = "") -> str:
    """A chart with its title; `caption` is markup."""
    tail = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f"<figure><h3>{escaped(title)}</h3>{chart}{tail}</figure>"


def scrolling_table(caption: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are markup already; `head` and `caption` are text. The table scrolls by itself where it is too wide."""
    top = "".join(f'<th scope="col">{escaped(word)}</th>' for word in head)
    body = "\n".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(caption)}">'
        f"<table><caption>{escaped(caption)}</caption><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def cell(words: str, span_columns: int = 1, style: str = "") -> str:
    """One cell of a table."""
    extra = (f' colspan="{span_columns}"' if span_columns > 1 else "") + (f' class="{style}"' if style else "")
    return f"<td{extra}>{escaped(words)}</td>"


def fact_list(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    return (
        '<dl class="facts">'
        + "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(value)}</dd>" for name, value in rows)
        + "</dl>"
    )
