"""One calibration, probe by probe, in the order of what a first answer needs most; yields samples as they come."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ridgepoint.errors import NotSupported
from ridgepoint.measurement.calibrate.attention import attention_samples
from ridgepoint.measurement.calibrate.bandwidth import bandwidth_samples, clock_samples, peak_samples
from ridgepoint.measurement.calibrate.cold_code import cold_code_samples
from ridgepoint.measurement.calibrate.composed import ComposedBench
from ridgepoint.measurement.calibrate.grid import PROBES, LinearProbe
from ridgepoint.measurement.calibrate.linear import LinearBench, residency_samples
from ridgepoint.measurement.calibrate.pointwise import pointwise_samples
from ridgepoint.measurement.calibrate.scaling import scaling_samples

__all__ = ["COMPOSED_SIDES", "ROUNDS", "Settings", "samples"]

COMPOSED_SIDES = (
    "fp32", "bf16", "fp16", "int8", "int8:dyn", "bf16+int8:dyn:token", "fp32+int8:dyn:token", "int4:g32", "nf4",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """What the probes need to know of the machine, and the CPU seconds that each takes at a point, per round."""

    cache_sizes: dict[str, float]
    cores: int
    linear_s: float = 0.012
    slow_s: float = 0.01
    attention_s: float = 0.01
    pointwise_s: float = 0.002
    composed_s: float = 0.07
    bandwidth_s: float = 0.02
    scaling_s: float = 0.05
    cold_visits: int = 5

    @property
    def cache_bytes(self) -> float:
        """The last-level cache; 32 MB where the machine does not say."""
        return max(self.cache_sizes.values(), default=32e6)


ROUNDS = 2
"""Everything is measured twice, half a calibration apart: a neighbour's burst spoils one visit, not both."""


def samples(settings: Settings) -> Iterator[tuple[str, dict[str, Any]]]:
    """(title of the probe, sample) pairs; each sample says its round; the title is what a progress bar shows."""
    import torch

    torch.set_num_threads(1)
    linear: dict[LinearProbe, LinearBench | None] = {}
    nets: dict[str, ComposedBench | None] = {}
    yield from _titled("clock", 0, clock_samples())
    for number in range(ROUNDS):
        for title, source in _round(settings, linear, nets):
            yield from _titled(f"{title}, round {number + 1} of {ROUNDS}", number, source)
    linear.clear()
    nets.clear()
    if settings.cores > 1:
        yield from _titled(
            "threads", 0, scaling_samples(_SCALED, settings.cores, settings.cache_bytes, settings.scaling_s)
        )


_SCALED = tuple(
    p for p in PROBES if p.rung != "naive" and p.format in ("fp32", "bf16", "int8", "int8:dyn", "int4:g32", "nf4")
)


def _round(
    s: Settings, linear: dict[LinearProbe, LinearBench | None], nets: dict[str, ComposedBench | None]
) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    first = not linear
    yield "residency", residency_samples(s.cache_bytes, s.linear_s)
    for probe in PROBES:
        seconds = s.slow_s if probe.rung == "naive" or probe.format == "fp16" else s.linear_s
        yield f"linear {probe.format} {probe.rung} {probe.act}", _linear(probe, linear, s.cache_bytes, seconds)
    for act in ("fp32", "bf16", "fp16"):
        yield f"pointwise {act}", pointwise_samples(act, s.pointwise_s, s.cache_bytes)
        for kernel in _kernels(act, first):
            yield f"attention {kernel} {act}", attention_samples(kernel, act, s.attention_s, s.cache_bytes)
    yield "cold code", cold_code_samples(s.cache_bytes, s.cold_visits)
    for spec in COMPOSED_SIDES:
        yield f"network {spec}", _network(spec, nets, s.composed_s)
    yield "peak", peak_samples(("fp32", "bf16", "fp16", "int8"), 1, s.bandwidth_s)
    for threads in sorted({1, s.cores}):
        yield f"bandwidth, {threads} threads", bandwidth_samples(s.cache_sizes, threads, s.bandwidth_s)


def _kernels(act: str, first: bool) -> tuple[str, ...]:
    """Flash in both rounds; math, and fp16 (slow here, and steady), in the first only."""
    if act == "fp16":
        return ("flash",) if first else ()
    return ("flash", "math") if first else ("flash",)


def _linear(
    probe: LinearProbe, built: dict[LinearProbe, LinearBench | None], cache_bytes: float, seconds: float
) -> Iterator[dict[str, Any]]:
    """The kernel's samples; one that can't run here gives an `absent` sample, once."""
    again = probe in built
    if not again:
        try:
            built[probe] = LinearBench(probe, cache_bytes)
        except (NotSupported, RuntimeError) as reason:  # RuntimeError: torch has the kernel, this machine can't run it
            built[probe] = None
            yield {
                "probe": "linear",
                "format": probe.format,
                "rung": probe.rung,
                "act": probe.act,
                "absent": str(reason),
            }
    bench = built[probe]
    if bench is not None and not (again and probe in _ONCE):
        yield from bench.samples(seconds)


_ONCE = tuple(
    p for p in PROBES if p.rung == "naive" or (p.format, p.act) in (("int4:g128", "bf16"), ("int8:dyn:token", "fp32"))
)
"""Slow ones, and variants of a kernel that is visited twice anyhow."""


def _network(spec: str, built: dict[str, ComposedBench | None], seconds: float) -> Iterator[dict[str, Any]]:
    if spec not in built:
        try:
            built[spec] = ComposedBench(spec)
        except (NotSupported, RuntimeError) as reason:
            built[spec] = None
            yield {"probe": "composed", "side": spec, "absent": str(reason)}
    bench = built[spec]
    if bench is not None:
        yield from bench.samples(seconds, _SLOW_ROWS if spec == "fp16" else _MOST_ROWS)


_MOST_ROWS, _SLOW_ROWS = 512, 24
"""fp16 products are so slow on a CPU without instructions for them that long steps would eat the calibration's time."""


def _titled(title: str, number: int, source: Iterator[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for sample in source:
        yield title, {**sample, "round": number}
