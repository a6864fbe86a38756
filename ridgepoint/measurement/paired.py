"""Which of two steps is faster, and by how much: interleaved rounds, one log ratio each, and a robust interval."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ridgepoint.measurement.clock import Clock, Step, resolution_s, timed

__all__ = [
    "EFFECT",
    "PLACEMENT",
    "RENEWED",
    "TIE",
    "Budget",
    "Paired",
    "Single",
    "Verdict",
    "compare_rounds",
    "interleave",
    "quantile",
    "single",
]

Verdict = Literal["faster", "slower", "tie", "undecided"]
_Floats = npt.NDArray[np.float64]

TIE = 0.03
"""Speed-ups below 3 % are called a tie. Two copies of the same weights differ by 1-3 % for as long as they live,
by where their pages lie, so nobody can act on less."""

EFFECT = 0.10
"""A tie has to exclude an effect of 10 %, the smallest that a person would act on."""

PLACEMENT = 0.03
"""Added to each end of the interval of the log ratio: the largest such difference between two copies. It does not
average out while the copies live, so it is added, not combined as a square."""

RENEWED = 0.02
"""The same where fresh copies are made between rounds: most of it is in the rounds' own spread then, but an allocator
hands back some of the pages it had, so that copies repeat (1-3 % were left between runs at 32 MB)."""

_QUANTILE = 0.2
# Noise only ever adds time, so a low quantile is nearer to the undisturbed step than the median; a minimum would
# hang on one lucky step.

_BLOCK_S = 0.04
# Long enough that refilling the caches after a switch (~1 ms) is one step of several; short enough that the
# machine's own drift (10 % within minutes) is the same for both halves of a round.

_KEPT = (2, 8)  # steps kept per block: fewer give no quantile, more only lengthen the round
_LONG_S = 0.3
# From here on a step refills a 32 MB cache (1-2 ms) in under 1 % of its time: no step is dropped, one is kept.

_REGIONS = 200  # a timed region lasts at least this many resolutions of its clock: 0.5 % of reading error
_MOST_CALLS = 2000
_EXACT = 6  # the signed-rank interval reaches 95 % from 6 rounds on; below, Student's t with its wide tails
_STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}


@dataclass(frozen=True, slots=True)
class Budget:
    """How long to go on: until the interval's half-width is reached (not before `min_rounds`), or time is used up.

    `seconds` is wall time and holds for all but the first two rounds; `target_half_width` is of the log ratio, with
    `PLACEMENT` (or `RENEWED`) in it, so 0.05 means 5 %.
    """

    min_rounds: int = 12
    max_rounds: int = 80
    seconds: float = 8.0
    target_half_width: float = 0.05


@dataclass(frozen=True, slots=True)
class Paired:
    """B against A: `speedup` > 1 when B is faster, the ends of its 95 % interval, and what they rest on."""

    speedup: float
    low: float
    high: float
    a_s: float
    b_s: float
    """20th percentile of all kept steps of that side."""
    n: int
    """Rounds."""
    spread: float
    """Interquartile range of the rounds' ratios over their median."""
    verdict: Verdict
    steps: int
    """Steps kept per side."""
    ratios: tuple[float, ...]
    """a/b of each round, in order: enough to compute everything above again."""

    @property
    def half_width(self) -> float:
        """Half the interval of the log ratio: 0.05 is 5 %."""
        return (math.log(self.high) - math.log(self.low)) / 2


@dataclass(frozen=True, slots=True)
class Single:
    """One step alone, in seconds: 20th percentile, median, steps kept, and interquartile range over median."""

    p20_s: float
    median_s: float
    n: int
    spread: float


def interleave(
    step_a: Step,
    step_b: Step,
    clock: Clock,
    budget: Budget = Budget(),
    on_round: Callable[[Paired], object] | None = None,
    renew: Callable[[], object] | None = None,
) -> Paired:
    """Run A and B in turn until the interval is narrow enough; `on_round` gets what is known after each round.

    A round is a block of A and a block of B, in the order AB, BA, AB, ..., so that a steady drift favours neither.
    The first step after each switch is run and dropped: the other side has taken the caches. Blocks of both sides have
    the same number of steps, because a quantile of more steps is lower.

    `renew` puts fresh copies of both sides' weights in place; it is called after every second round, untimed, and
    both sides are warmed again. So the luck of placement varies between rounds and widens the interval by itself. It
    works best when buffers of random size are held between the copies, so that they land on other pages.
    Without it a working set near the size of the last-level cache can differ from its own copy by more than
    `PLACEMENT` (14 % seen at 32 MB), and a difference that is none is called.
    """
    placement = PLACEMENT if renew is None else RENEWED
    until = time.monotonic() + budget.seconds
    kept_a: list[float] = []
    kept_b: list[float] = []
    logs: list[float] = []
    with _no_collection():
        shape = _shape((step_a, step_b), clock)
        while True:
            if renew is not None and len(logs) >= 2 and len(logs) % 2 == 0:
                renew()
                for step in (step_a, step_b):
                    step()  # new copies repack and fault their pages in
            if len(logs) % 2 == 0:
                block_a = _block(step_a, clock, shape)
                block_b = _block(step_b, clock, shape)
            else:
                block_b = _block(step_b, clock, shape)
                block_a = _block(step_a, clock, shape)
            kept_a += block_a
            kept_b += block_b
            logs.append(math.log(quantile(block_a) / quantile(block_b)))
            n = len(logs)
            if n < 2:
                continue
            known = compare_rounds(logs, quantile(kept_a), quantile(kept_b), len(kept_a), placement)
            if on_round is not None:
                on_round(known)
            narrow = n >= budget.min_rounds and known.half_width <= budget.target_half_width
            if narrow or n >= max(2, budget.max_rounds) or time.monotonic() >= until:
                return known


def single(step: Step, clock: Clock, budget: Budget = Budget(), beside: Callable[[], None] | None = None) -> Single:
    """Time one step alone, by the same blocks and the same rule for stopping (without `PLACEMENT`).

    `beside` is called after each block, untimed: what it measures meets the machine in the same minutes.
    """
    until = time.monotonic() + budget.seconds
    kept: list[float] = []
    logs: list[float] = []
    with _no_collection():
        shape = _shape((step,), clock)
        while True:
            block = _block(step, clock, shape)
            kept += block
            logs.append(math.log(quantile(block)))
            n = len(logs)
            if beside is not None:
                beside()
            if n < 2:
                continue
            _, low, high = _interval(np.asarray(logs))
            narrow = n >= budget.min_rounds and (high - low) / 2 <= budget.target_half_width
            if narrow or n >= max(2, budget.max_rounds) or time.monotonic() >= until:
                break
    return Single(quantile(kept), float(np.median(kept)), len(kept), _spread(np.asarray(kept)))


def compare_rounds(logs: list[float], a_s: float, b_s: float, steps: int, placement: float = PLACEMENT) -> Paired:
    """The comparison that follows from the rounds' log(a/b) alone; also how rounds of several processes are joined."""
    values = np.asarray(logs)
    centre, low, high = _interval(values)
    low, high = low - placement, high + placement
    ratios = np.exp(values)
    return Paired(
        speedup=math.exp(centre),
        low=math.exp(low),
        high=math.exp(high),
        a_s=a_s,
        b_s=b_s,
        n=len(logs),
        spread=_spread(ratios),
        verdict=_verdict(centre, low, high),
        steps=steps,
        ratios=tuple(float(ratio) for ratio in ratios),
    )


def _verdict(centre: float, low: float, high: float) -> Verdict:
    """Faster or slower: the interval excludes 1 and the effect is no tie. A tie: it is, and `EFFECT` is excluded."""
    tie, effect = math.log1p(TIE), math.log1p(EFFECT)
    if low > 0 and centre > tie:
        return "faster"
    if high < 0 and centre < -tie:
        return "slower"
    return "tie" if abs(centre) <= tie and -effect < low and high < effect else "undecided"


def _interval(values: _Floats) -> tuple[float, float, float]:
    """Centre and 95 % interval: Hodges-Lehmann with signed ranks, widened where values follow their predecessor.

    The centre is the median of all pairwise means: it shrugs off up to 29 % of wild values and needs a third fewer
    than the median for the same width (Hodges and Lehmann 1963; interval by Tukey 1949, normal approximation).
    From 12 rounds on a value is an AB round and the BA round after it together: what the later side of a round pays
    for drift cancels, and both share one placement of the weights. A last round without its partner waits for it.
    Ignores: correlation over more than one value.
    """
    if len(values) >= 2 * _EXACT:
        even = len(values) // 2 * 2
        values = (values[0:even:2] + values[1:even:2]) / 2
    n = len(values)
    first, second = np.triu_indices(n)
    means = np.sort((values[first] + values[second]) / 2)
    centre = float(np.median(means))
    if n < _EXACT:
        half = _STUDENT[n] * float(np.std(values, ddof=1)) / math.sqrt(n)
        return centre, centre - half, centre + half
    deviation = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    rank = max(0, math.floor(n * (n + 1) / 4 - 1.96 * deviation - 0.5))
    widen = _correlation_factor(values)
    return centre, centre - widen * (centre - means[rank]), centre + widen * (means[-1 - rank] - centre)


def _correlation_factor(values: _Floats) -> float:
    """sqrt((1 + r) / (1 - r)) for the rounds' lag-1 correlation r, where positive: the effective number is smaller."""
    rest = values - np.median(values)
    bound = 3 * float(np.median(np.abs(rest))) + 1e-12  # one wild round must not decide r
    rest = np.clip(rest, -bound, bound)
    power = float(rest @ rest)
    r = float(rest[:-1] @ rest[1:]) / power if power > 0 else 0.0
    return math.sqrt((1 + r) / (1 - r)) if 0 < r < 0.9 else (1.0 if r <= 0 else math.sqrt(19.0))


@dataclass(frozen=True, slots=True)
class _Shape:
    calls: int
    dropped: int
    kept: int


def _shape(steps: tuple[Step, ...], clock: Clock) -> _Shape:
    """Warm every side, then choose calls per region and steps per block, the same for all sides."""
    pilots = []
    for step in steps:
        step()  # first calls repack weights, allocate and tune
        pilot = timed(step, clock)
        if pilot < _LONG_S:
            pilot = min(pilot, timed(step, clock), timed(step, clock))
        pilots.append(pilot)
    if min(pilots) >= _LONG_S:
        return _Shape(1, 0, 1)
    enough_s = _REGIONS * resolution_s(clock)
    calls = 1 if clock.cold else min(_MOST_CALLS, max(1, math.ceil(enough_s / max(min(pilots), 1e-9))))
    mean_s = calls * sum(pilots) / len(pilots)
    return _Shape(calls, 1, int(min(max(_BLOCK_S // max(mean_s, 1e-9), _KEPT[0]), _KEPT[1])))


def _block(step: Step, clock: Clock, shape: _Shape) -> list[float]:
    for _ in range(shape.dropped):
        step()
    return [max(timed(step, clock, shape.calls), 1e-12) for _ in range(shape.kept)]


def quantile(seconds: list[float]) -> float:
    """The 20th percentile: what a step takes when little disturbs it."""
    return float(np.quantile(seconds, _QUANTILE))


def _spread(values: _Floats) -> float:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float((high - low) / middle)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection inside timed regions: it would be charged to whichever side it happened to hit."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
