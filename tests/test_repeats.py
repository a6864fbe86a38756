"""How far visits to a network are apart: from consecutive rounds of the same point, of nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgepoint.hardware.target import decode_target, encode_target
from ridgepoint.study import card
from ridgepoint.study.repeats import repeat_sigma


def visit(seconds, number, side="fp32", **more):
    net = {"hidden": 64}
    return {
        "probe": "composed",
        "net": net,
        "batch": 1,
        "new": 1,
        "side": side,
        "seconds": seconds,
        "round": number,
        **more,
    }


@given(st.floats(0.02, 0.3), st.integers(0, 100))
def test_the_spread_of_one_visit_is_found_again(sigma, seed):
    rng = np.random.default_rng(seed)
    samples = [visit(np.exp(rng.normal(0, sigma)), number, f"side {i}") for i in range(400) for number in range(3)]
    assert repeat_sigma(samples) == pytest.approx(sigma, rel=0.2)


def test_a_point_that_was_visited_once_tells_nothing():
    once = [visit(1.0, 0), visit(2.0, 0, "int8"), {"probe": "linear", "seconds": 1.0, "round": 1}]
    assert repeat_sigma(once) is None
    assert repeat_sigma([*once, {**visit(9.0, 1), "absent": "busy"}]) is None
    assert repeat_sigma([*once, visit(1.2, 2)]) == pytest.approx(1.4826 * np.log(1.2) / 2**0.5), (
        "rounds between may lack"
    )


def test_a_target_keeps_it_and_says_it(monkeypatch):
    rows = [(m, n, k, hot) for m in (1, 8) for n, k in ((64, 96), (300, 640), (512, 256)) for hot in (True, False)]
    samples = [
        {"probe": "linear", "kernel": "F.linear", "rung": "dense", "format": "fp32", "act": "fp32", "m": m, "n": n, "k": k,
         "hot": hot, "seconds": 1e-9 * n * k * m, "round": 0}
        for m, n, k, hot in rows
    ]  # fmt: skip
    seen = []
    for found, words in ((0.123, "12 % apart (standard deviation of one)"), (None, None)):
        monkeypatch.setattr(card, "repeat_sigma", lambda raw, found=found: seen.append(raw) or found)
        target = card.build_target(samples, "x", {}, "x", "2026-01-01", "r")
        assert target.checks.get("visits to a network") == words
        assert decode_target("x", encode_target(target)).repeat_sigma == found
    assert all(raw is samples for raw in seen), "of what was sampled, not of the best of each point"
