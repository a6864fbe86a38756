"""The paired statistics: who is called faster, how often wrongly, on simulated machines and on real work."""

import gc
import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgepoint.measurement import paired
from ridgepoint.measurement.clock import ThreadCpu
from ridgepoint.measurement.paired import Budget, Paired, compare_rounds, interleave, single

LONG = Budget(seconds=60)

# A machine in a box: its clock moves only when a step runs.


class Ticking:
    """A clock that someone else turns; each mark costs it 100 ns."""

    name = "simulated"
    cold = False

    def __init__(self, tick_s: float = 1e-7):
        self.now_s = 0.0
        self.tick_s = tick_s

    def prepare(self) -> None: ...

    def mark(self) -> float:
        self.now_s += self.tick_s
        return self.now_s

    def between_s(self, start: float, stop: float) -> float:
        return stop - start


class Box:
    """Two sides with step noise, drift (2 s correlation time), preemption, cold caches and luck of placement."""

    def __init__(
        self, seed, *, slow=0.0, noise=0.03, spikes=0.03, drift=0.05, placed=(0.01, 0.03), switch=0.2, step_s=0.008
    ):
        self.random = np.random.default_rng(seed)
        self.clock = Ticking()
        self.noise, self.spikes, self.drift, self.switch, self.step_s = noise, spikes, drift, switch, step_s
        self.slow, self.placed = slow, placed
        self.level, self.last = 0.0, ""
        self.order: list[str] = []
        self.place()

    def place(self) -> None:
        luck = self.random.uniform(*self.placed) * self.random.choice([-1, 1])
        self.factor = {"a": 1.0, "b": math.exp(luck) * (1 + self.slow)}

    def step(self, side: str) -> Callable[[], None]:
        def run() -> None:
            keep = math.exp(-self.step_s / 2.0)
            self.level = keep * self.level + math.sqrt(1 - keep**2) * self.drift * self.random.standard_normal()
            seconds = (
                self.step_s * self.factor[side] * math.exp(self.level + self.noise * self.random.standard_normal())
            )
            if self.random.random() < self.spikes:
                seconds *= 1 + 0.88 * self.random.exponential()
            if side != self.last:
                seconds *= 1 + self.switch
            self.order.append(side)
            self.last = side
            self.clock.now_s += seconds

        return run

    def compare(self, budget: Budget = LONG, **named) -> Paired:
        return interleave(self.step("a"), self.step("b"), self.clock, budget, **named)


NOISES = [{"noise": 0.02}, {"noise": 0.04}, {"noise": 0.03, "spikes": 0.2}, {"noise": 0.03, "step_s": 0.03}]


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_identical_sides_are_not_told_apart(noise):
    runs = [Box(seed, **noise).compare() for seed in range(50)]
    assert sum(run.verdict in ("faster", "slower") for run in runs) <= 1
    assert sum(run.half_width <= 0.05 for run in runs) >= 45
    assert sum(run.verdict == "tie" for run in runs) >= 25


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_slowdown_of_ten_percent_is_called(noise):
    runs = [Box(seed, slow=0.1, **noise).compare() for seed in range(50)]
    assert sum(run.verdict == "slower" for run in runs) >= 45
    assert sum(run.low <= 1 / 1.1 <= run.high for run in runs) >= 45


def test_worst_luck_of_placement_is_called_in_few_runs():
    runs = [Box(seed, placed=(0.03, 0.03), noise=0.04).compare() for seed in range(100)]
    assert sum(run.verdict in ("faster", "slower") for run in runs) <= 4


def test_fresh_copies_turn_large_differences_of_placement_into_width():
    def run(seed: int, renewed: bool) -> Paired:
        box = Box(seed, placed=(0.0, 0.08))
        return box.compare(renew=box.place if renewed else None)

    calls = {way: sum(run(seed, way).verdict in ("faster", "slower") for seed in range(50)) for way in (True, False)}
    assert calls[True] <= 1
    assert calls[False] >= 10  # why `renew` exists


@pytest.mark.parametrize("spikes", [0.0, 0.2])
def test_interval_without_the_allowance_for_placement_covers_the_truth(spikes):
    inside = 0
    for seed in range(150):
        run = Box(seed, placed=(0.0, 0.0), noise=0.04, spikes=spikes).compare()
        inside += abs(math.log(run.speedup)) <= run.half_width - paired.PLACEMENT
    assert inside >= 0.92 * 150


def test_rounds_that_follow_their_predecessor_widen_the_interval():
    random = np.random.default_rng(0)
    inside = narrow = 0
    for _ in range(200):
        logs = [0.0]
        for _ in range(59):
            logs.append(0.6 * logs[-1] + 0.01 * random.standard_normal())
        run = compare_rounds(logs, 1.0, 1.0, 60, placement=0.0)
        inside += run.low <= 1 <= run.high
        shuffled = compare_rounds(list(random.permutation(logs)), 1.0, 1.0, 60, placement=0.0)
        narrow += shuffled.half_width < run.half_width
    assert inside >= 170  # without widening: 145
    assert narrow >= 180


def test_first_step_after_each_switch_is_dropped():
    box = Box(0, noise=0.0, spikes=0.0, drift=0.0, placed=(0.0, 0.0), switch=9.0, step_s=0.03)
    run = box.compare()
    assert run.a_s == pytest.approx(box.step_s, rel=1e-3)
    assert run.ratios == pytest.approx([1.0] * run.n, rel=1e-3)


def test_order_alternates_so_that_steady_drift_favours_neither():
    box = Box(0, noise=0.0, spikes=0.0, drift=0.0, placed=(0.0, 0.0), switch=0.0)
    box.compare(Budget(max_rounds=6, target_half_width=0.0, seconds=60))
    lengths = [(side, len(list(run))) for side, run in itertools.groupby(box.order[8:])]  # 4 each to warm up
    one = lengths[0][1]
    assert lengths == [("a", one), *[("b", 2 * one), ("a", 2 * one)] * 2, ("b", 2 * one), ("a", one)]

    def slowing(side: str) -> Callable[[], None]:
        def run() -> None:
            box.clock.now_s += 0.008 * (1 + box.clock.now_s / 10)

        return run

    run = interleave(slowing("a"), slowing("b"), box.clock, Budget(seconds=60))
    assert run.speedup == pytest.approx(1.0, abs=2e-3)
    assert max(run.ratios) > 1.001 > 0.999 > min(run.ratios)  # each round alone is fooled


def test_budget_bounds_rounds_and_time():
    assert Box(1).compare(Budget(max_rounds=5, seconds=60)).n == 5
    assert Box(1).compare(Budget(seconds=0.0)).n == 2
    quiet = {"noise": 1e-4, "spikes": 0.0, "drift": 0.0}
    assert Box(1, **quiet).compare(Budget(min_rounds=20, seconds=60)).n == 20
    assert Box(1, **quiet).compare(Budget(target_half_width=0.0, max_rounds=33, seconds=60)).n == 33


def test_two_rounds_seldom_decide():
    runs = [Box(seed, noise=0.04).compare(Budget(seconds=0.0)) for seed in range(100)]
    assert sum(run.verdict in ("faster", "slower") for run in runs) <= 3
    runs = [Box(seed, slow=0.1, noise=0.04).compare(Budget(seconds=0.0)) for seed in range(100)]
    assert sum(run.verdict == "undecided" for run in runs) >= 75


def test_each_round_is_told_and_collection_is_on_again_after_an_interrupt():
    seen: list[int] = []

    def tell(known: Paired) -> None:
        seen.append(known.n)
        assert not gc.isenabled()
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Box(1).compare(Budget(min_rounds=50, seconds=60), on_round=tell)
    assert seen == [2, 3, 4, 5]
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("effect", "noise", "said"),
    [
        (0.2, 0.01, "faster"),
        (-0.2, 0.01, "slower"),
        (0.0, 0.01, "tie"),
        (0.06, 0.1, "undecided"),
        (0.0, 0.3, "undecided"),
    ],
)
def test_verdict(effect, noise, said):
    logs = effect + noise * np.random.default_rng(0).standard_normal(24)
    assert compare_rounds(list(logs), 1.0, 1.0, 24).verdict == said


def test_effect_within_a_tie_is_never_called_however_sure():
    assert compare_rounds([0.028] * 40, 1.0, 1.0, 40, placement=0.0).verdict == "tie"
    assert compare_rounds([0.032] * 40, 1.0, 1.0, 40, placement=0.0).verdict == "faster"


@given(st.lists(st.floats(-2, 2), min_size=2, max_size=40))
def test_swapping_the_sides_mirrors_the_comparison(logs):
    there, back = (compare_rounds([sign * x for x in logs], 1.0, 1.0, len(logs)) for sign in (1, -1))
    assert there.low <= there.speedup <= there.high
    assert there.speedup * back.speedup == pytest.approx(1.0)
    assert there.low * back.high == pytest.approx(1.0)
    mirror = {"faster": "slower", "slower": "faster"}
    assert back.verdict == mirror.get(there.verdict, there.verdict)


@given(st.lists(st.floats(-0.05, 0.05), min_size=20, max_size=40), st.floats(5, 50))
def test_a_few_wild_rounds_move_the_centre_by_less_than_the_noise(logs, wild):
    logs[3] = logs[11] = wild
    assert abs(math.log(compare_rounds(logs, 1.0, 1.0, len(logs)).speedup)) <= 0.05


def test_single_step_alone():
    box = Box(3, noise=0.02, drift=0.0)
    run = single(box.step("a"), box.clock, Budget(seconds=60))
    assert run.p20_s < run.median_s
    assert run.median_s == pytest.approx(0.008, rel=0.03)
    assert run.n >= 24
    assert 0.005 < run.spread < 0.1


def test_real_work_three_times_as_long_is_slower():
    numbers = np.random.default_rng(0).standard_normal(20_000)
    room = np.empty_like(numbers)  # 12 fresh results would time the allocator, not exp

    def times(count: int) -> Callable[[], object]:
        return lambda: [np.exp(numbers, out=room) for _ in range(count)]

    run = interleave(times(4), times(12), ThreadCpu(), Budget(seconds=2))
    assert run.verdict == "slower"
    assert 1 / 5 < run.speedup < 1 / 2
    assert run.b_s > run.a_s > 1e-6


def test_calls_per_region_grow_until_the_clock_can_tell():
    clock = Ticking(1e-6)

    def step() -> None:
        clock.now_s += 2e-6

    run = interleave(step, step, clock, Budget(seconds=60))
    assert run.a_s == pytest.approx(2e-6, rel=0.01)  # one call alone would read 3 µs
