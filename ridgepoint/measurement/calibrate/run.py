"""One calibration, probe by probe, in the order of what a first answer needs most."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ridgepoint.errors import NotSupported
from ridgepoint.measurement.calibrate.attention import attention_samples
from ridgepoint.measurement.calibrate.autograd import autograd_samples
from ridgepoint.measurement.calibrate.bandwidth import bandwidth_samples, clock_samples, peak_samples
from ridgepoint.measurement.calibrate.cold_code import cold_code_samples
from ridgepoint.measurement.calibrate.composed import ComposedBench
from ridgepoint.measurement.calibrate.displacement import code_residency_samples, displacement_samples
from ridgepoint.measurement.calibrate.grid import ORT_PROBES, PROBES, LinearProbe
from ridgepoint.measurement.calibrate.linear import LinearBench, residency_samples
from ridgepoint.measurement.calibrate.modules import conv_samples, far_samples, matmul_samples, module_kind_samples
from ridgepoint.measurement.calibrate.near_code import near_code_samples, near_residency_samples
from ridgepoint.measurement.calibrate.pointwise import pointwise_samples
from ridgepoint.measurement.calibrate.scaling import scaling_samples
from ridgepoint.workload import CACHE_FORMATS

__all__ = ["COMPOSED_SIDES", "ROUNDS", "Settings", "probes"]

COMPOSED_SIDES = (
    "fp32", "bf16", "fp16", "int8", "int8:dyn", "bf16+int8:dyn:token", "fp32+int8:dyn:token", "int4:g32", "nf4",
)  # fmt: skip


Linears = dict[LinearProbe, LinearBench | None]
Nets = dict[str, ComposedBench | None]
"""Benches, built once for all rounds; None where the machine can't run it."""
Probes = Iterator[tuple[str, int, Iterator[dict[str, Any]]]]
"""(title, round, samples)."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the probes need to know of the machine, and the CPU seconds that each takes at a point, per round."""

    cache_sizes: dict[str, float]
    cores: int
    linear_s: float = 0.006
    slow_s: float = 0.006
    residency_s: float = 0.02
    attention_s: float = 0.01
    pointwise_s: float = 0.001
    composed_s: float = 0.035
    bandwidth_s: float = 0.02
    scaling_s: float = 0.05
    stage: str = ""
    """"" is what decoders need; "modules" what other modules need beside it, "compile" what torch.compile costs, "ort" ONNX
    Runtime's linear layers, "train" the operators of a training step, "kv" quantised KV caches, "sparse" weights as compressed
    sparse rows."""
    kv_s: float = 0.002
    conv_s: float = 0.012
    module_s: float = 0.0015
    net_s: float = 0.12
    compiled_s: float = 0.5
    training_s: float = 0.01
    limit_s: float = 76.0
    """Wall time after which no further probe of a later round begins, unless the first round alone took most of it: then the
    others have `later_share` of its time."""
    sparse_limit_s: float = 150.0
    """The same of sparse rows, whose nine rounds are what tells of a neighbour."""
    later_share: float = 0.4
    slow_probe_s: float = 8.0
    """A probe of the base that took longer has no later rounds: its kernel has no instructions here, is slow and steady."""
    cold_visits: int = 5
    residency_visits: int = 9
    displacement_visits: int = 5
    near_visits: int = 15

    @property
    def cache_bytes(self) -> float:
        """The last-level cache; 32 MB where the machine does not say."""
        return max(self.cache_sizes.values(), default=32e6)

    @property
    def near_bytes(self) -> float:
        """The second-level cache; 1 MB where the machine does not say."""
        return self.cache_sizes.get("L2", 1e6)

    @property
    def first_bytes(self) -> float:
        """The first-level cache of data; 32 KB where the machine does not say."""
        return self.cache_sizes.get("L1d", 32768.0)


ROUNDS = 3
"""Most is measured in every round, a third of a calibration apart: a neighbour's burst spoils one visit, rarely two."""


def probes(
    settings: Settings, done: Mapping[str, float] | None = None
) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """(title, samples) of each probe whose title is not in `done` (title -> seconds that it took); each sample says its round.

    The title is what a progress bar shows. A probe of a later round for which there is no time is one sample that says so.
    """
    import torch

    torch.set_num_threads(1)
    linear: dict[LinearProbe, LinearBench | None] = {}
    nets: dict[str, ComposedBench | None] = {}
    budget, done = _Budget(settings), done or {}
    for title, number, source in _probes(settings, linear, nets):
        if title in done:
            budget.spend(title, number, done[title])
            continue
        source = budget.clocked(title, number, source)
        yield title, ({**sample, "round": number} for sample in source)


class _Budget:
    """Which probes of later rounds there is time for, by the clock of the wall; a resumed calibration goes on with its own."""

    def __init__(self, settings: Settings):
        self._settings, self._spent_s, self._first_s = settings, 0.0, 0.0
        self._slow: set[str] = set()

    def clocked(self, title: str, number: int, source: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The probe's samples, or the one sample that says that it was left out."""
        begin, s = time.monotonic(), self._settings
        least = s.sparse_limit_s if s.stage == "sparse" else s.limit_s
        limit = max(least, (1.0 + s.later_share) * self._first_s)
        if number > 0 and (_name(title) in self._slow or self._spent_s > limit):
            yield {"probe": "left out", "of": title}
            return
        yield from source
        self.spend(title, number, time.monotonic() - begin)

    def spend(self, title: str, number: int, seconds: float) -> None:
        """Count a finished probe."""
        self._spent_s += seconds
        if number == 0:
            self._first_s = self._spent_s
            if not self._settings.stage and seconds > self._settings.slow_probe_s:
                self._slow.add(_name(title))


def _name(title: str) -> str:
    return title.partition(", round")[0]


def _probes(settings: Settings, linear: Linears, nets: Nets) -> Probes:
    if settings.stage == "modules":
        for number in range(ROUNDS):
            for title, source in _modules(settings, number):
                yield f"{title}, round {number + 1} of {ROUNDS}", number, source
        return
    if settings.stage == "compile":
        from ridgepoint.measurement.calibrate.attention import flex_samples
        from ridgepoint.measurement.calibrate.compiled import chain_samples, first_compilation_samples, stack_samples

        yield "compile, the first time", 0, first_compilation_samples(settings.compiled_s, settings.cache_bytes)
        for act in ("fp32", "bf16"):
            yield f"compiled stacks {act}", 0, stack_samples(act, settings.compiled_s)
            yield f"fused kernels {act}", 0, chain_samples(act, settings.compiled_s, settings.cache_bytes)
            yield f"attention flex {act}", 0, flex_samples(act, settings.compiled_s, settings.cache_bytes)
        return
    if settings.stage == "train":
        for number in range(_TRAINING_ROUNDS):
            for title, source in _training(settings, number):
                yield f"{title}, round {number + 1} of {_TRAINING_ROUNDS}", number, source
        return
    if settings.stage == "ort":
        for number in range(ROUNDS):
            for title, source in _ort(settings, number, linear, nets):
                yield f"{title}, round {number + 1} of {ROUNDS}", number, source
        return
    if settings.stage == "kv":
        for number in range(ROUNDS):
            for title, source in _kv(settings):
                yield f"{title}, round {number + 1} of {ROUNDS}", number, source
        return
    if settings.stage == "sparse":
        for number in range(_SPARSE_ROUNDS):
            for title, source in _sparse(settings):
                yield f"{title}, round {number + 1} of {_SPARSE_ROUNDS}", number, source
        return
    yield "clock", 0, clock_samples()
    for number in range(ROUNDS):
        for title, source in _round(settings, number, linear, nets):
            yield f"{title}, round {number + 1} of {ROUNDS}", number, source
    linear.clear()
    nets.clear()
    if settings.cores > 1:
        yield "threads", 0, scaling_samples(_SCALED, settings.cores, settings.cache_bytes, settings.scaling_s)


_SCALED = tuple(
    p for p in PROBES if p.rung != "naive" and p.format in ("fp32", "bf16", "int8", "int8:dyn", "int4:g32", "nf4")
)


def _round(s: Settings, number: int, linear: Linears, nets: Nets) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    even = number % 2 == 0
    yield "residency", residency_samples(s.cache_bytes, s.residency_s)
    for probe in PROBES:
        seconds = s.slow_s if probe.rung == "naive" or probe.format == "fp16" else s.linear_s
        yield f"linear {probe.format} {probe.rung} {probe.act}", _linear(probe, linear, s, seconds, number)
    for act in ("fp32", "bf16", "fp16"):
        yield f"pointwise {act}", pointwise_samples(act, s.pointwise_s, s.cache_bytes)
        for kernel in _kernels(act, number):
            yield f"attention {kernel} {act}", attention_samples(kernel, act, s.attention_s, s.cache_bytes)
    if even:
        yield "cold code", cold_code_samples(s.cache_bytes, s.cold_visits)
        yield "code residency", code_residency_samples(s.cache_bytes, s.residency_visits)
    for spec in COMPOSED_SIDES:
        yield f"network {spec}", _network(spec, nets, s.composed_s, number)
    if even:
        yield "peak", peak_samples(("fp32", "bf16", "fp16", "int8"), 1, s.bandwidth_s)
        for threads in sorted({1, s.cores}):
            yield f"bandwidth, {threads} threads", bandwidth_samples(s.cache_sizes, threads, s.bandwidth_s)


def _ort(s: Settings, number: int, linear: Linears, nets: Nets) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """ONNX Runtime's linear layers, alone and in networks."""
    for probe in ORT_PROBES:
        yield f"linear {probe.format} {probe.rung} {probe.act}", _linear(probe, linear, s, s.linear_s, number)
    for spec in ORT_SIDES:
        yield f"network {spec}", _network(spec, nets, s.composed_s, number)


def _kv(s: Settings) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """A KV cache in each format."""
    from ridgepoint.measurement.calibrate.kv_cache import kv_cache_samples

    for format in CACHE_FORMATS:
        for act in ("fp32", "bf16"):
            yield f"KV cache {format} {act}", kv_cache_samples(format, act, s.kv_s, s.cache_bytes)


def _sparse(s: Settings) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """Products of sparse rows, and the dense ones that they are compared with. No networks: what surrounds a layer there
    surrounds it in these probes, and networks told nothing of rows but their own noise."""
    from ridgepoint.measurement.calibrate.sparse import reference_samples, sparse_samples

    yield "dense rows beside them", reference_samples(s.linear_s, s.cache_bytes)
    yield "sparse rows", sparse_samples(s.linear_s, s.cache_bytes, s.near_bytes, s.first_bytes)


_SPARSE_ROUNDS = 9
"""Single visits are 20 % apart on a shared machine, and no other figure tells of it."""


def _training(s: Settings, number: int) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """Operators of a training step forward and backward, and whole steps of small nets; the second time what is cheap."""
    from ridgepoint.measurement.calibrate.training import training_probes
    from ridgepoint.measurement.calibrate.training_nets import training_net_samples

    cheap = ("training products fp32", "adapters' products fp32", "training attention fp32")
    yield from (probe for probe in training_probes(s.training_s, s.cache_bytes) if not number or probe[0] in cheap)
    for act in ("fp32", "bf16")[: 2 - number]:
        yield f"training nets {act}", training_net_samples(act, 15 * s.training_s)


_TRAINING_ROUNDS = 2


ORT_SIDES = ("int8:dyn:ort", "int4:g32:ort")


def _modules(s: Settings, number: int) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """What modules beyond decoders are made of; tensors beyond the cache in the first and the last round."""
    from ridgepoint.measurement.calibrate.module_nets import module_net_samples  # it is torch from its first line

    yield "autograd", autograd_samples(s.net_s)
    yield "second-level cache", near_residency_samples(s.cache_bytes, s.near_visits)
    for act in ("fp32", "bf16"):
        for layout in ("", "last"):
            yield f"convolution {act} {layout or 'first'}", conv_samples(act, layout, s.conv_s, s.cache_bytes)
        yield f"matmul {act}", matmul_samples(act, s.conv_s, s.cache_bytes)
        yield f"kinds {act}", module_kind_samples(act, s.module_s, s.cache_bytes)
        yield f"near code {act}", near_code_samples(act, s.cache_bytes, s.near_visits)
        yield f"networks {act}", module_net_samples(act, s.net_s)
        if number % 2 == 0:
            yield f"large tensors {act}", far_samples(act, s.module_s, s.cache_bytes)


def _kernels(act: str, number: int) -> tuple[str, ...]:
    """Flash in two rounds; math, and fp16 (slow here, and steady), in the first only."""
    if number % 2 or (act == "fp16" and number):
        return ()
    return ("flash",) if number or act == "fp16" else ("flash", "math")


def _linear(probe: LinearProbe, built: Linears, s: Settings, seconds: float, number: int) -> Iterator[dict[str, Any]]:
    """The kernel's samples; one that can't run here gives an `absent` sample, in the first round."""
    if probe in _SELDOM and number % 2:
        return
    if probe not in built:
        try:
            built[probe] = LinearBench(probe, s.cache_bytes)
        except (NotSupported, RuntimeError) as reason:  # RuntimeError: torch has the kernel, this machine can't run it
            built[probe] = None
            if number == 0:
                which = {"format": probe.format, "rung": probe.rung, "act": probe.act}
                yield {"probe": "linear", **which, "absent": str(reason)}
    bench = built[probe]
    if bench is not None:
        yield from bench.samples(seconds)
        if number % 2 == 0:
            yield from displacement_samples(bench, s.cache_bytes, s.displacement_visits)


_SELDOM = tuple(
    p for p in PROBES if p.rung == "naive" or (p.format, p.act) in (("int4:g128", "bf16"), ("int8:dyn:token", "fp32"))
)
"""Slow ones, and variants of a kernel that is visited anyhow: in the first and the last round."""


def _network(spec: str, built: Nets, seconds: float, number: int) -> Iterator[dict[str, Any]]:
    if spec not in built:
        try:
            built[spec] = ComposedBench(spec)
        except (NotSupported, RuntimeError) as reason:
            built[spec] = None
            if number == 0:
                yield {"probe": "composed", "side": spec, "absent": str(reason)}
    bench = built[spec]
    if bench is not None:
        most = _MOST_ROWS.get(spec, 512)
        yield from bench.samples(seconds, min(most, _SHORT_ROWS) if number % 2 else most)


_SHORT_ROWS = 24
_MOST_ROWS = {"fp16": 24, "int8": 128, "int4:g32": 128, "nf4": 128}
"""Kernels made for few rows, and fp16 without instructions for it, would eat the calibration's time in long steps."""
