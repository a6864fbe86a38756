"""Laws of sparse rows from the samples of `ridge calibrate --sparse`."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ridgepoint.hardware import LinearLaw
from ridgepoint.hardware.law import sparse_terms
from ridgepoint.study.fit import fit_terms, robust_sigma

__all__ = ["beside_dense", "fit_sparse"]

Sample = Mapping[str, Any]


def fit_sparse(samples: Iterable[Sample], source: str) -> tuple[LinearLaw, ...]:
    """A law per (kernel, activations): at each m one non-negative fit for cold weights and one for hot, as of dense layers.

    Its error is that of the fit together with how far rounds are apart: a bet is one visit more.
    """
    groups: dict[tuple[str, ...], list[Sample]] = defaultdict(list)
    for s in samples:
        if _is_rows(s):
            groups[s["kernel"], s["rung"], s["act"]].append(s)
    return tuple(_law(key, group, source) for key, group in groups.items())


def beside_dense(samples: Sequence[Sample], dense: Sequence[LinearLaw]) -> list[Sample]:
    """The samples, not yet merged, with those of sparse rows scaled to the speed at which the base was calibrated.

    `dense`: the laws of the base calibration. Each round of the stage measures its fp32 kernel once more, and times of the same
    round are multiplied by how much that differs at as many rows, from memory or from the cache: a ratio to the base's laws is
    what they are for, and machines drift in between. A round whose dense samples were lost is left out where another has them;
    without any, or without such a law, times stay as they are.
    """
    law = next((x for x in dense if (x.format, x.act, x.rung) == ("fp32", "fp32", "dense")), None)
    rounds: dict[tuple[int, bool], list[Sample]] = defaultdict(list)
    for s in samples:
        if s["probe"] == "sparse reference" and "absent" not in s:
            rounds[_round(s)].append(s)
    drifts = {key: _drift(law, reference) for key, reference in rounds.items()} if law is not None else {}
    known = {hot for _, hot in drifts}

    def lost(sample: Sample) -> bool:
        return _is_rows(sample) and sample["hot"] in known and _round(sample) not in drifts

    return [_scaled(s, drifts) if _is_rows(s) else s for s in samples if not lost(s)]


def _is_rows(sample: Sample) -> bool:
    return sample["probe"] == "sparse" and "absent" not in sample


def _round(sample: Sample) -> tuple[int, bool]:
    return sample.get("round", 0), sample["hot"]


def _scaled(sample: Sample, drifts: Mapping[tuple[int, bool], Mapping[float, float]]) -> Sample:
    if not (drift := drifts.get(_round(sample))):
        return sample
    factor = float(np.interp(np.log(sample["m"]), np.log(list(drift)), list(drift.values())))
    return {**sample, "seconds": sample["seconds"] * factor}


def _drift(law: LinearLaw, samples: Sequence[Sample]) -> dict[float, float]:
    """Rows -> time by the base's law over the time now, the middle of all shapes."""
    found: dict[float, list[float]] = defaultdict(list)
    for s in samples:
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
        told = _features(near).any(axis=0)  # small matrices tell nothing of inputs beyond a cache that holds theirs
        hot.append(tuple(row if tells else far for row, far, tells in zip(rows, cold[-1], told, strict=True)))
        errors.extend(left_out)
    kernel, rung, act = key
    apart = float(np.mean([s.get("apart", 0.0) for s in samples]))
    return LinearLaw(
        kernel=kernel, rung=rung, format="csr", act=act, threads=1, m=tuple(float(m) for m in grid), cold=tuple(cold),
        hot=tuple(hot), sigma=float(np.hypot(robust_sigma(errors), apart)), source=source,
        near_bytes=float(samples[0]["near_bytes"]), first_bytes=float(samples[0].get("first_bytes", 0.0)),
    )  # fmt: skip


def _features(samples: Sequence[Sample]) -> npt.NDArray[np.float64]:
    m, n, k, stored = (np.array([float(s[name]) for s in samples]) for name in ("m", "n", "k", "stored"))
    caches = float(samples[0]["near_bytes"]), float(samples[0].get("first_bytes", 0.0))
    return np.stack(sparse_terms(m, n, k, stored / (n * k), *caches), axis=1)
