"""The device card on the terminal: what a target can do, each figure with its source."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.text import Text

from ridgepoint.hardware import AttentionLaw, Level, LinearLaw, Target
from ridgepoint.hardware.law import decode_terms, prefill_terms
from ridgepoint.quantity import show, show_bytes, show_time
from ridgepoint.report.grid_terminal import add, grid, heading, line, pairs
from ridgepoint.report.machine_words import machine_facts
from ridgepoint.report.words import ABSENT, clean, factor, given, percent
from ridgepoint.workload.format import format_named

__all__ = ["card"]

_LAYER = 2048
"""The card shows linear kernels on a layer of this many outputs and inputs."""
_LINEAR_NOTE = (
    "cold: weights from memory, hot: from the last-level cache; ±: error at points not fitted; "
    "net: how much slower in a network than alone, included in the rates"
)
_HEADS, _HEAD_DIM, _CONTEXT, _PROMPT = 16, 64, 1024, 256


def card(target: Target) -> RenderableType:
    """Bandwidths, peaks, laws of all kernels as attained rates, dispatch, scaling, self-checks, date and sources."""
    title = Text.assemble((clean(target.name), "bold"), f"  {clean(target.kind)}, {clean(target.date)}")
    parts: list[RenderableType] = [Rule(title, align="left", style="dim"), pairs(_machine(target))]
    if target.levels:
        parts += [_title("bandwidth", target.levels), _levels(target)]
    if target.peaks:
        parts += [
            _title("peak arithmetic", target.peaks),
            pairs((p.dtype, f"{show(p.flops_per_s, 'FLOP/s')}, {p.scope}") for p in target.peaks),
        ]
    if target.linear:
        parts += [_title(f"linear layers, {_LAYER} x {_LAYER}, as inside a network", target.linear), _linear(target)]
        parts.append(line(_LINEAR_NOTE, "dim"))
    if target.attention:
        parts += [_title(f"attention, {_HEADS} heads of {_HEAD_DIM}", target.attention), _attention(target)]
    parts += [heading("dispatch"), line(_dispatch(target))]
    if target.pointwise:
        parts += [_title("pointwise operators", target.pointwise), _pointwise(target)]
    if target.compiled:
        parts += [_title("torch.compile", target.compiled), pairs(_compiled(target))]
    if target.scaling:
        parts += [_title("thread scaling: speed-up over one thread, by rows m", target.scaling), _scaling(target)]
    if target.residency is not None:
        parts += [
            _title("share of bytes that miss the last-level cache, by working set", [target.residency]),
            line(_residency(target)),
        ]
    parts += [heading("self-checks"), pairs(target.checks.items() or [("none", "this target was not calibrated here")])]
    parts += [heading("sources"), pairs(target.sources.items() or [("none", "no source listed")])]
    return Group(*parts)


class _Sourced(Protocol):
    @property
    def source(self) -> str: ...


def _title(text: str, figures: Sequence[_Sourced]) -> RenderableType:
    return Text.assemble(heading(text), (f"  [{clean(', '.join(dict.fromkeys(f.source for f in figures)))}]", "dim"))


def _machine(target: Target) -> Iterator[tuple[str, str]]:
    gpu = target.kind == "gpu"
    told = () if gpu or target.memory_bytes is None else ("memory_total_bytes", "memory_total_gib")
    yield from machine_facts({name: fact for name, fact in target.machine.items() if name not in told})
    if target.cores is not None and "cores" not in target.machine:
        yield "cores", str(target.cores)
    if target.memory_bytes is not None:
        yield "GPU memory" if gpu else "memory", show_bytes(target.memory_bytes)
    if target.machine_id:
        yield "machine id", target.machine_id


def _levels(target: Target) -> RenderableType:
    threads = sorted({level.threads for level in target.levels})
    words = [f"{n} thread{'s' if n > 1 else ''}" for n in threads]
    table = grid(("<level", "size", *(f"{kind}, {word}" for word in words for kind in ("read", "copy"))))
    for name in dict.fromkeys(level.name for level in target.levels):
        rows = {level.threads: level for level in target.levels if level.name == name}
        size = next((level.bytes for level in rows.values() if level.bytes), None)
        rates = [rate for n in threads for rate in _rates(rows.get(n))]
        add(table, name, given(size, show_bytes), *(given(r, lambda r: show(r, "B/s")) for r in rates))
    return table


def _rates(level: Level | None) -> tuple[float | None, float | None]:
    return (None, None) if level is None else (level.read_bytes_per_s, level.copy_bytes_per_s)


def _linear(target: Target) -> RenderableType:
    table = grid(("<kernel", "GB/s", "hot", "GFLOP/s", "hot", "±", "net"))
    for column, head in zip(
        table.columns[1:], ("GB/s\nm=1\ncold", "\n\nhot", "GFLOP/s\nm=64\ncold", "\n\nhot"), strict=False
    ):
        column.header = Text(head)
    laws = sorted(target.linear, key=lambda law: (law.format, law.act, law.rung))
    for form, act in dict.fromkeys((law.format, law.act) for law in laws):
        words = f"csr, {act}, 80 % zeros" if form == "csr" else form if form == act else f"{form}, {act} activations"
        add(table, words, style="bold")
        for law in (law for law in laws if (law.format, law.act) == (form, act)):
            add(table, *_linear_row(law))
    return table


def _linear_row(law: LinearLaw) -> tuple[str, ...]:
    form = format_named(_SPARSE if law.format == "csr" else law.format)
    traffic = float(np.asarray(form.weight_bytes(_LAYER, _LAYER)))
    work = 2.0 * 64 * _LAYER**2 * form.density
    notes = [*(["naive"] if law.rung == "naive" else []), *([f"{law.threads} threads"] if law.threads > 1 else [])]
    return (
        f"  {law.kernel}" + (f" ({', '.join(notes)})" if notes else ""),
        *(f"{traffic / _seconds(law, 1, miss, form.density) / 1e9:.1f}" for miss in (1.0, 0.0)),
        *(f"{work / _seconds(law, 64, miss, form.density) / 1e9:.0f}" for miss in (1.0, 0.0)),
        percent(law.sigma), f"{law.composed:.2f}x",
    )  # fmt: skip


def _seconds(law: LinearLaw, m: float, miss: float, density: float) -> float:
    return max(float(np.asarray(law.seconds(m, _LAYER, _LAYER, miss, density=density))), 1e-12)


_SPARSE = "csr:0.8"
"""Sparse rows are shown at one density: a rate per weight that is stored."""


def _attention(target: Target) -> RenderableType:
    table = grid(("<dtype", f"one token on {_CONTEXT}", f"prompt of {_PROMPT}", "GFLOP/s", "±", "<kernel"))
    for law in target.attention:
        decode, prefill = _attention_seconds(law)
        work = 4.0 * _HEADS * _HEAD_DIM * _PROMPT * (_PROMPT + 1) / 2
        rate = f"{work / prefill / 1e9:.1f}" if prefill > 0 else ABSENT
        add(table, law.dtype, _time(decode), _time(prefill), rate, percent(law.sigma), law.kernel)
    return table


def _attention_seconds(law: AttentionLaw) -> tuple[float, float]:
    kv = 2.0 * _CONTEXT * _HEADS * _HEAD_DIM
    decode = sum(c * t for c, t in zip(law.decode, decode_terms(_HEADS, _CONTEXT, _HEAD_DIM, kv), strict=False))
    pairs_ = _HEADS * _PROMPT * (_PROMPT + 1) / 2
    prefill = sum(c * t for c, t in zip(law.prefill, prefill_terms(_HEADS, _PROMPT, pairs_, _HEAD_DIM), strict=False))
    return float(np.asarray(decode)), float(np.asarray(prefill))


def _time(seconds: float) -> str:
    return show_time(seconds) if seconds > 0 else ABSENT


def _dispatch(target: Target) -> str:
    if target.correction is None:
        return "not measured in a network"
    c = target.correction
    cost = (
        f"{show_time(c.per_call_s)} per operator call" if c.per_call_s > 0 else "no measurable cost per operator call"
    )
    return f"in a network {cost} beyond the operators' own; what remains unexplained: ±{percent(c.sigma)} [{c.source}]"


def _pointwise(target: Target) -> RenderableType:
    table = grid(("<operator", "<dtype", "per call", "per row", "per element", "±"))
    for law in target.pointwise:
        add(table, law.kind, law.dtype, *(_time(term) for term in law.terms), percent(law.sigma))
    return table


def _compiled(target: Target) -> Iterator[tuple[str, str]]:
    for law in target.compiled:
        kept = "saves" if law.kept_call_s < 0 else "costs"
        yield (
            law.dtype,
            f"guards {show_time(law.guard_s)} per step; a fused kernel {show_time(law.fused_call_s)}, "
            f"{1e12 * law.byte_s:.0f} ps a byte and {1e12 * law.flop_s:.0f} ps a FLOP; a call that stays {kept} "
            f"{show_time(abs(law.kept_call_s))} beside its own law; compiling {show_time(law.compile_call_s)} per operator "
            f"call, the compiler's start {show_time(law.compile_s)}; ±{percent(law.sigma)}",
        )


def _scaling(target: Target) -> RenderableType:
    rows = sorted({m for law in target.scaling for m in law.m})
    table = grid(("<subject", "threads", *(f"m={m:.0f}" for m in rows)))
    for law in target.scaling:
        known = dict(zip(law.m, law.speedup, strict=False))
        add(table, law.subject, str(law.threads), *(given(known.get(m), factor) for m in rows))
    return table


def _residency(target: Target) -> str:
    law = target.residency
    assert law is not None, "asked only where there is one"
    return ", ".join(
        f"{show_bytes(size)} {percent(miss)}" for size, miss in zip(law.working_set_bytes, law.miss, strict=False)
    )
