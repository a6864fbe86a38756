"""Mixtures of formats: the search against every assignment there is, and the whole of it on a model of eight layers."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgepoint.study.mixed_search import by_cost, cheapest

EIGHT = Path(__file__).parent / "data" / "eight"
tables = st.integers(2, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.floats(0.1, 9), min_size=3, max_size=3), min_size=n, max_size=n),
        st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=n, max_size=n),
    )
)


def total(table, assignment):
    return sum(table[i][f] for i, f in enumerate(assignment))


@given(tables, st.floats(0.1, 4))
@settings(deadline=None, max_examples=60)
def test_assignments_come_in_the_order_of_their_cost_and_none_is_missing(both, most):
    cost, loss = both
    found = list(by_cost(np.array(cost), np.array(loss), most))
    allowed = [a for a in itertools.product(range(3), repeat=len(cost)) if total(loss, a) <= most - 1e-9]
    assert {a for _, _, a in found} >= set(allowed)
    prices = [p for p, _, _ in found]
    assert all(b >= a - 1e-6 for a, b in itertools.pairwise(prices))
    assert all(s <= most + 1e-9 for _, s, _ in found)


@given(tables, st.floats(0.1, 3), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_the_search_finds_what_trying_everything_finds(both, tolerance, seed):
    """Ratios of measured to summed losses that differ by less than the room that the search leaves."""
    cost, loss = both
    every = list(itertools.product(range(3), repeat=len(cost)))
    factors = dict(zip(every, np.random.default_rng(seed).uniform(0.9, 1.1, len(every)), strict=True))

    def measured(assignment):
        return total(loss, assignment) * factors[assignment]

    within = [a for a in every if measured(a) <= tolerance]
    found = cheapest(cost, loss, tolerance, measured, most_tried=10_000, patience=10_000)
    assert found.complete
    if not within:
        assert found.assignment is None
        return
    least = min(total(cost, a) for a in within)
    assert found.assignment is not None and measured(found.assignment) <= tolerance
    assert total(cost, found.assignment) == pytest.approx(least, rel=1e-6)


def test_a_search_that_may_not_go_on_says_so():
    found = cheapest([[2.0, 1.0]] * 4, [[0.0, 0.1]] * 4, 0.35, lambda a: 0.36, most_tried=3)
    assert found.assignment is None and found.tried == 3 and not found.complete


def test_nothing_within_the_tolerance_is_nothing_found():
    assert cheapest([[2.0, 1.0]] * 3, [[0.5, 0.6]] * 3, 0.1, lambda a: 9.0).assignment is None


@pytest.mark.slow
def test_on_a_model_of_eight_layers_the_search_equals_trying_all_256_mixtures():
    pytest.importorskip("torch")
    from ridgepoint.measurement.request import MixedRequest, SideRequest, TextRequest
    from ridgepoint.measurement.session import Session
    from ridgepoint.study.accuracy import paired_difference
    from ridgepoint.workload import load_model

    decoder = load_model(str(EIGHT))
    every = tuple(itertools.product((0, 1), repeat=8))
    request = MixedRequest(
        decoder=decoder, directory=str(EIGHT),
        sides=tuple(SideRequest(spec=s, device="cpu") for s in ("bf16+threads:1", "bf16+int4:g32+threads:1")),
        text=TextRequest(path=str(EIGHT / "heldout.txt"), protocol="windows", windows=16), assignments=every,
    )  # fmt: skip
    with Session() as session:
        seen = {tuple(m["assignment"]): m["windows"] for m in session.ask(request) if m["kind"] == "assignment"}
    zero = [w["loss"] for w in seen[every[0]]]

    def measured(assignment):
        return paired_difference(zero, [w["loss"] for w in seen[assignment]], 0.01).high

    kl = {a: float(np.mean([w["kl"] for w in windows])) for a, windows in seen.items()}
    alone = [tuple(int(i == j) for j in range(8)) for i in range(8)]
    loss = [[0.0, max(0.0, kl[a] - kl[every[0]])] for a in alone]
    cost = [[1.0, 0.3 + 0.01 * i] for i in range(8)]  # all different, so that the cheapest is one
    for share in (0.3, 0.5, 0.8):
        tolerance = share * measured(every[-1])
        within = [a for a in every if measured(a) <= tolerance]
        best = min(within, key=lambda a: total(cost, a))
        found = cheapest(cost, loss, tolerance, measured, most_tried=256)
        assert found.assignment == best, (share, found)
        assert found.tried < 64


@pytest.mark.slow
def test_ridge_mix_from_the_command_line(tmp_path, ridge):
    pytest.importorskip("torch")
    on = ("--on", Path(__file__).parent / "data" / "test-target.calibrated.toml")
    text = ("--text", EIGHT / "heldout.txt", "--windows", "8")
    ran = ridge("mix", EIGHT, "bf16..int8,int4", *on, *text, "--isl", "16", "--json", "--report", tmp_path / "mix.html")
    found = json.loads(ran.out)
    assert ran.code == 0 and len(found["sensitivity"]) == 16 and "<svg" in (tmp_path / "mix.html").read_text()
    assert found["assignment"] is None or found["high"] <= found["tolerance"]


@pytest.mark.parametrize("words, says", [
    (("pocket", "bf16..int8:dyn"), "layers of one model share a dtype"),
    (("pocket", "bf16..int8:layers=1"), "no weight format for whole layers"),
    (("pocket", "bf16..math"), "no weight format for whole layers"),
    (("smollm2-135m", "bf16..int8"), "needs a language model with its weights"),
    (("pocket", "bf16..int8", "--by", "money"), "--by is time or memory"),
    (("pocket", "bf16..int8", "--tol", "much"), "--tol takes a share of perplexity"),
])  # fmt: skip
def test_what_cannot_be_mixed_is_refused_in_one_line(ridge, words, says):
    pytest.importorskip("torch")
    ran = ridge("mix", *words, "--on", Path(__file__).parent / "data" / "test-target.calibrated.toml")
    assert ran.code == 2 and says in ran.complaint
