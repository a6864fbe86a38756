"""Laws of what modules beyond decoders are made of: convolutions, products of activations, and tensors beyond the cache."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ridgepoint.hardware import PointwiseLaw, Target
from ridgepoint.hardware.law_contraction import ContractionLaw, matmul_terms
from ridgepoint.hardware.nonnegative import fit_nonnegative
from ridgepoint.prediction.contraction import far_of_matmul
from ridgepoint.prediction.convolution import form_shares, passes_of, terms_of
from ridgepoint.prediction.used import far_share
from ridgepoint.study.fit_cache import fit_near
from ridgepoint.workload import DTYPE_BYTES, POINTWISE, Conv, Matmul

__all__ = ["with_modules"]

Sample = Mapping[str, Any]
Key = tuple[str, str, str, str]
"""Kind, form, dtype, layout."""


def with_modules(target: Target, samples: Sequence[Sample], source: str) -> Target:
    """The target with these laws; as it is where the modules stage was not measured."""
    groups: dict[Key, list[tuple[Conv | Matmul, float]]] = defaultdict(list)
    for s in samples:
        if s["probe"] in ("conv", "matmul"):
            op = _conv(s) if s["probe"] == "conv" else _matmul(s)
            form = next(iter(form_shares(op, 1))) if isinstance(op, Conv) else "shared" if op.shared else ""
            groups[op.kind, form, s["act"], s.get("layout", "")].append((op, float(s["seconds"])))
    far = {(s["kind"], s["act"]): s for s in samples if s["probe"] == "far"}
    pointwise = tuple(_with_far(law, far.get((law.kind, law.dtype)), target) for law in target.pointwise)
    copies = {law.dtype: law.far_element_s / _COPIED for law in pointwise if law.kind == "copy"}
    laws = tuple(_law(target, key, points, copies.get(key[2], 0.0), source) for key, points in groups.items())
    return msgspec.structs.replace(
        target,
        contraction=laws,
        pointwise=pointwise,
        autograd_call_s=_autograd(samples),
        near=fit_near(samples, source),
    )


def _autograd(samples: Sequence[Sample]) -> dict[str, float]:
    """Per call beyond inference mode, by mode, and of products apart."""
    per_call = {(s["chain"], s["mode"]): s["seconds"] / s["calls"] for s in samples if s["probe"] == "autograd"}
    return {
        mode if chain == "pointwise" else f"{mode} product": max(0.0, seconds - per_call[chain, "inference"])
        for (chain, mode), seconds in per_call.items() if mode != "inference"
    }  # fmt: skip


_COPIED = 2
"""A copied element is read and written: two that may lie far."""
_LEAST_NEAR = 0.2


def _conv(s: Sample) -> Conv:
    out = _side_out(s)
    return Conv(
        name="conv", batch=s["batch"], channels_in=s["channels_in"], n=s["n"], window=s["window"] ** 2, groups=s["groups"],
        pixels_in=s["side"] ** 2, pixels_out=out**2, dtype=s["act"], spread=s["stride"] > 1, transposed=s["transposed"],
        bias=True, layout=s["layout"],
    )  # fmt: skip


def _side_out(s: Sample) -> int:
    """Height and width of the result, with the padding that the probe uses."""
    side, window, stride = s["side"], s["window"], s["stride"]
    if s["transposed"]:
        return (side - 1) * stride + window
    padding = 0 if window == stride else window // 2
    return (side + 2 * padding - window) // stride + 1


def _matmul(s: Sample) -> Matmul:
    return Matmul("matmul", s["batch"], s["m"], s["n"], s["k"], s["act"], s["shared"])


def _law(
    target: Target, key: Key, points: Sequence[tuple[Conv | Matmul, float]], far_s: float, source: str
) -> ContractionLaw:
    """What an element in far memory costs is taken from copies and the rest fitted: few shapes tell the two apart."""
    kind, form, dtype, layout = key
    matrix = np.array([_features(op, form, target) for op, _ in points])
    seconds = np.array([s for _, s in points])
    if form == "shared":  # read from beyond the second-level cache, not from memory: fitted
        *terms, far_s = (float(c) for c in fit_nonnegative(matrix, seconds))
    else:
        near = np.maximum(seconds - far_s * matrix[:, -1], _LEAST_NEAR * seconds)
        terms = [float(c) for c in fit_nonnegative(matrix[:, :-1], near)]
    return ContractionLaw(
        kind=kind, form=form, dtype=dtype, layout=layout, threads=1, terms=tuple(terms), far_element_s=far_s,
        sigma=_sigma(matrix, seconds, [*terms, far_s]), source=source,
    )  # fmt: skip


def _sigma(matrix: Any, seconds: Any, coefficients: Sequence[float]) -> float:
    """Standard deviation of the log residuals with as many degrees of freedom as the fit leaves, at least 3 %; 0.3 where it
    leaves none. Leaving shapes out instead would take away the only ones that tell some term."""
    used = sum(c > 0 for c in coefficients)
    if len(seconds) <= used:
        return 0.3
    errors = np.log(seconds / (matrix @ np.asarray(coefficients)))
    return max(0.03, float(np.sqrt(np.sum(errors**2) / (len(seconds) - used))))


def _features(op: Conv | Matmul, form: str, target: Target) -> list[float]:
    if isinstance(op, Conv):
        terms, far = terms_of(op, form), far_share(op.activation_bytes, target)
        elements = passes_of(op, form) * (op.inputs + op.outputs)
    else:
        terms = matmul_terms(op.batch, op.elements, op.batch * op.m * op.n * op.k)
        elements, far = far_of_matmul(op, target)
    if form == "shared":  # nothing but the work for each of the batch: small ones must not pay for a call of the large
        terms = (terms[0] * 0, *terms[1:])
    return [*(float(t) for t in terms), float(elements * far)]


def _with_far(law: PointwiseLaw, sample: Sample | None, target: Target) -> PointwiseLaw:
    """What an element costs more in tensors beyond the cache, by one point that lies far beyond it."""
    if sample is None:
        return law
    elements = float(sample["rows"]) * float(sample["cols"])
    kind = POINTWISE[law.kind]
    share = float(far_share((kind.reads + kind.writes) * elements * DTYPE_BYTES[law.dtype], target))
    near = float(law.seconds(sample["rows"], sample["cols"]))
    extra = max(0.0, float(sample["seconds"]) - near) / (elements * share) if share > 0 else 0.0
    return msgspec.structs.replace(law, far_element_s=extra)
