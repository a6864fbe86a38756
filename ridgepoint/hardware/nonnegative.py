"""Least squares with coefficients that cannot be negative, for laws whose every term is a physical cost."""

from itertools import combinations

import numpy as np
import numpy.typing as npt

__all__ = ["fit_nonnegative"]

Vector = npt.NDArray[np.float64]


def fit_nonnegative(features: Vector, seconds: Vector) -> Vector:
    """Coefficients c >= 0 that minimise the relative error of features @ c against seconds.

    `features` [points, terms], `seconds` [points], all positive. Exact: a handful of terms allows trying every set of
    active ones. Each extra term must cut the summed squared relative error by a tenth, so that few points are not
    over-fitted. Raises ValueError when there are fewer points than one.
    """
    points, terms = features.shape
    if points == 0:
        raise ValueError("no points to fit")
    scaled = features / seconds[:, None]
    best, best_score = np.zeros(terms), np.inf
    for size in range(1, min(terms, points) + 1):
        for active in combinations(range(terms), size):
            solution = _solve(scaled[:, active])
            if solution is None:
                continue
            error = float(np.sum((scaled[:, active] @ solution - 1.0) ** 2)) + 1e-9
            score = error * 1.1**size
            if score < best_score:
                best_score = score
                best = np.zeros(terms)
                best[list(active)] = solution
    return best


def _solve(scaled: Vector) -> Vector | None:
    norms = np.linalg.norm(scaled, axis=0)
    if not norms.all():
        return None
    solution, _, rank, _ = np.linalg.lstsq(scaled / norms, np.ones(len(scaled)), rcond=1e-10)
    if rank < scaled.shape[1] or (solution < 0).any():
        return None
    return solution / norms
