"""The bench inside the child process: keeps built models, answers each request with messages as they come."""

from collections.abc import Iterator
from dataclasses import asdict
from statistics import median
from typing import Any

from ridgepoint.measurement.busy import check_wall, load_between, snapshot
from ridgepoint.measurement.clock import Clock, CudaEvents, ThreadCpu, Wall
from ridgepoint.measurement.memory import peak_bytes
from ridgepoint.measurement.optime import timed_leaves
from ridgepoint.measurement.paired import Budget, interleave, single
from ridgepoint.measurement.request import CalibrationRequest, PairRequest, SideRequest, SingleRequest
from ridgepoint.measurement.runnable import Runnable, Weights, build_weights, runnable

__all__ = ["Bench"]

_KEPT_MODELS = 2
_LEAF_STEPS = 7


class Bench:
    """Holds the models of the last two sides, so that the next batch does not build them again."""

    def __init__(self) -> None:
        self._models: dict[tuple[Any, ...], Weights] = {}

    def pair(self, request: PairRequest) -> Iterator[dict[str, Any]]:
        """Messages `stage`… and one `done` with the paired comparison, its clock, load and peak memory."""
        yield {"kind": "stage", "text": "building a"}
        a = self._runnable(request, request.a)
        yield {"kind": "stage", "text": "building b"}
        b = self._runnable(request, request.b)
        clock = _clock(request.a, request.b)
        yield {"kind": "stage", "text": "measuring"}
        step_b = b.call if request.slow_b == 1.0 else _slowed(b, clock, request.slow_b)
        before = snapshot()
        paired = interleave(a.call, step_b, clock, Budget(seconds=request.seconds))
        load = load_between(before, snapshot())
        if isinstance(clock, Wall):
            check_wall(load)
        yield {
            "kind": "done", "paired": asdict(paired), "half_width": paired.half_width, "clock": clock.name,
            "load": load.describe(), "tokens_a": a.tokens, "tokens_b": b.tokens, "random": a.random,
            "peak_memory_bytes": peak_bytes(request.a.device),
        }  # fmt: skip

    def single(self, request: SingleRequest) -> Iterator[dict[str, Any]]:
        """Messages `stage`… and one `done` with the step's time, the operators' times and the peak memory."""
        yield {"kind": "stage", "text": "building"}
        run = self._runnable(request, request.a)
        clock = _clock(request.a)
        yield {"kind": "stage", "text": "measuring"}
        before = snapshot()
        timing = single(run.call, clock, Budget(seconds=request.seconds))
        ops = _leaf_times(run, clock)
        load = load_between(before, snapshot())
        if isinstance(clock, Wall):
            check_wall(load)
        yield {
            "kind": "done", "single": asdict(timing), "ops": ops, "clock": clock.name, "load": load.describe(),
            "tokens": run.tokens, "random": run.random, "peak_memory_bytes": peak_bytes(request.a.device),
        }  # fmt: skip

    def calibrate(self, request: CalibrationRequest) -> Iterator[dict[str, Any]]:
        """A `sample` message per sample, then `done`."""
        if request.device == "cuda":
            from ridgepoint.measurement.calibrate.cuda import samples as cuda_samples

            source = cuda_samples()
        else:
            from ridgepoint.measurement.calibrate.run import Settings, samples

            source = samples(Settings(request.cache_sizes, request.cores))
        before = snapshot()
        for title, sample in source:
            yield {"kind": "sample", "title": title, "sample": sample}
        yield {"kind": "done", "load": load_between(before, snapshot()).describe()}

    def _runnable(self, request: PairRequest | SingleRequest, which: SideRequest) -> Runnable:
        workload, side, step = request.workload(), which.side(), request.step.step()
        weights_spec = "+".join(c.spelled for c in side.choices if c.AXIS not in ("batch", "threads"))
        longest = max(int(g.context) for g in step.groups)
        key = (workload, weights_spec, which.device, longest, tuple(sorted(which.kernels.items())), request.directory)
        weights = self._models.pop(key, None)
        if weights is None:
            while len(self._models) >= _KEPT_MODELS:
                self._models.pop(next(iter(self._models)))
            weights = build_weights(workload, side, step, which.kernels, request.directory, request.cache_bytes)
        self._models[key] = weights
        return runnable(workload, side, step, weights)


def _clock(*sides: SideRequest) -> Clock:
    if sides[0].device == "cuda":
        return CudaEvents()
    one_thread = all("threads:1" in s.spec.split("+") for s in sides)
    return ThreadCpu() if one_thread else Wall()


def _slowed(run: Runnable, clock: Clock, factor: float) -> Any:
    """The step, followed by (factor - 1) times its own duration of real work of the same kind: a known effect."""
    import time

    def step() -> object:
        start = clock.mark()
        out = run.call()
        until = (factor - 1.0) * clock.between_s(start, clock.mark())
        begin = time.thread_time()
        while time.thread_time() - begin < until:
            pass
        return out

    return step


def _leaf_times(run: Runnable, clock: Clock) -> dict[str, float]:
    """Median seconds per step of each operator: leaves of the same last name are added up over layers."""
    per_step: list[dict[str, float]] = []
    for _ in range(_LEAF_STEPS):
        with timed_leaves(run.model, clock) as times:
            run.call()
        totals: dict[str, float] = {}
        for name, values in times.items():
            parts = name.rsplit(".", 1)
            leaf = parts[-1] if not parts[-1].isdigit() else "linear"
            totals[leaf] = totals.get(leaf, 0.0) + sum(values)
        per_step.append(totals)
    return {name: median(step.get(name, 0.0) for step in per_step) for name in per_step[-1]}
