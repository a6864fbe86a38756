"""What fits, on the terminal: an account with a column for each target, the limits, what to change, what was assumed."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from ridgepoint.report.grid_terminal import add, grid, heading, line, pairs
from ridgepoint.report.words import ABSENT, clean
from ridgepoint.study.fit_memory import Fit, OnTarget
from ridgepoint.study.fit_request import Outcome

__all__ = ["fit_table"]

_LIMITS = {
    "context": "longest context",
    "users": "most users",
    "micro_batch": "largest micro-batch",
    "seq": "longest sequences",
}
_COUNTS = {"context": "most --ctx", "users": "most --users", "micro_batch": "most --micro-batch", "seq": "most --seq"}
_GIB = 2.0**30


def fit_table(fit: Fit) -> RenderableType:
    """Rows of bytes by group, their sum against the memory, the limits, changes by target, assumptions with sources."""
    parts: list[RenderableType] = [*_head(fit), _account(fit), heading("how far it goes"), _limits(fit)]
    for on in fit.on:
        parts += _changes(on, fit)
    notes = [*(note for on in fit.on for note in on.notes), *(f"not modelled: {x}" for x in fit.not_modelled)]
    parts += [line(f"! {note}", "yellow") for note in notes]
    parts += [heading("assumed, and the flag that sets it"), pairs(_assumed(fit))]
    return Group(*parts)


def _head(fit: Fit) -> Iterator[RenderableType]:
    a = fit.asked
    if fit.kind == "serving":
        what = f"{a['users']} user{'s' if a['users'] != '1' else ''} of {a['ctx']} tokens"
        how = f"{a['with']}, KV cache {a['kv_dtype']}, steps of {a['chunk']} tokens"
    else:
        what = f"training, {a['micro_batch']} x {a['seq']} tokens"
        how = f"{a['train']}, computed in {a['with']}, trained {a['param_dtype']}, {a['optimizer']}, ZeRO {a['zero']}, "
        how += f"recompute {a['recompute']}"
    yield Rule(Text.assemble(("fit", "bold"), f"  {clean(fit.model)}, {clean(what)}"), align="left", style="dim")
    yield line(f"{how}; {fit.split}", "dim")


def _account(fit: Fit) -> RenderableType:
    table = grid(("<GiB on one device", "<as", *(on.target for on in fit.on)))
    rows: dict[tuple[str, str], dict[int, tuple[str, float]]] = {}
    for column, on in enumerate(fit.on):
        for item in on.outcome.need.items:
            rows.setdefault((item.group, item.name), {})[column] = (item.about, float(item.bytes))
    groups = tuple(dict.fromkeys(group for group, _ in rows))
    for group in groups:
        of_group = {name: cells for (g, name), cells in rows.items() if g == group}
        if len(of_group) > 1:
            sums = [float(on.outcome.need.group_bytes(group)) for on in fit.on]
            add(table, group, "", *(_gib(x) for x in sums))
        for name, cells in of_group.items():
            about = ", ".join(dict.fromkeys(words for words, _ in cells.values()))
            label = f"  {name}" if len(of_group) > 1 else f"{group}: {name}"
            values = (cells.get(column) for column in range(len(fit.on)))
            add(table, label, about, *(ABSENT if v is None else _gib(v[1]) for v in values), style="dim")
    table.add_section()
    totals = [on.outcome for on in fit.on]
    add(table, "sum", _stage(fit), *(_gib(float(o.need.total_bytes)) for o in totals))
    add(table, "usable", "memory less reserve", *(_gib(o.usable_bytes) for o in totals))
    add(table, "memory", "", *(_gib(on.memory_bytes) for on in fit.on))
    add(table, "fits", "", *("yes" if o.fits else "no" for o in totals))
    add(table, "to spare", "", *(_signed_gib(o.spare_bytes) for o in totals))
    return table


def _stage(fit: Fit) -> str:
    if fit.split.pp == 1:
        return ""
    stages = dict.fromkeys(str(on.outcome.need.stage + 1) for on in fit.on)
    return f"fullest stage, {' or '.join(stages)} of {fit.split.pp}"


def _gib(count: float) -> str:
    """GiB with two decimals, or with what a small row needs to be seen."""
    value = count / _GIB
    if value == 0:
        return "0"
    return f"{value:.2f}" if abs(value) >= 0.005 else "<0.01"


def _signed_gib(count: float) -> str:
    return f"{count / _GIB:+.2f}"


def _limits(fit: Fit) -> RenderableType:
    table = grid(("<all else as asked", *(on.target for on in fit.on)))
    for name, words in _LIMITS.items():
        if name in fit.on[0].outcome.limits:
            add(table, f"{words}{_beside(name, fit)}", *(_limit(name, on.outcome) for on in fit.on))
    return table


def _beside(name: str, fit: Fit) -> str:
    a = fit.asked
    return {
        "context": f" of {a.get('users')} users", "users": f" of {a.get('ctx')} tokens",
        "micro_batch": f" of {a.get('seq')} tokens", "seq": f" in a micro-batch of {a.get('micro_batch')}",
    }[name]  # fmt: skip


def _limit(name: str, outcome: Outcome) -> str:
    value = outcome.limits[name]
    if value == 0:
        return "none"
    return f"{value} (all)" if value >= outcome.ends[name] else str(value)


def _changes(on: OnTarget, fit: Fit) -> list[RenderableType]:
    if on.outcome.fits:
        return []
    if not on.changes:
        return [line(f"{on.target}: no single change helps", "yellow")]
    fitting = any(change.outcome.fits for change in on.changes)
    title = f"to fit on {on.target}, the cheapest first" if fitting else f"nothing fits on {on.target}; the nearest"
    names = [name for name in _LIMITS if name in on.outcome.limits]
    table = grid(("<with", "GiB to spare", *(_COUNTS[name] for name in names)))
    for change in on.changes:
        limits = (_limit(name, change.outcome) for name in names)
        add(table, change.flags, _signed_gib(change.outcome.spare_bytes), *limits)
    return [heading(title), table]


def _assumed(fit: Fit) -> Iterator[tuple[str, str]]:
    for flag, value, source in fit.assumed:
        yield f"{flag} {value:g}", source
