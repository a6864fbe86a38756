"""Paired scores: Bonett and Price's interval by hand and by simulation, McNemar's p by enumeration, Student's for the rest."""

import itertools
import math

import numpy as np
import pytest

from ridgepoint.errors import BadInput
from ridgepoint.study.accuracy import paired_difference
from ridgepoint.study.paired_scores import flips, paired_scores


def pairs(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[float], list[float]]:
    a = [1.0] * (both + only_a) + [0.0] * (only_b + neither)
    b = [1.0] * both + [0.0] * only_a + [1.0] * only_b + [0.0] * neither
    return a, b


def test_interval_by_hand() -> None:
    """100 items, 10 lost, 3 won: (11 - 4) / 102 ± 1.96 sqrt((15/102 - (7/102)²) / 102)."""
    found = paired_scores(*pairs(60, 10, 3, 27), 0.01)
    half = 1.959964 * math.sqrt((15 / 102 - (7 / 102) ** 2) / 102)
    assert found.mean == pytest.approx(0.07)
    assert (found.low, found.high) == pytest.approx((7 / 102 - half, 7 / 102 + half))
    assert found.verdict == "undecided" and found.more > 0


@pytest.mark.parametrize(
    "lost,won,n", [(0.02, 0.02, 100), (0.05, 0.01, 100), (0.1, 0.1, 40), (0.0, 0.0, 50), (0.2, 0.05, 30)]
)
def test_the_interval_covers_the_truth(lost: float, won: float, n: int) -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        kind = rng.choice(3, n, p=[lost, won, 1 - lost - won])
        a = [0.0 if k == 1 else 1.0 for k in kind]
        b = [0.0 if k == 0 else 1.0 for k in kind]
        found = paired_scores(a, b, 0.01)
        inside += found.low <= lost - won <= found.high
    assert inside / 2000 >= 0.935


def test_no_difference_in_few_items_is_no_proof() -> None:
    few = paired_scores(*pairs(10, 0, 0, 5), 0.01)
    assert few.low < 0 < 0.01 < few.high and few.verdict == "undecided"
    assert paired_scores(*pairs(900, 0, 0, 100), 0.01).verdict == "harmless"
    assert paired_scores(*pairs(500, 200, 5, 295), 0.01).verdict == "loss"


def test_so_many_more_items_are_enough() -> None:
    found = paired_scores(*pairs(150, 4, 4, 42), 0.01)
    assert found.verdict == "undecided"
    scale = 1 + found.more / 200
    again = paired_scores(*pairs(*(math.ceil(x * scale) for x in (150, 4, 4, 42))), 0.01)
    assert again.verdict != "undecided"


@pytest.mark.parametrize("only_a,only_b", [(0, 0), (1, 0), (3, 3), (8, 1), (2, 9)])
def test_mcnemar_s_p_is_the_share_of_as_uneven_coin_tosses(only_a: int, only_b: int) -> None:
    found = flips(*pairs(5, only_a, only_b, 5))
    assert found is not None and (found.only_a, found.only_b) == (only_a, only_b)
    n = only_a + only_b
    tosses = [sum(t) for t in itertools.product((0, 1), repeat=n)]
    uneven = [abs(t - n / 2) >= abs(only_a - n / 2) for t in tosses]
    assert found.p == pytest.approx(sum(uneven) / len(uneven))


def test_other_scores_take_student_s_interval() -> None:
    rng = np.random.default_rng(0)
    a = rng.random(30)
    b = a - 0.05 + 0.01 * rng.random(30)
    assert paired_scores(a.tolist(), b.tolist(), 0.01) == paired_difference((-a).tolist(), (-b).tolist(), 0.01)
    assert paired_scores(a.tolist(), b.tolist(), 0.01).mean > 0
    assert flips(a.tolist(), b.tolist()) is None


def test_too_few_items() -> None:
    with pytest.raises(BadInput, match="7 items are too few"):
        paired_scores([1.0] * 7, [1.0] * 7, 0.01)
