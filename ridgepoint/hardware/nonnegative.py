"""Least squares with coefficients that cannot be negative, for laws whose every term is a physical cost."""

from itertools import combinations

import numpy as np
import numpy.typing as npt

__all__ = ["fit_nonnegative"]

Vector = npt.NDArray[np.float64]


def fit_nonnegative(features: Vector, seconds: Vector, noise: Vector | None = None) -> Vector:
    """Coefficients c >= 0 that minimise the relative error of features @ c against seconds.

    `features` [points, terms], `seconds` [points], all positive; with `noise` [points] the error in multiples of that, and
    `seconds` of any sign. Exact: a handful of terms allows trying every set of
    active ones. Each extra term must cut the summed squared relative error by a tenth, so that few points are not
    over-fitted. Raises ValueError when there are fewer points than one.
    """
    points, terms = features.shape
    if points == 0:
        raise ValueError("no points to fit")
    noise = seconds if noise is None else noise
    scaled, target = features / noise[:, None], seconds / noise
    norms = np.linalg.norm(scaled, axis=0)
    best, best_score = np.zeros(terms), np.inf
    usable = [i for i in range(terms) if norms[i] > 0]
    unit = scaled / np.where(norms > 0, norms, 1.0)
    gram, wanted = unit.T @ unit, (unit * target[:, None]).sum(axis=0)
    for size in range(1, min(len(usable), points) + 1):
        active = np.array(list(combinations(usable, size)))
        solutions, kept = _solve(gram[active[:, :, None], active[:, None, :]], wanted[active])
        for columns, solution in zip(active[kept], solutions, strict=True):
            error = float(np.sum((unit[:, columns] @ solution - target) ** 2)) + 1e-9
            if (score := error * 1.1**size) < best_score:
                best_score, best = score, np.zeros(terms)
                best[columns] = solution / norms[columns]
    return best


_SINGULAR = 1e-12


def _solve(gram: Vector, wanted: Vector) -> tuple[Vector, npt.NDArray[np.bool_]]:
    """Solutions of the normal equations of many sets at once, and which sets have one that is nowhere negative."""
    values = np.linalg.eigvalsh(gram)
    kept = values[:, 0] > _SINGULAR * values[:, -1]
    solutions = np.linalg.solve(gram[kept], wanted[kept][:, :, None])[:, :, 0]
    fine = (solutions >= 0).all(axis=1)
    kept[kept] = fine
    return np.asarray(solutions[fine], np.float64), kept
