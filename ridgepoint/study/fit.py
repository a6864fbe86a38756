"""Turns the raw samples of a calibration into laws: few coefficients, each with the error it makes on points not fitted."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ridgepoint.hardware import AttentionLaw, LinearLaw, PointwiseLaw, ResidencyLaw, ScalingLaw
from ridgepoint.hardware.law import LONG_K, block_pairs, decode_terms, linear_terms, prefill_terms
from ridgepoint.hardware.nonnegative import fit_nonnegative

__all__ = [
    "by_point",
    "cold_code",
    "fit_attention",
    "fit_linear",
    "fit_pointwise",
    "fit_residency",
    "fit_scaling",
    "fit_terms",
    "merge_rounds",
    "robust_sigma",
    "robust_spread",
]

Sample = Mapping[str, Any]
Vector = npt.NDArray[np.float64]


def merge_rounds(samples: Iterable[Sample]) -> tuple[list[Sample], list[float]]:
    """One sample per point, and the best of the later half of its rounds over the best of the earlier half.

    The fastest of its rounds, because noise only adds time; of a network each figure takes its own fastest round. The mean
    for both residencies: other users of the cache come and go, and the bet is not made for the luckiest moment. The middle one
    of sparse rows: they gather from the core's own caches, which a neighbour on the same core shares at any time, and the
    luckiest is twice as fast as what a network meets.
    """
    merged, ratios = [], []
    for rounds in by_point(samples):
        if rounds[0]["probe"] in _SHARED:
            merged.append({**rounds[0], "seconds": float(np.mean([s["seconds"] for s in rounds]))})
        elif rounds[0]["probe"] == "sparse":
            merged.append(_middle(rounds))
        elif rounds[0]["probe"] not in _SEVERAL and "seconds" in rounds[0]:
            merged.append(_with_best_ops(min(rounds, key=lambda s: s["seconds"]), rounds))
            if len(rounds) > 1:
                early, late = rounds[: len(rounds) // 2], rounds[len(rounds) // 2 :]
                ratios.append(min(s["seconds"] for s in late) / min(s["seconds"] for s in early))
        else:
            merged.append(_best_rates(rounds))
    return merged, ratios


def by_point(samples: Iterable[Sample]) -> Iterable[list[Sample]]:
    """The samples of each point, of all its rounds in the order in which they were taken."""
    points: dict[str, list[Sample]] = defaultdict(list)
    for s in samples:
        points[str(sorted((k, str(v)) for k, v in s.items() if k not in _MEASURED))].append(s)
    return points.values()


def _middle(rounds: Sequence[Sample]) -> Sample:
    """With `apart`: how far the rounds are from it, as a robust standard deviation of their logarithms."""
    seconds = np.array([s["seconds"] for s in rounds])
    middle = float(np.median(seconds))
    return {**rounds[0], "seconds": middle, "apart": robust_spread(np.log(seconds / middle))}


def _with_best_ops(best: Sample, rounds: Sequence[Sample]) -> Sample:
    """Each operator's best round; of a module the rows are shares of their own step, and stay with it."""
    if "ops" not in best or best["probe"] == "module net":
        return best
    return {**best, "ops": {name: min(s["ops"][name] for s in rounds) for name in best["ops"]}}


_MEASURED = frozenset(
    ("seconds", "spread", "n_samples", "round", "speedup", "load", "flops_per_s", "seconds_twice", "seconds_near", "ops",
     "read_bytes_per_s", "passed_bytes",
     "copy_bytes_per_s", "resolution_s", "call_s")
)  # fmt: skip
_SHARED = ("residency", "code_residency")
_SEVERAL = ("peak", "cold_code", "near_code")
"""Probes with several figures a sample: each takes its own better round."""
_RATES = ("flops_per_s", "read_bytes_per_s", "copy_bytes_per_s")


def _best_rates(rounds: Sequence[Sample]) -> Sample:
    best = dict(rounds[0])
    for key in _RATES:
        if key in best:
            best[key] = max((s[key] for s in rounds if s[key] is not None), default=None)
    for key in ("seconds", "seconds_twice", "seconds_near"):
        if key in best:
            best[key] = min(s[key] for s in rounds)
    return best


def fit_linear(samples: Iterable[Sample], source: str) -> tuple[LinearLaw, ...]:
    """A law per (kernel, format, activations): at each m one non-negative fit for cold weights and one for hot."""
    groups: dict[tuple[str, ...], list[Sample]] = defaultdict(list)
    for s in samples:
        if s["probe"] == "linear" and "absent" not in s:
            groups[s["kernel"], s["rung"], s["format"], s["act"]].append(s)
    return tuple(_linear_law(key, group, source) for key, group in groups.items())


def _linear_law(key: tuple[str, ...], samples: Sequence[Sample], source: str) -> LinearLaw:
    kernel, rung, form, act = key
    multiples = samples[0].get("multiples", (1, 1))
    grid = sorted({s["m"] for s in samples})
    cold_rows, hot_rows, errors = [], [], []
    for m in grid:
        cold = [s for s in samples if s["m"] == m and not s["hot"]]
        hot = [s for s in samples if s["m"] == m and s["hot"]]
        coefficients, left_out = _fit_linear(cold)
        cold_rows.append(coefficients)
        errors.extend(left_out)
        hot_coefficients, left_out = _fit_linear(hot) if hot else (None, [])
        hot_rows.append(_hot_row(coefficients, hot_coefficients))
        errors.extend(left_out)
    return LinearLaw(
        kernel=kernel, rung=rung, format=form, act=act, threads=1, m=tuple(float(m) for m in grid),
        cold=tuple(cold_rows), hot=tuple(hot_rows), sigma=robust_sigma(errors), source=source,
        n_multiple=multiples[0], k_multiple=multiples[1],
    )  # fmt: skip


def _hot_row(cold: tuple[float, ...], hot: tuple[float, ...] | None) -> tuple[float, ...]:
    """Where nothing was measured hot (compute-bound rows) it is as cold; wide outputs are not measured hot either."""
    return cold if hot is None else (*hot[:-1], cold[-1])


def _linear_features(samples: Sequence[Sample]) -> Vector:
    n, k = (np.array([float(s[key]) for s in samples]) for key in ("n", "k"))
    return np.stack(linear_terms(n, k), axis=1)


def _one_rate(samples: Sequence[Sample]) -> Vector:
    """The same with one rate for all weights, in the first of the three columns; the others are 0."""
    matrix = _linear_features(samples)
    weights = matrix[:, 1:4].sum(axis=1)
    matrix[:, 1:4] = 0.0
    matrix[:, 1] = weights
    return matrix


def _fit_linear(samples: Sequence[Sample]) -> tuple[tuple[float, ...], list[float]]:
    """Three rates of weights where at least two row lengths lie in the shortest and in the longest stretch, else one."""
    lengths = {s["k"] for s in samples}
    short, long = LONG_K
    if sum(k <= short for k in lengths) >= 2 and sum(k > long for k in lengths) >= 2:
        return fit_terms(samples, _linear_features)
    (call, weights, _, _, *rest), errors = fit_terms(samples, _one_rate)
    return (call, weights, weights, weights, *rest), errors


def cold_code(samples: Iterable[Sample]) -> dict[tuple[str, str], tuple[float, float]]:
    """(subject, activations) -> seconds per call and per element that it costs more when it has left the cache."""
    groups: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for s in samples:
        if s["probe"] == "cold_code":
            elements = float(s.get("rows", 1)) * float(s.get("cols", 0))
            groups[s["subject"], s["act"]].append((elements, max(0.0, s["seconds"] - s["seconds_near"])))
    return {key: _line(sorted(points)) for key, points in groups.items()}


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Intercept and slope, neither negative, through the first and the last of points sorted by x."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    slope = max(0.0, (y1 - y0) / (x1 - x0)) if x1 > x0 else 0.0
    return max(0.0, y0 - slope * x0), slope


def fit_attention(samples: Iterable[Sample], source: str) -> tuple[AttentionLaw, ...]:
    """A law per (kernel, dtype): one fit for decode, one for prefill."""
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for s in samples:
        if s["probe"] == "attention":
            groups[s["kernel"], s["act"]].append(s)
    laws = []
    for (kernel, act), group in groups.items():
        single = [s for s in group if s["phase"] == "decode"]
        decode, decode_errors = fit_terms(single, _decode_features) if single else (_NO_DECODE, [])
        prefill, prefill_errors = fit_terms([s for s in group if s["phase"] == "prefill"], _prefill_features)
        sigma = robust_sigma([*decode_errors, *prefill_errors])
        laws.append(
            AttentionLaw(
                kernel=kernel, dtype=act, threads=1, decode=decode, prefill=prefill, sigma=sigma, source=source
            )
        )
    return tuple(laws)


_NO_DECODE = (0.0,) * len(decode_terms(1, 1, 1, 1))
"""Of a kernel that is not used for single tokens."""


def _columns(samples: Sequence[Sample], *names: str) -> tuple[Vector, ...]:
    return tuple(np.array([float(s[name]) for s in samples]) for name in names)


def _decode_features(samples: Sequence[Sample]) -> Vector:
    b, h, kv, d, length = _columns(samples, "batch", "heads", "kv_heads", "head_dim", "length")
    return np.stack(decode_terms(b * h, length, d, 2 * b * kv * length * d), axis=1)


def _prefill_features(samples: Sequence[Sample]) -> Vector:
    b, h, d, length = _columns(samples, "batch", "heads", "head_dim", "length")
    few = len(samples) < _FEW_SHAPES
    pairs = [t * _pairs(s, n) for s, t, n in zip(samples, b * h, length, strict=True)]
    matrix = np.stack(prefill_terms(b * h, length, np.array(pairs), d), axis=1)
    if few:  # a kernel that is compiled for each shape has few, which tell rates per element, not per row and pair
        matrix[:, (1, 3)] = 0.0
    return matrix


def _pairs(sample: Sample, length: float) -> float:
    """Pairs of one head that the kernel computes: of FlexAttention whole blocks."""
    if sample["kernel"] == "flex":
        return float(block_pairs(length, length, int(sample["window"])))
    return length * (length + 1) / 2


_FEW_SHAPES = 6
"""Below it a fit of all five terms would go through every point."""


def fit_pointwise(samples: Iterable[Sample], source: str) -> tuple[PointwiseLaw, ...]:
    """A law per (kind, dtype): per call, per row, per element."""
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for s in samples:
        if s["probe"] == "pointwise":
            groups[s["kind"], s["act"]].append(s)
    laws = []
    for (kind, act), group in groups.items():
        terms, errors = fit_terms(group, _pointwise_features)
        call, row, element = terms
        laws.append(
            PointwiseLaw(
                kind=kind, dtype=act, threads=1, terms=(call, row, element), sigma=robust_sigma(errors), source=source
            )
        )
    return tuple(laws)


def _pointwise_features(samples: Sequence[Sample]) -> Vector:
    rows, cols = _columns(samples, "rows", "cols")
    return np.stack((np.ones_like(rows), rows, rows * cols), axis=1)


def fit_residency(samples: Iterable[Sample], source: str) -> ResidencyLaw | None:
    """Miss share by working set: the time above the smallest set's, over what the largest adds; made to grow."""
    points = sorted((s["working_set_bytes"], s["seconds"]) for s in samples if s["probe"] == "residency")
    if len(points) < 3:
        return None
    sizes, seconds = (np.array(column) for column in zip(*points, strict=True))
    low, high = np.min(seconds), float(np.mean(seconds[-2:]))
    miss = np.clip((seconds - low) / max(high - low, 1e-12), 0.0, 1.0)
    return ResidencyLaw(
        working_set_bytes=tuple(float(x) for x in sizes),
        miss=tuple(float(x) for x in np.maximum.accumulate(miss)),
        source=source,
    )


def fit_scaling(samples: Iterable[Sample], source: str) -> tuple[ScalingLaw, ...]:
    """Speed-up by rows for each subject."""
    groups: dict[tuple[str, int], list[Sample]] = defaultdict(list)
    for s in samples:
        if s["probe"] == "scaling" and "absent" not in s:
            groups[s["subject"], s["threads"]].append(s)
    laws = []
    for (subject, threads), group in groups.items():
        points = sorted((float(s["m"]), float(s["speedup"])) for s in group)
        m, speedup = zip(*points, strict=True)
        laws.append(ScalingLaw(subject=subject, threads=threads, m=m, speedup=speedup, source=source))
    return tuple(laws)


def fit_terms(
    samples: Sequence[Sample], features: Callable[[Sequence[Sample]], Vector]
) -> tuple[tuple[float, ...], list[float]]:
    """Coefficients over all samples, and the log error of each sample under the fit that leaves it out."""
    matrix, seconds = features(samples), np.array([float(s["seconds"]) for s in samples])
    coefficients = fit_nonnegative(matrix, seconds)
    errors = []
    if len(samples) > 2:
        for i in range(len(samples)):
            rest = np.arange(len(samples)) != i
            predicted = float(matrix[i] @ fit_nonnegative(matrix[rest], seconds[rest]))
            if predicted > 0:
                errors.append(float(np.log(seconds[i] / predicted)))
    return tuple(float(c) for c in coefficients), errors


def robust_sigma(errors: Sequence[float]) -> float:
    """Robust standard deviation of log errors, at least 2 %; 0.2 where there are none."""
    return max(0.02, robust_spread(errors)) if errors else 0.2


def robust_spread(errors: npt.ArrayLike) -> float:
    """1.4826 x median absolute value: the standard deviation of normal errors, whatever a quarter of outliers says."""
    return 1.4826 * float(np.median(np.abs(errors)))
