"""Loaded servers as terminal tables: a row for each number of users, a table for each target, and the SLO's frontier."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.rule import Rule
from rich.text import Text

from ridgepoint.quantity import show, show_time
from ridgepoint.report.grid_terminal import add, grid, heading, line, pairs
from ridgepoint.report.words import ABSENT, clean
from ridgepoint.result import Value
from ridgepoint.study.serving import LoadAnswer, LoadRow, OnTarget

__all__ = ["load_table"]

_WIDE = 116


def load_table(answer: LoadAnswer) -> RenderableType:
    """Users, running batch, TTFT, TPOT, throughput and what bounds them; rows outside the SLO are marked."""
    return _Table(answer)


class _Table:
    def __init__(self, answer: LoadAnswer):
        self._answer = answer

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        answer = self._answer
        wide = options.max_width >= _WIDE
        asked = answer.asked
        what = f"  {clean(answer.model)}, prompts {asked['isl']}, answers {asked['osl']}, {asked['with']}, {asked['stack']}"
        yield Rule(Text.assemble(("loaded server, predicted", "bold"), what), align="left", style="dim")
        for on in answer.on:
            yield heading(_title(on, asked["devices"]))
            yield _rows(answer, on, wide)
            cost = _cost(on)
            if cost is not None:
                yield line("")
                yield cost
        if answer.slo:
            yield heading(f"most users within {_slo_words(answer)}")
            yield _frontier(answer)
        yield heading("how to read it")
        yield pairs(_notes(answer))
        for on in answer.on:
            for note in on.notes:
                yield line(f"! {on.target}: {note}", "yellow")
        for name in answer.not_modelled:
            yield line(f"! {answer.model}: {name} is not modelled", "yellow")


def _title(on: OnTarget, devices: str) -> str:
    many = "" if on.devices == 1 else f" x {devices}"
    return f"{on.target}{many}: room for {on.slots} sequences ({on.limited_by})"


def _rows(answer: LoadAnswer, on: OnTarget, wide: bool) -> RenderableType:
    names = ["users", "running", "TTFT", "80 %", "TPOT", "80 %", *(["latency"] if wide else []), "tokens/s", "<bound"]
    table = grid([*names, *(["<SLO"] if answer.slo else [])])
    for row in on.rows:
        within = ["yes" if row.within_slo else "no"] if answer.slo else []
        add(table, *_cells(row, wide), *within, style="" if row.within_slo else "dim")
    return table


def _cells(row: LoadRow, wide: bool) -> list[str]:
    ttft, tpot, latency, rate = (row.values[x] for x in ("ttft", "tpot", "latency", "tokens_per_s"))
    spans = [_span(ttft), _span(tpot)] if wide else [f"x/{x.high / x.value:.2f}" for x in (ttft, tpot)]
    times = [show_time(ttft.value), spans[0], show_time(tpot.value), spans[1]]
    times += [show_time(latency.value)] if wide else []
    return [str(row.users), f"{row.running:.3g}", *times, f"{rate.value:.4g}", row.bound]


def _cost(on: OnTarget) -> RenderableType | None:
    """What a device makes and what a million tokens take, where there is more to say than the table above has."""
    powered = any(row.joules_per_million_tokens is not None for row in on.rows)
    if on.devices == 1 and on.price is None and not powered:
        return None
    money = [f"{on.price.currency} per million tokens"] if on.price else []
    table = grid(
        ["users", "tokens/s per device", *money, *(["energy per million tokens (model)", "80 %"] if powered else [])]
    )
    for row in on.rows:
        cells = [_amount(row.price_per_million_tokens)] if on.price else []
        cells += _energy(row.joules_per_million_tokens) if powered else []
        add(table, str(row.users), f"{row.tokens_per_s_per_device:.4g}", *cells, style="" if row.within_slo else "dim")
    return table


def _span(value: Value) -> str:
    return f"{show_time(value.low)}–{show_time(value.high)}"


def _amount(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3g}"


def _energy(value: Value | None) -> list[str]:
    if value is None:
        return [ABSENT, ABSENT]
    return [show(value.value, "J"), f"x/{value.high / value.value:.2f}"]


def _slo_words(answer: LoadAnswer) -> str:
    return ", ".join(
        f"{metric.upper() if len(metric) == 4 else metric} <= {show_time(x)}" for metric, x in answer.slo.items()
    )


def _frontier(answer: LoadAnswer) -> RenderableType:
    table = grid(["<target", "users", "TTFT", "TPOT", "tokens/s", "per device", "<bound", "per Mtoken"])
    best = max((on.best.tokens_per_s_per_device for on in answer.on if on.best), default=0.0)
    for on in answer.on:
        row = on.best
        if row is None:
            add(table, on.target, ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, "one user is too many", ABSENT)
            continue
        cost = (
            ABSENT
            if row.price_per_million_tokens is None
            else f"{_amount(row.price_per_million_tokens)} {on.price.currency}"
        )  # type: ignore[union-attr]
        add(
            table, on.target, str(row.users), show_time(row.values["ttft"].value), show_time(row.values["tpot"].value),
            f"{row.values['tokens_per_s'].value:.4g}", f"{row.tokens_per_s_per_device:.4g}", row.bound, cost,
            style="bold" if len(answer.on) > 1 and row.tokens_per_s_per_device == best else "",
        )  # fmt: skip
    return table


def _notes(answer: LoadAnswer) -> list[tuple[str, str]]:
    rows = [
        ("protocol", answer.protocol),
        ("rounds", f"{answer.asked['rounds']} requests of each user"),
        ("80 %", "interval that holds 80 % of measured servers, by configurations that the fit had not seen; x/1.5 is from "
         "1/1.5 to 1.5 times the value"),
        ("bound", "what sets the pace: of a decode step memory, compute, network or dispatch (what each kernel takes however "
         "small); host, prompts of others, slots, front end"),
    ]  # fmt: skip
    rows += [(f"basis, {on.target}", _basis(on)) for on in answer.on]
    rows += [(f"energy, {on.target}", row.joules_per_million_tokens.method) for on in answer.on for row in on.rows[:1]
             if row.joules_per_million_tokens]  # fmt: skip
    return rows + [(f"price, {on.target}", on.price.words(answer.today)) for on in answer.on if on.price]


def _basis(on: OnTarget) -> str:
    elsewhere: Sequence[str] = on.steps
    return on.basis + (f"; here another {', '.join(elsewhere)}" if elsewhere else "")
