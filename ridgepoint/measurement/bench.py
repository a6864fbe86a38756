"""The bench inside the child process: keeps built models, answers each request with messages as they come."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec

from ridgepoint.measurement.busy import check_wall, load_between, snapshot
from ridgepoint.measurement.clock import Clock, CudaEvents, ThreadCpu, Wall
from ridgepoint.measurement.energy import probe
from ridgepoint.measurement.joules import energy_per_step
from ridgepoint.measurement.leaves import LeafRows
from ridgepoint.measurement.memory import peak_bytes, reset_peak, resident_bytes
from ridgepoint.measurement.paired import Budget, interleave, single
from ridgepoint.measurement.request import (
    AccuracyRequest,
    CalibrationRequest,
    CurveRequest,
    MixedRequest,
    PairRequest,
    SideRequest,
    SingleRequest,
    TasksRequest,
    TraceRequest,
)
from ridgepoint.measurement.runnable import Runnable, Weights, build_weights, runnable
from ridgepoint.measurement.tensors import activation_bytes, stored_bytes

if TYPE_CHECKING:
    from ridgepoint.measurement.mixed import Layers
    from ridgepoint.measurement.module_rows import ModuleRows

__all__ = ["Bench"]

_KEPT_MODELS = 2


class Bench:
    """Holds the models of the last two sides, so that the next batch does not build them again."""

    def __init__(self) -> None:
        import torch  # noqa: F401  # its own memory is there before the first model and is not counted

        self._without_models = resident_bytes()
        self._models: dict[tuple[Any, ...], Weights] = {}
        self._layers: tuple[bytes, Layers] | None = None

    def pair(self, request: PairRequest) -> Iterator[dict[str, Any]]:
        """Messages `stage`… and one `done` with the paired comparison, its clock, load and peak memory."""
        _forget_compiled(request.a, request.b)
        yield {"kind": "stage", "text": "building a"}
        a = self._runnable(request, request.a)
        yield {"kind": "stage", "text": "building b"}
        b = self._runnable(request, request.b)
        clock = _clock(request, request.a, request.b)
        reset_peak(request.a.device)
        yield {"kind": "stage", "text": "measuring"}
        calls = max(a.calls, b.calls)
        step_a, step_b = _repeated(a, calls), _repeated(b, calls)
        slow_b = step_b if request.slow_b == 1.0 else _slowed(b, clock, request.slow_b)
        before = snapshot()
        paired = interleave(step_a, slow_b, clock, Budget(seconds=request.seconds), renew=_renewal(a, b))
        load = load_between(before, snapshot())
        if isinstance(clock, Wall):
            check_wall(load)
        yield {
            "kind": "done", "paired": _per_step(asdict(paired), calls), "half_width": paired.half_width,
            "clock": clock.name,
            "load": load.describe(), "tokens_a": a.tokens, "tokens_b": b.tokens, "random": a.random,
            "peak_memory_bytes": self._peak(request.a.device), "flags": [*a.flags, *b.flags],
            "held": {side: run.held() for side, run in (("a", a), ("b", b)) if run.held is not None},
            "zeros": {side: run.zeros for side, run in (("a", a), ("b", b)) if run.zeros is not None},
            "compile_s": {side: run.compile_s for side, run in (("a", a), ("b", b)) if run.compile_s is not None},
            **_energy({"a": step_a, "b": step_b}, calls, request.a.device, request.energy_s),
        }  # fmt: skip

    def single(self, request: SingleRequest) -> Iterator[dict[str, Any]]:
        """Messages `stage`… and one `done` with the step's time, the operators' times and the peak memory."""
        _forget_compiled(request.a)
        yield {"kind": "stage", "text": "building"}
        run = self._runnable(request, request.a)
        clock = _clock(request, request.a)
        reset_peak(request.a.device)
        held = resident_bytes(request.a.device)
        yield {"kind": "stage", "text": "measuring"}
        before = snapshot()
        rows = None if run.untimed else _rows(run, clock)
        timing = single(run.call, clock, Budget(seconds=request.seconds), rows.step if rows else None)
        ops = rows.seconds(timing.p20_s / run.calls) if rows else None
        load = load_between(before, snapshot())
        if isinstance(clock, Wall):
            check_wall(load)
        yield {
            "kind": "done", "single": _per_step(asdict(timing), run.calls), "ops": ops, "clock": clock.name,
            "load": load.describe(), "tokens": run.tokens, "random": run.random,
            "resident_bytes": self._peak("cpu") if request.a.device == "cpu" else None,
            "memory_bytes": _held(run, request.a.device, held),
            "flags": [*([run.untimed] if run.untimed else []), *run.flags], "compile_s": run.compile_s,
            **_energy({"": run.call}, run.calls, request.a.device, request.energy_s),
        }  # fmt: skip

    def trace(self, request: TraceRequest) -> Iterator[dict[str, Any]]:
        """One `done` with the workload."""
        from ridgepoint.measurement.trace.trace import trace_file

        traced = trace_file(request.path, request.name, request.dtypes)
        yield {"kind": "done", "traced": msgspec.to_builtins(traced)}

    def accuracy(self, request: AccuracyRequest) -> Iterator[dict[str, Any]]:
        """A `window` message per window of the text; then `done`."""
        from ridgepoint.measurement.accuracy import window_losses

        self._models.clear()  # room for all sides at once
        with _all_cores():
            yield from window_losses(request)

    def mixed(self, request: MixedRequest) -> Iterator[dict[str, Any]]:
        """An `assignment` message for each assignment; then `done`. The converted layers are kept for the next request."""
        from ridgepoint.measurement.mixed import build_layers, mixed_losses

        key = msgspec.json.encode(msgspec.structs.replace(request, assignments=()))
        with _all_cores():
            if self._layers is None or self._layers[0] != key:
                self._models.clear()
                self._layers = key, build_layers(request)
            yield from mixed_losses(self._layers[1], request)

    def curve(self, request: CurveRequest) -> Iterator[dict[str, Any]]:
        """A `curve` message per side and seed; then `done`."""
        from ridgepoint.measurement.curve import curve_losses

        self._models.clear()
        yield from curve_losses(request)

    def tasks(self, request: TasksRequest) -> Iterator[dict[str, Any]]:
        """Per task a `task` message, then an `item` message per item; then `done`."""
        from ridgepoint.measurement.tasks import task_items

        self._models.clear()
        yield from task_items(request)

    def calibrate(self, request: CalibrationRequest) -> Iterator[dict[str, Any]]:
        """A `sample` message per sample, on the CPU between `begin` and `end` of its probe; then `done`."""
        before = snapshot()
        yield from _gpu_stage(request) if request.device == "cuda" else _cpu_probes(request)
        yield {"kind": "done", "load": load_between(before, snapshot()).describe()}

    def _peak(self, device: str) -> int:
        """Peak of this request, less what the process held before its first model."""
        return peak_bytes(device) - (self._without_models if device == "cpu" else 0)

    def _runnable(self, request: PairRequest | SingleRequest, which: SideRequest) -> Runnable:
        workload, side, step = request.workload(), which.side(), request.step.step()
        weights_spec = "+".join(c.spelled for c in side.choices if c.AXIS not in ("batch", "launch", "threads"))
        longest = max(int(g.context) for g in step.groups)
        key = (
            msgspec.json.encode(workload),
            weights_spec,
            which.device,
            longest,
            tuple(sorted(which.kernels.items())),
            request.directory,
        )
        weights = self._models.pop(key, None)
        if weights is None:
            while len(self._models) >= _KEPT_MODELS:
                self._models.pop(next(iter(self._models)))
            weights = build_weights(workload, side, step, which.kernels, request.directory, request.cache_bytes)
        self._models[key] = weights
        return runnable(workload, side, step, weights, request.cache_bytes)


@contextmanager
def _all_cores() -> Iterator[None]:
    """As many threads as there are cores, for work that is not timed."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cpu_probes(request: CalibrationRequest) -> Iterator[dict[str, Any]]:
    from ridgepoint.measurement.calibrate.run import Settings, probes

    for title, samples in probes(Settings(request.cache_sizes, request.cores, stage=request.stage), request.done):
        yield {"kind": "begin", "title": title}
        for sample in samples:
            yield {"kind": "sample", "title": title, "sample": sample}
        yield {"kind": "end", "title": title}


def _gpu_stage(request: CalibrationRequest) -> Iterator[dict[str, Any]]:
    from ridgepoint.measurement.calibrate.cuda import samples

    for title, sample in samples(request.stage, request.limit_s, request.rehearse):
        yield {"kind": "sample", "title": title, "sample": sample}


def _held(run: Runnable, device: str, before: int) -> int:
    """Bytes of weights, cache and activations; on a GPU activations are what torch allocated beyond `before` (0 inside a
    CUDA graph, whose memory was there already). Of a training step all that it holds at its peak."""
    if run.held is not None:
        return run.held()["peak"]
    activations = activation_bytes(run.plain) if device == "cpu" else peak_bytes(device) - before
    return stored_bytes(run.model) // run.copies + run.cache_bytes + activations


def _renewal(a: Runnable, b: Runnable) -> Callable[[], None] | None:
    """Fresh copies of both sides, where one of them is small enough for its placement to matter."""
    if not (a.small or b.small):
        return None

    def renew() -> None:
        for run in (a, b):
            if run.small:
                run.renew()

    return renew


def _clock(request: PairRequest | SingleRequest, *sides: SideRequest) -> Clock:
    """CPU time for one thread, else wall time; on a GPU events, cold unless the workload rotates its weights itself."""
    if sides[0].device == "cuda":
        return CudaEvents(cold=request.linear is None)
    one_thread = all("threads:1" in s.spec.split("+") for s in sides)
    return ThreadCpu() if one_thread else Wall()


def _repeated(run: Runnable, calls: int) -> Callable[[], object]:
    """`calls` steps as one: a side without a graph beside one whose graph holds several steps."""
    if run.calls == calls:
        return run.call

    def several() -> None:
        for _ in range(calls // run.calls):
            run.call()

    return several


def _per_step(timing: dict[str, Any], calls: int) -> dict[str, Any]:
    """Times of one step, where a timed call is `calls` of them."""
    keys = ("a_s", "b_s", "p20_s", "median_s")
    return {k: v / calls if k in keys else v for k, v in timing.items()}


def _energy(steps: dict[str, Callable[[], object]], calls: int, device: str, seconds: float) -> dict[str, Any]:
    """Joules per step of each side: `energy_j` of one alone, `energy_a_j` and `energy_b_j` of a pair, or the reason."""
    if seconds <= 0:
        return {}
    meter = probe(device)
    if isinstance(meter, str):
        return {"energy_reason": meter}
    measured = energy_per_step(steps, meter, _wait(device), seconds)
    out: dict[str, Any] = {"energy_method": f"{meter.method}, windows of 1 s or more, idle power included"}
    for name, found in measured.items():
        stem = f"energy_{name}_" if name else "energy_"
        for key, value in (("j", found.step_j), ("low_j", found.low_j), ("high_j", found.high_j)):
            out[stem + key] = value / calls
        out[f"{stem}w"] = found.watts
    return out


def _forget_compiled(*sides: SideRequest) -> None:
    if any("compile" in side.spec.split("+") for side in sides):
        from ridgepoint.measurement.compiled import forget

        forget()


def _wait(device: str) -> Any:
    """What returns when the device has finished."""
    if device != "cuda":
        return lambda: None
    import torch

    return torch.cuda.synchronize


def _slowed(run: Runnable, clock: Clock, factor: float) -> Any:
    """The step, followed by (factor - 1) times its own duration of spinning on the same clock: a known effect."""

    def step() -> object:
        start = clock.mark()
        out = run.call()
        until = (factor - 1.0) * clock.between_s(start, clock.mark())
        begin = time.thread_time()
        while time.thread_time() - begin < until:
            pass
        return out

    return step


def _rows(run: Runnable, clock: Clock) -> "LeafRows | ModuleRows":
    """What times the operators of the run one by one."""
    if not run.rows:
        return LeafRows(run, clock)
    from ridgepoint.measurement.module_rows import ModuleRows

    return ModuleRows(run, clock)
