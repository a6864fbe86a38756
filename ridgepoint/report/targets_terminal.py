"""The list of targets on the terminal, and the card of one that is known from its datasheet, each figure with its source."""

from collections.abc import Callable, Mapping, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.rule import Rule
from rich.text import Text

from ridgepoint.hardware import FIGURES, Figure, Target
from ridgepoint.quantity import show, show_bytes, show_time
from ridgepoint.report.grid_terminal import add, grid, heading, line, pairs
from ridgepoint.report.words import ABSENT, clean, given
from ridgepoint.study.targets import TargetLine, checked_words

__all__ = ["datasheet_card", "figures_table", "source_list", "targets_table"]

_WIDE, _NARROW = 110, 90


def targets_table(lines: Sequence[TargetLine]) -> RenderableType:
    """One row for each target; on a narrow terminal without release and power, on a very narrow one without class."""
    return _Table(lines)


class _Table:
    def __init__(self, lines: Sequence[TargetLine]):
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide, narrow = options.max_width >= _WIDE, options.max_width < _NARROW
        middle = ["memory", "bandwidth", "16-bit, dense"]
        names = ["<target", "<class", *(["release", *middle, "TDP"] if wide else middle), "<checked"]
        table = grid([name for name in names if not (narrow and name == "<class")])
        for x in self._lines:
            cells = [x.name] if narrow else [x.name, x.arch or x.kind]
            cells += [x.release or ABSENT] if wide else []
            cells += [
                given(x.memory_bytes, show_bytes), given(x.dram_bytes_per_s, lambda v: show(v, "B/s")),
                given(x.flops_per_s, lambda v: show(v, "FLOP/s")),
            ]  # fmt: skip
            cells += [given(x.tdp_w, lambda v: f"{v:.0f} W")] if wide else []
            add(table, *cells, x.checked)
        yield table
        yield line("`ridge targets NAME` shows one with all its figures, --source what they were read from", "dim")


_SHOWN: dict[str, Callable[[float], str]] = {
    "boost_clock_hz": lambda v: show(v, "Hz", 4), "base_clock_hz": lambda v: show(v, "Hz", 4),
    "tensor_clock_hz": lambda v: show(v, "Hz", 4), "shared_memory_bytes": show_bytes, "tdp_w": lambda v: f"{v:.0f} W",
    "link_bytes_per_s": lambda v: show(v, "B/s"), "pcie_bytes_per_s": lambda v: show(v, "B/s"),
    "switch_latency_s": show_time,
}  # fmt: skip


def datasheet_card(target: Target) -> RenderableType:
    """Every figure with its scope and the key of its source; what no source states is shown as absent."""
    title = Text.assemble((clean(target.name), "bold"), f"  {clean(target.kind)}, class {clean(target.arch)}")
    return Group(
        Rule(title, align="left", style="dim"),
        pairs([("checked", checked_words(target)), ("read", target.date), ("also called", ", ".join(target.aliases) or ABSENT),
               ("memory", given(target.memory_bytes, show_bytes)),
               *((fact.name, f"{fact.text}  [{fact.source}]") for fact in target.facts)]),
        heading("peak arithmetic"), _peaks(target),
        heading("memory levels"), _levels(target),
        heading("figures"), figures_table(FIGURES, target.figures, _SHOWN, lambda v: f"{v:g}"),
        heading("sources"), pairs(target.sources.items()),
    )  # fmt: skip


def source_list(target: Target) -> RenderableType:
    """What each figure was read from, in full."""
    return pairs(target.sources.items())


def _peaks(target: Target) -> RenderableType:
    table = grid(("<dtype", "<unit", "rate", "<zeros", "<scope", "<source"))
    for p in target.peaks:
        add(
            table,
            p.dtype,
            p.unit or ABSENT,
            show(p.flops_per_s, "FLOP/s", 4),
            "2:4" if p.sparse else "dense",
            p.scope,
            p.source,
        )
    return table


def _levels(target: Target) -> RenderableType:
    table = grid(("<level", "size", "read", "<source"))
    for x in target.levels:
        add(table, x.name, given(x.bytes, show_bytes), given(x.read_bytes_per_s, lambda v: show(v, "B/s")), x.source)
    return table


def figures_table(
    meanings: Mapping[str, str], figures: Sequence[Figure], shown: Mapping[str, Callable[[float], str]],
    otherwise: Callable[[float], str],
) -> RenderableType:  # fmt: skip
    """A row for each figure that there could be, `shown` by its name or `otherwise`; absent ones are said to be."""
    table = grid(("<figure", "value", "<scope", "<source", "<meaning"))
    known = {figure.name: figure for figure in figures}
    for name, meaning in meanings.items():
        figure = known.get(name)
        if figure is None:
            add(table, name, ABSENT, "absent", "", meaning, style="dim")
        else:
            add(table, name, shown.get(name, otherwise)(figure.value), figure.scope, figure.source, meaning)
    return table
