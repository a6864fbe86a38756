"""Clocks that time a step: CPU time of one thread, wall time, or CUDA events with a cold second-level cache."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from ridgepoint.errors import NotSupported

__all__ = ["Clock", "CudaEvents", "Resolution", "Step", "ThreadCpu", "Wall", "resolution", "resolution_s", "timed"]

Step = Callable[[], object]


class Clock(Protocol):
    """Two marks and the seconds between them; `cold` clocks empty caches in `prepare`, so each call needs its own."""

    @property
    def name(self) -> str: ...
    @property
    def cold(self) -> bool: ...
    def prepare(self) -> None:
        """What has to happen before a region is timed: nothing, or waiting for the device and flushing its cache."""

    def mark(self) -> Any:
        """A point in time; opaque, so that a device can fill it in later."""

    def between_s(self, start: Any, stop: Any) -> float:
        """Seconds from one mark to another; waits for the device where the marks live there."""
        ...


@dataclass(frozen=True, slots=True)
class ThreadCpu:
    """CPU time of the calling thread: hardly moves when other work runs, and is blind to work of other threads."""

    name: str = "thread CPU time"
    cold: bool = False

    def prepare(self) -> None:
        pass

    def mark(self) -> int:
        return time.thread_time_ns()

    def between_s(self, start: int, stop: int) -> float:
        return (stop - start) * 1e-9


@dataclass(frozen=True, slots=True)
class Wall:
    """Wall time: the only one that is right for several threads, and useless on a busy machine (see `busy`)."""

    name: str = "wall time"
    cold: bool = False

    def prepare(self) -> None:
        pass

    def mark(self) -> int:
        return time.perf_counter_ns()

    def between_s(self, start: int, stop: int) -> float:
        return (stop - start) * 1e-9


class CudaEvents:
    """Time on the device between two CUDA events; with `cold`, the second-level cache is overwritten before.

    The flush writes a buffer of at least twice the cache, on the same stream, so it also gives the host a head start
    over the device; what a step spends waiting for the host beyond that head start is in the time.
    """

    def __init__(self, device: int | str = "cuda", cold: bool = True):
        import torch

        if not torch.cuda.is_available():
            raise NotSupported("no CUDA device here; time with the thread's CPU time or wall time instead")
        self._torch = torch
        self._device = torch.device(device)
        self.cold = cold
        self.name = "CUDA events, cold L2" if cold else "CUDA events"
        properties = torch.cuda.get_device_properties(self._device)
        l2_bytes = getattr(properties, "L2_cache_size", 0) or _UNKNOWN_L2_BYTES
        self._flush = torch.empty(2 * l2_bytes, dtype=torch.uint8, device=self._device) if cold else None

    def prepare(self) -> None:
        self._torch.cuda.synchronize(self._device)
        if self._flush is not None:
            self._flush.zero_()

    def mark(self) -> Any:
        event = self._torch.cuda.Event(enable_timing=True)
        event.record(self._torch.cuda.current_stream(self._device))
        return event

    def between_s(self, start: Any, stop: Any) -> float:
        stop.synchronize()
        return start.elapsed_time(stop) * 1e-3


# No CUDA device so far has a larger second-level cache than 128 MiB; flushing too much costs only time.
_UNKNOWN_L2_BYTES = 128 * 2**20


def timed(step: Step, clock: Clock, calls: int = 1) -> float:
    """Seconds of one call of `step`: the mean over `calls` calls timed as one region."""
    clock.prepare()
    start = clock.mark()
    for _ in range(calls):
        step()
    stop = clock.mark()
    return clock.between_s(start, stop) / calls


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a clock can tell apart: the smallest difference it showed, and what it reads around nothing."""

    smallest_s: float
    cost_s: float


def resolution(clock: Clock, readings: int = 500) -> Resolution:
    """Smallest nonzero difference between two marks, and the median reading around an empty step, both measured."""
    empty = [timed(_nothing, clock) for _ in range(readings)]
    nonzero = [value for value in empty if value > 0]
    return Resolution(min(nonzero) if nonzero else _first_tick_s(clock), median(empty))


def resolution_s(clock: Clock) -> float:
    """The shortest time `clock` can tell from nothing: the larger of its smallest difference and its own cost."""
    measured = resolution(clock)
    return max(measured.smallest_s, measured.cost_s)


def _nothing() -> None:
    pass


def _first_tick_s(clock: Clock) -> float:
    """Smallest step of a clock too coarse to see an empty region: some kernels count CPU time in ticks of 10 ms."""
    loops = 1000
    while loops < sys.maxsize:
        value = timed(lambda count=loops: sum(range(count)), clock)
        if value > 0:
            return value
        if loops > 10**8:
            break
        loops *= 2
    raise NotSupported(f"the clock {clock.name!r} does not advance while work is done; use another one")
