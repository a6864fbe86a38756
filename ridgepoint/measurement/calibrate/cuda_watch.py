"""Stopwatches of a GPU calibration: device time by graphs that visit a pool in turn, and host time of launches."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.measurement.clock import CudaEvents, timed
from ridgepoint.measurement.graph import graphed

__all__ = ["CpuWatch", "CudaWatch", "Span", "Watch", "watch_for"]

_Step = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds of one call: 20th percentile, relative interquartile range, number of samples; how, where it matters."""

    seconds: float
    spread: float
    samples: int
    flag: str = ""

    def fields(self) -> dict[str, Any]:
        """As the fields of a sample."""
        flag = {"flag": self.flag} if self.flag else {}
        return {"seconds": self.seconds, "spread": self.spread, "n_samples": self.samples, **flag}


class Watch(Protocol):
    """What the probes need of a device: where tensors go, what a call takes there, and what launching it takes here."""

    device: str
    l2_bytes: float

    def span(self, steps: Sequence[_Step], seconds: float = 0.01) -> Span: ...
    def whole(self, step: _Step, seconds: float = 0.1) -> Span: ...
    def host_s(self, steps: Sequence[_Step]) -> float: ...
    def check(self) -> None: ...


def watch_for(rehearse: bool) -> Watch:
    """The GPU's stopwatch, or the CPU's in its place; NotSupported where there is no CUDA device."""
    return CpuWatch() if rehearse else CudaWatch()


class CudaWatch:
    """CUDA events around graph replays: the host's launches are not in the time, only the gaps between kernels.

    A graph visits the steps of a pool in turn, so their weights are as cold as the pool is large. Where a step cannot
    be captured it is timed eagerly, and the span says so.
    """

    device = "cuda"
    _GRAPH_S = 0.004  # a replay lasts some 4 ms: starting it (some 5 µs) is lost in it
    _MOST_CALLS = 400
    _REPLAYS = (4, 25)

    def __init__(self) -> None:
        import torch

        if not torch.cuda.is_available():
            raise NotSupported("no CUDA device here; calibrate the CPU instead: --device cpu")
        self._torch = torch
        self._events = CudaEvents(cold=False)
        self._cold = CudaEvents(cold=True)
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        self.l2_bytes = float(getattr(properties, "L2_cache_size", 0) or 64e6)

    def span(self, steps: Sequence[_Step], seconds: float = 0.01) -> Span:
        """Device time of a call, the mean over the pool, for some `seconds` of device time."""
        with self._torch.inference_mode():
            pilot = self._pilot(steps)
            calls = self._calls(len(steps), pilot)
            visited = [steps[i % len(steps)] for i in range(calls)]

            def several() -> None:
                for step in visited:
                    step()

            whole, flag = graphed(several)
            once = self._behind(whole)
            count = int(np.clip(seconds / once, *self._REPLAYS))
            return _span([self._behind(whole) / calls for _ in range(count)], flag)

    def whole(self, step: _Step, seconds: float = 0.1) -> Span:
        """Device time of a step that is launched as it is (a replay of its own), with a cold L2 before each."""
        step()
        once = max(timed(step, self._cold), 1e-9)
        count = int(np.clip(seconds / once, 5, 40))
        return _span([timed(step, self._cold) for _ in range(count)], "")

    def host_s(self, steps: Sequence[_Step]) -> float:
        """Wall time of launching a call eagerly while the device is free to run behind: the median of a few bursts."""
        calls = 30  # some 10 kernels a call stay far below the 1024 launches that may be pending
        bursts = []
        with self._torch.inference_mode():
            for _ in range(6):
                self._torch.cuda.synchronize()
                start = time.perf_counter()
                for i in range(calls):
                    steps[i % len(steps)]()
                bursts.append((time.perf_counter() - start) / calls)
        self._torch.cuda.synchronize()
        return float(np.median(bursts[1:]))

    def check(self) -> None:
        """Raise RuntimeError if the device's context is lost."""
        self._torch.cuda.synchronize()

    def _behind(self, whole: _Step) -> float:
        """Device time of `whole` right behind another one: the host has queued it before the device gets there."""
        self._events.prepare()
        whole()
        start = self._events.mark()
        whole()
        return max(self._events.between_s(start, self._events.mark()), 1e-9)

    def _pilot(self, steps: Sequence[_Step]) -> float:
        """Seconds of a call launched eagerly, host included: an upper bound that sizes the graph."""
        steps[0]()
        few = steps[: min(len(steps), 10)]

        def burst() -> None:
            for step in few:
                step()

        burst()
        return max(timed(burst, self._events) / len(few), 1e-7)

    def _calls(self, pool: int, pilot: float) -> int:
        """Whole rounds of the pool that fill the graph's time; a part of one round where a call alone is long."""
        wanted = max(1, int(self._GRAPH_S / pilot))
        rounds = max(1, round(wanted / pool))
        if rounds == 1 and wanted < pool:
            return min(pool, max(2, int(5 * wanted)))
        return min(self._MOST_CALLS // pool * pool or pool, rounds * pool)


class CpuWatch:
    """The rehearsal's stopwatch: wall time of a few calls; its figures say nothing about a GPU."""

    device = "cpu"
    l2_bytes = 1e6

    def span(self, steps: Sequence[_Step], seconds: float = 0.0) -> Span:
        """Wall time of each step, twice."""
        return _span([self._once(step) for step in (*steps[:2], *steps[:2])], "")

    def whole(self, step: _Step, seconds: float = 0.0) -> Span:
        """Wall time of the step, three times."""
        return _span([self._once(step) for _ in range(3)], "")

    def host_s(self, steps: Sequence[_Step]) -> float:
        """A CPU launches by computing: the time of a call."""
        return self._once(steps[0])

    def check(self) -> None:
        """A CPU is not lost."""

    def _once(self, step: _Step) -> float:
        import torch

        with torch.inference_mode():
            start = time.perf_counter()
            step()
            return max(time.perf_counter() - start, 1e-9)


def _span(seconds: list[float], flag: str) -> Span:
    low, quarter, middle, three = np.percentile(seconds, (20, 25, 50, 75))
    return Span(max(float(low), 1e-9), float((three - quarter) / max(middle, 1e-12)), len(seconds), flag)
