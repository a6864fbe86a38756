"""Laws of sparse rows from the samples of `ridge calibrate --sparse`."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ridgepoint.hardware import LinearLaw
from ridgepoint.hardware.law import sparse_terms
from ridgepoint.study.fit import fit_terms, robust_sigma

__all__ = ["fit_sparse"]

Sample = Mapping[str, Any]


def fit_sparse(samples: Iterable[Sample], source: str, dense: Sequence[LinearLaw] = ()) -> tuple[LinearLaw, ...]:
    """A law per (kernel, activations): at each m one non-negative fit for cold weights and one for hot, as of dense layers.

    `dense`: the laws of the base calibration. The stage measures its fp32 kernel once more, and its own times are scaled by how
    much that differs at as many rows: a ratio to the base's laws is what they are for, and machines drift in between.
    """
    groups: dict[tuple[str, ...], list[Sample]] = defaultdict(list)
    samples = list(samples)
    drift = _drift(samples, dense)
    for s in samples:
        if drift and s["probe"] == "sparse" and "absent" not in s:
            factor = float(np.interp(np.log(s["m"]), np.log(list(drift)), list(drift.values())))
            s = {**s, "seconds": s["seconds"] * factor}
        if s["probe"] == "sparse" and "absent" not in s:
            groups[s["kernel"], s["rung"], s["act"]].append(s)
    return tuple(_law(key, group, source) for key, group in groups.items())


def _drift(samples: Sequence[Sample], dense: Sequence[LinearLaw]) -> dict[float, float]:
    """Rows -> time by the base's law over the time now, the middle of all shapes; {} without a reference."""
    law = next((x for x in dense if (x.format, x.act, x.rung) == ("fp32", "fp32", "dense")), None)
    found: dict[float, list[float]] = defaultdict(list)
    for s in samples:
        if law is not None and s["probe"] == "sparse reference" and "absent" not in s:
            then = float(law.seconds(s["m"], s["n"], s["k"], 0.0 if s["hot"] else 1.0))
            found[float(s["m"])].append(then / s["seconds"])
    return {m: float(np.median(ratios)) for m, ratios in sorted(found.items())}


def _law(key: tuple[str, ...], samples: Sequence[Sample], source: str) -> LinearLaw:
    grid = sorted({s["m"] for s in samples})
    cold, hot, errors = [], [], []
    for m in grid:
        rows, left_out = fit_terms([s for s in samples if s["m"] == m and not s["hot"]], _features)
        cold.append(rows)
        errors.extend(left_out)
        near = [s for s in samples if s["m"] == m and s["hot"]]
        if not near:  # where arithmetic decides
            hot.append(rows)
            continue
        rows, left_out = fit_terms(near, _features)
        far = rows[2] or cold[-1][2]  # small matrices tell nothing of inputs beyond the near cache
        hot.append((*rows[:2], far, *rows[3:]))
        errors.extend(left_out)
    kernel, rung, act = key
    return LinearLaw(
        kernel=kernel, rung=rung, format="csr", act=act, threads=1, m=tuple(float(m) for m in grid), cold=tuple(cold),
        hot=tuple(hot), sigma=robust_sigma(errors), source=source, near_bytes=float(samples[0]["near_bytes"]),
    )  # fmt: skip


def _features(samples: Sequence[Sample]) -> npt.NDArray[np.float64]:
    m, n, k, stored = (np.array([float(s[name]) for s in samples]) for name in ("m", "n", "k", "stored"))
    return np.stack(sparse_terms(m, n, k, stored / (n * k), float(samples[0]["near_bytes"])), axis=1)
