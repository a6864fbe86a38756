"""The knee of a curve, the curve scaled to a few measured batches, and the choice of those batches."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ridgepoint.study.batch.choosing import budget_of, next_batch
from ridgepoint.study.batch.estimate import SETTLED, Estimate, Measured, Paper, estimate_of
from ridgepoint.study.batch.knee import chances, knee_of, log_power

GRID = tuple(2**i for i in range(9))
TIE = 1.03**2
"""Of throughput / latency."""

grids = st.sets(st.integers(1, 2000), min_size=1, max_size=12).map(sorted)
times = st.floats(1e-5, 1e3)


@st.composite
def curves(draw, least: int = 1):
    """Batches and any step times."""
    batches = draw(grids.filter(lambda g: len(g) >= least))
    return batches, draw(st.lists(times, min_size=len(batches), max_size=len(batches)))


@st.composite
def lawful(draw):
    """Batches, and step times of fixed + marginal x batch or of a roofline: power has one hill."""
    batches = draw(st.sets(st.integers(1, 4096), min_size=3, max_size=12).map(sorted))
    fixed, ridge, sharp = draw(st.floats(1e-4, 1.0)), draw(st.floats(0.3, 8000)), draw(st.sampled_from([1.0, 2.0, 8.0]))
    return batches, [fixed * (1 + (b / ridge) ** sharp) ** (1 / sharp) for b in batches]


# The definition


@given(curves())
def test_no_batch_beats_the_knee_by_more_than_a_tie_and_each_larger_one_falls_short_of_half_the_gain(curve):
    batches, seconds = curve
    rate = dict(zip(batches, (b / s for b, s in zip(batches, seconds, strict=True)), strict=True))
    power = {b: rate[b] / s for b, s in zip(batches, seconds, strict=True)}
    knee = knee_of(batches, seconds).batch
    assert max(power.values()) <= power[knee] * TIE * (1 + 1e-9)
    for b in batches:
        if b > knee:
            assert rate[b] / rate[knee] < math.sqrt(b / knee) * (1 + 1e-9)


@given(curves(), st.floats(1e-3, 1e3), st.integers(1, 50))
def test_units_of_time_and_of_a_batch_drop_out(curve, slower, items):
    batches, seconds = curve
    power = log_power(batches, seconds)
    gap = power - power.max() + 2 * math.log1p(0.03)
    assume(np.all(np.abs(gap) > 1e-9))  # else rounding decides the tie
    knee = knee_of(batches, seconds)
    assert knee_of(batches, [slower * s for s in seconds]) == knee
    scaled = knee_of([items * b for b in batches], seconds)
    assert (scaled.batch, scaled.low, scaled.high, scaled.end) == (
        items * knee.batch, items * knee.low, items * knee.high, knee.end,
    )  # fmt: skip


@given(curves(2), st.data())
def test_any_part_of_the_grid_with_the_knee_and_the_highest_power_has_the_same_knee(curve, data):
    batches, seconds = curve
    at = dict(zip(batches, seconds, strict=True))
    knee, best = knee_of(batches, seconds).batch, batches[int(np.argmax(log_power(batches, seconds)))]
    part = sorted({knee, best, *data.draw(st.sets(st.sampled_from(batches)))})
    assert knee_of(part, [at[b] for b in part]).batch == knee


@given(lawful(), st.data())
def test_on_a_lawful_curve_any_part_of_the_grid_puts_the_knee_next_to_that_of_the_whole(curve, data):
    batches, seconds = curve
    at = dict(zip(batches, seconds, strict=True))
    part = sorted(data.draw(st.sets(st.sampled_from(batches), min_size=1)))
    whole, found = knee_of(batches, seconds).batch, knee_of(part, [at[b] for b in part]).batch
    between = [b for b in part if min(whole, found) < b < max(whole, found)]
    if found < whole:  # the part has neither the knee nor, up to it, a batch that is better
        assert not between
    else:  # what lies between is as good as the knee of the part, within a tie
        assert all(np.ptp(log_power([b, found], [at[b], at[found]])) <= 2 * math.log(TIE) for b in between)


@pytest.mark.parametrize("ridge", [2, 8, 16, 64])
def test_the_knee_is_where_compute_takes_over(ridge):
    """max(weights / bandwidth, FLOPs / peak), and fixed + marginal x batch with its half of the highest throughput."""
    roofline = [max(1.0, b / ridge) for b in GRID]
    assert knee_of(GRID, roofline).batch == ridge
    sums = [1 + b / ridge for b in GRID]
    knee = knee_of(GRID, sums).batch
    assert knee == ridge and knee / sums[GRID.index(knee)] == pytest.approx(ridge / 2)


def test_ends_ties_and_a_single_batch():
    assert knee_of(GRID, [1.0] * 9).end == "last"  # free batches: doubling pays to the end
    assert knee_of(GRID, [float(b) for b in GRID]).end == "first"
    assert knee_of((8,), [0.1]) == knee_of((8,), [0.2]) and knee_of((8,), [0.1]).end == ""
    assert knee_of((1, 4), [1.0, 2.0 * 1.02]).batch == 4  # as good within a tie: the larger has the throughput
    assert knee_of((1, 4), [1.0, 2.0 * 1.04]).batch == 1


def test_the_interval_has_what_the_errors_leave_open():
    seconds = [1 + b / 16 for b in GRID]
    assert (knee_of(GRID, seconds).low, knee_of(GRID, seconds).high) == (16, 16)
    apart = np.full((9, 9), 0.10)
    unsure = knee_of(GRID, seconds, apart)
    assert unsure.low < 16 < unsure.high
    found = chances(GRID, seconds, apart)
    assert found[4] == 1.0 and found[3] > found[2] > found[1] and found[5] > found[6] > found[7]
    # 3σ below the tie: 0.1 %
    assert chances((1, 2), [1.0, 2.0], np.full((2, 2), 1.0))[1] == pytest.approx(
        0.5 * math.erfc((math.log(2) - 2 * math.log1p(0.03)) / 2 / math.sqrt(2))
    )


# The curve as known


def paper(seconds, grid=GRID, sigma=0.1, apart=0.06) -> Paper:
    batch = np.arange(grid[0], grid[-1] + 1)
    dense = np.exp(np.interp(np.log(batch), np.log(grid), np.log(seconds)))
    logs = np.log2(grid)[:, None] - np.log2(grid)[None, :]
    between = np.where(logs == 0, 0.0, np.hypot(apart, 0.03 * np.sqrt(np.abs(logs))))
    return Paper(batch, dense, np.full(len(batch), sigma), tuple(grid), between)


def test_nothing_measured_is_the_prediction():
    known = estimate_of(paper([1.0 + b / 16 for b in GRID]), {})
    assert np.array_equal(known.seconds, known.paper.seconds) and np.all(known.sigma == 0.1)


def covariance(on_paper: Paper) -> np.ndarray:
    """Of the log errors at the grid, from the errors and those of the ratios."""
    sigma = on_paper.sigma[on_paper.at]
    return 0.5 * (sigma[:, None] ** 2 + sigma[None, :] ** 2 - on_paper.apart**2)


@given(st.dictionaries(st.sampled_from(GRID), st.tuples(st.floats(-0.04, 0.04), st.floats(0.02, 0.3)), min_size=1))
def test_prediction_and_measurements_are_weighed_by_their_errors(found):
    """The same as precisions that add up: (K^-1 + N^-1)^-1, with no information at the other batches."""
    on_paper = paper([1.0 + b / 16 for b in GRID])
    precision, pull = np.linalg.inv(covariance(on_paper)), np.zeros(9)
    for batch, (off, noise) in found.items():
        i = GRID.index(batch)
        precision[i, i] += noise**-2
        pull[i] = off * noise**-2
    after = np.linalg.inv(precision)
    known = estimate_of(
        on_paper,
        {b: Measured((1.0 + b / 16) * math.exp(off), noise) for b, (off, noise) in found.items()},
    )
    assert np.allclose(np.log(known.grid_seconds / [1.0 + b / 16 for b in GRID]), after @ pull, atol=1e-9)
    assert np.allclose(known.grid_sigma, np.sqrt(np.diag(after)), rtol=1e-6)
    assert known.apart[2, 6] == pytest.approx(math.sqrt(after[2, 2] + after[6, 6] - 2 * after[2, 6]), rel=1e-6)
    assert np.all(known.grid_sigma <= on_paper.sigma[on_paper.at] + 1e-12), "no surprise: to measure makes surer"


def test_a_sure_measurement_is_believed_and_a_noisy_one_in_part():
    on_paper = paper([1.0] * 9)
    sure = estimate_of(on_paper, {4: Measured(1.05, 1e-6), 64: Measured(1.1, 1e-6)})
    at = dict(zip(GRID, sure.grid_seconds, strict=True))
    assert at[4] == pytest.approx(1.05, rel=1e-4) and at[64] == pytest.approx(1.1, rel=1e-4)
    assert 1.0 < at[1] < 1.05 < at[16] < 1.1 and 1.0 < at[256] < 1.1, "beyond them it goes back to the prediction"
    noisy = estimate_of(on_paper, {4: Measured(1.08, 0.1)})
    assert math.log(noisy.grid_seconds[2]) == pytest.approx(math.log(1.08) / 2), "as uncertain as the prediction"
    assert noisy.grid_sigma[2] == pytest.approx(0.1 / 2**0.5)


@given(
    st.lists(st.floats(0.01, 10), min_size=9, max_size=9),
    st.sets(st.sampled_from(GRID), min_size=1),
    st.floats(0.1, 10),
)
def test_a_prediction_that_is_wrong_by_a_factor_is_scaled_by_it(seconds, batches, factor):
    found = estimate_of(paper(seconds), {b: Measured(seconds[GRID.index(b)] * factor, SETTLED) for b in batches})
    measured = [GRID.index(b) for b in batches]
    assert np.allclose(found.grid_seconds[measured], factor * np.asarray(seconds)[measured], rtol=0.05)
    rtol = 0.15 if abs(math.log(factor)) < 0.25 else 0.05  # within its errors, a prediction is believed in part
    assert np.allclose(found.grid_seconds, factor * np.asarray(seconds), rtol=rtol)


def test_measurements_far_apart_widen_the_curve_and_do_not_move_it():
    """A factor that all share explains no scatter, and one bad visit is no reason to believe it."""
    on_paper, logs = paper([1.0] * 9), {2: -0.5, 32: 0.5}
    known = estimate_of(on_paper, {b: Measured(math.exp(x), 0.1) for b, x in logs.items()})
    at, off = [GRID.index(b) for b in logs], np.array(list(logs.values()))
    prior = covariance(on_paper)
    total = prior[np.ix_(at, at)] + 0.01 * np.eye(2)
    gain = np.linalg.solve(total, prior[at]).T
    assert np.allclose(np.log(known.grid_seconds), gain @ off)
    surprise = off @ np.linalg.solve(total, off) / 2
    assert surprise > 4
    assert np.allclose(known.grid_sigma**2, surprise * np.diag(prior - gain @ prior[at]))


def test_the_curve_is_smooth_beside_a_measured_batch():
    known = estimate_of(paper([1.0 + b / 16 for b in GRID]), {32: Measured(2.4, 0.02)})
    steps = np.diff(np.log(known.seconds[24:40]))
    assert np.all(steps > 0) and steps.max() < 2 * steps.min()


def test_errors_of_ratios_that_cannot_be_are_made_possible():
    """1 is sure to be as 2 and 2 as 4, but 1 not as 4."""
    on_paper = paper([1.0] * 3, (1, 2, 4), sigma=0.2)
    torn = Paper(
        on_paper.batch,
        on_paper.seconds,
        on_paper.sigma,
        on_paper.grid,
        np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]]) * 0.4,
    )
    known = estimate_of(torn, {1: Measured(1.2, 0.02), 2: Measured(1.25, 0.02)})
    assert np.all(known.grid_seconds > 0.8) and np.all(known.grid_seconds < 1.3)
    assert np.all(known.grid_sigma > 0.01)


def test_on_a_noisy_machine_the_curve_is_nearer_than_prediction_or_measurement_and_its_intervals_hold():
    rng, on_paper = np.random.default_rng(3), paper([1.0 + b / 16 for b in GRID])
    predicted = on_paper.seconds[on_paper.at]
    root = np.linalg.cholesky(covariance(on_paper))
    off, alone, inside = [], [], []
    for _ in range(400):
        real = predicted * np.exp(root @ rng.normal(size=9))
        seen = {
            GRID[i]: Measured(real[i] * math.exp(rng.normal(0, 0.14)), 0.14) for i in rng.choice(9, 3, replace=False)
        }
        known = estimate_of(on_paper, seen)
        logs = np.log(known.grid_seconds / real)
        off.append(np.mean(np.abs(logs)))
        alone.append(np.mean(np.abs(np.log(predicted / real))))
        inside.append(np.mean(np.abs(logs) <= 1.2816 * known.grid_sigma))
    assert np.mean(off) < 0.95 * np.mean(alone) and np.mean(off) < 0.14 * math.sqrt(2 / math.pi)
    assert 0.77 < np.mean(inside) < 0.87


def test_the_largest_batch_within_a_bound_is_found_off_the_grid_with_its_interval():
    known = estimate_of(paper([1.0 + b / 16 for b in GRID]), {})
    reach = known.reach(float(known.seconds[99]), 10**6)  # of batch 100
    assert reach.batch == 100 and reach.low < 100 < reach.high and not reach.at_end
    assert known.reach(1e9, 10**6).batch == 256 and known.reach(1e9, 10**6).at_end
    assert known.reach(1e9, 50).batch == 50 and known.reach(1e9, 50).at_end
    assert known.reach(1e-9, 10**6).batch == 0 and not known.reach(1e-9, 10**6).at_end


# Which batches are measured


def truth(rng) -> np.ndarray:
    """Step times as machines have them: rooflines sharp or soft, cache traffic, a kernel that changes at a small batch."""
    b = np.asarray(GRID, float)
    ridge, sharp = 2 ** rng.uniform(-1, 9), rng.uniform(1, 6)
    seconds = (1 + (b / ridge) ** sharp) ** (1 / sharp) + rng.uniform(0, 0.3) * b / ridge
    return np.where(b >= 2 ** rng.integers(1, 4), seconds * rng.uniform(0.6, 1.1), seconds)


def adaptive(on_paper: Paper, measured_s: np.ndarray, slo_s: float | None = None) -> tuple[Estimate, list[int]]:
    """The curve after the batches that the chooser asks for; what they take is looked up."""
    known: dict[int, Measured] = {}
    for _ in range(budget_of(on_paper.grid)):
        batch = next_batch(estimate_of(on_paper, known), known, (), 2**62, slo_s)
        assert batch is not None and batch not in known
        known[batch] = Measured(float(measured_s[on_paper.grid.index(batch)]), SETTLED)
    return estimate_of(on_paper, known), sorted(known)


@pytest.mark.parametrize(("walk", "slo"), [(0.03, False), (0.05, True), (0.08, False), (0.08, True)])
def test_a_third_of_the_batches_puts_the_knee_within_one_step_of_the_whole_sweep(walk, slo):
    """Predictions off by 10 % as a whole and by `walk` more with each doubling; two runs of a batch differ by 2 %."""
    rng = np.random.default_rng(20)
    near, errors, runs = 0, [], 250
    for _ in range(runs):
        predicted = truth(rng)
        real = predicted * np.exp(rng.normal(0, 0.1) + np.cumsum(rng.normal(0, walk, 9)))
        sweep, again = (real * np.exp(rng.normal(0, 0.02, 9)) for _ in range(2))
        bound = float(np.exp(rng.uniform(np.log(real.min()), np.log(real.max())))) if slo else None
        known, chosen = adaptive(paper(predicted), again, bound)
        assert len(chosen) <= 3
        steps = math.log2(known.knee(2**62).batch / knee_of(GRID, sweep).batch)
        near += abs(steps) <= 1
        left = [i for i, b in enumerate(GRID) if b not in chosen]
        errors.append(np.mean(np.abs(known.grid_seconds[left] / sweep[left] - 1)))
    assert near >= 0.95 * runs
    assert np.mean(errors) < 0.10


def test_the_slo_draws_a_measurement_to_its_crossing():
    seconds = [1.0 + b / 2 for b in GRID]  # the knee is far below
    bound = 1.0 + 100 / 2
    _, chosen = adaptive(paper(seconds), np.asarray(seconds), bound)
    assert 2 in chosen and set(chosen) & {64, 128}
    assert not set(adaptive(paper(seconds), np.asarray(seconds))[1]) & {64, 128}
    sharp = [max(1.0, b / 2) for b in GRID]  # the knee is as good as known
    _, chosen = adaptive(paper(sharp), np.asarray(sharp), 100 / 2)
    assert {64, 128} <= set(chosen)


def test_what_cannot_be_measured_is_not_chosen():
    known = estimate_of(paper([1.0 + b / 16 for b in GRID]), {})
    assert next_batch(known, (), (), 8, None) <= 8
    first = next_batch(known, (), (), 2**62, None)
    assert next_batch(known, (), (first,), 2**62, None) != first
    assert next_batch(known, GRID[:4], GRID[4:], 2**62, None) is None
    assert next_batch(known, (), (), 0, None) is None


@pytest.mark.parametrize(("n", "points"), [(1, 1), (2, 2), (3, 2), (4, 2), (6, 2), (7, 3), (9, 3), (10, 4), (12, 4)])
def test_at_most_a_third_of_the_grid_is_measured(n, points):
    assert budget_of(range(n)) == points
