"""One row of the score: how right the predictions of a group of points, sides or operators were."""

from dataclasses import dataclass

__all__ = ["ScoreRow"]


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """Errors of one group of points: APE is |predicted / measured - 1|, of both sides' step times unless it says other."""

    group: str
    n: int
    """Points, each with two step times and one speed-up; by side steps; by operator rows of tables."""
    sign_right: int
    sign_n: int
    small_right: int
    small_n: int
    """Signs of effects from 3 to 10 %, reported apart."""
    tie_n: int | None
    """Points whose measured effect is below 3 %: they have no sign. None of steps and operators, which have none."""
    mape: float
    median_ape: float
    bias: float
    """Median of predicted / measured - 1."""
    speedup_mape: float | None
    coverage80: float | None
    """Share of measured speed-ups inside their predicted 80 % intervals (of operators: of their times)."""
    width: float | None
    """Median of high / low - 1 of those intervals."""
    flips_n: int
    flips_right: int
    """Within a factor of 1.5; missed and invented flips count as wrong. Of flips between ends that leave 1 by more than
    10 % on different sides, predicted or measured."""
    small_flips_n: int
    small_flips_right: int
    """The same for all other flips, reported apart: an end leaves 1 by only 5 to 10 %."""
    flip_error: float | None
    """Median factor between predicted and measured batch of all flips that are both; 1 is exact, None without any."""
    roofline_mape: float | None
    roofline_sign: float | None
    """None where no step has a roofline, or no effect exceeds 10 %."""
