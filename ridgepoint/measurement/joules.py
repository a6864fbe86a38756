"""Energy per step of two or more sides: windows of a second or more, taken in turn, read from an energy counter."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import mean, stdev

from ridgepoint.measurement.energy import Meter

__all__ = ["Joules", "energy_per_step"]

_LEAST_ROUNDS = 3
_STUDENT95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
_CHUNK_S = 0.01  # the counter is read after each chunk: often beside its own 20-100 ms, seldom beside a step
_TICK_WAIT_S = 0.5  # counters move each 20-100 ms; one that has not moved in this time is taken as it stands


@dataclass(frozen=True, slots=True)
class Joules:
    """Energy of one step with the ends of its 95 % interval, idle power included, and what it rests on."""

    step_j: float
    low_j: float
    high_j: float
    watts: float
    windows: int
    steps: int


def energy_per_step(
    steps: Mapping[str, Callable[[], object]],
    meter: Meter,
    wait: Callable[[], object],
    seconds: float,
    window_s: float = 1.0,
) -> dict[str, Joules]:
    """Joules per call of each step; `wait` returns when the device has finished.

    The sides take turns (AB, BA, …), so that a card that warms up favours neither; at least three windows each. A
    window begins and ends where the counter has just moved. The interval is Student's t over the windows, and never
    narrower than one move of the counter.
    """
    rounds = max(_LEAST_ROUNDS, int(seconds / (len(steps) * window_s)))
    chunks = {name: _chunk(step, wait) for name, step in steps.items()}
    found: dict[str, list[_Window]] = {name: [] for name in steps}
    for number in range(rounds):
        for name in steps if number % 2 == 0 else reversed(list(steps)):
            found[name].append(_window(steps[name], chunks[name], meter, wait, window_s))
    return {name: _summary(windows) for name, windows in found.items()}


@dataclass(frozen=True, slots=True)
class _Window:
    joules: float
    tick_j: float
    seconds: float
    steps: int


def _chunk(step: Callable[[], object], wait: Callable[[], object]) -> int:
    step()
    wait()
    start = time.perf_counter()
    step()
    wait()
    return max(1, int(_CHUNK_S / max(time.perf_counter() - start, 1e-9)))


def _window(
    step: Callable[[], object], chunk: int, meter: Meter, wait: Callable[[], object], window_s: float
) -> _Window:
    def run() -> float:
        for _ in range(chunk):
            step()
        wait()
        return meter.read_j()

    first = run()
    until = time.perf_counter() + _TICK_WAIT_S
    while (begin_j := run()) == first and time.perf_counter() < until:
        pass
    begin, count, last, tick = time.perf_counter(), 0, begin_j, 0.0
    while True:
        now_j = run()
        now, count = time.perf_counter(), count + chunk
        moved, last = now_j - last, now_j
        tick = max(tick, moved)
        if (now - begin >= window_s and moved > 0) or now - begin > window_s + _TICK_WAIT_S:
            return _Window(now_j - begin_j, tick, now - begin, count)


def _summary(windows: list[_Window]) -> Joules:
    per_step = [w.joules / w.steps for w in windows]
    middle = mean(per_step)
    student = _STUDENT95.get(len(windows), 2.0)
    half = student * stdev(per_step) / math.sqrt(len(windows))
    half = max(half, *(w.tick_j / w.steps for w in windows))
    watts = sum(w.joules for w in windows) / sum(w.seconds for w in windows)
    return Joules(middle, max(0.0, middle - half), middle + half, watts, len(windows), sum(w.steps for w in windows))
