"""Errors of predictions against published or own measurements: by file, metric, gpu, dtype, framework and regime."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from ridgepoint.study.published.table import Floats, Mask, Texts
from ridgepoint.study.scoring import Scored

__all__ = ["ALL", "ScoreLine", "score_lines"]

ALL = "all"
"""The regime of a row that counts every regime."""


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """Errors of the rows of one group; APE = |predicted - measured| / measured, bias = median of predicted / measured."""

    file: str
    kind: str
    model: str
    metric: str
    gpu: str
    dtype: str
    framework: str
    version: str
    """"all": every version together."""
    regime: str
    n: int
    median_ape: float
    mape: float
    p90_ape: float
    bias: float
    coverage80: float
    """Share of measurements inside the 80 % interval."""
    width80: float
    """Median of high / low - 1."""
    roofline_median_ape: float
    roofline_mape: float
    steps: str
    """In what the rows differ from what the parameters were fitted on; "" for the same machine and stack."""
    in_sample: bool


def score_lines(scored: Sequence[Scored]) -> list[ScoreLine]:
    """One line for each regime of each (file, metric, model, gpu, dtype, framework), one for all regimes, and, where there
    are several versions of the framework, the same for each version."""
    out = []
    for key, members in _grouped(scored).items():
        versions = sorted({m.version for m in members})
        chosen: list[tuple[str, list[Scored]]] = [(ALL if len(versions) > 1 else versions[0], members)]
        if len(versions) > 1:
            chosen += [(v, [m for m in members if m.version == v]) for v in versions]
        for (version, group), model in product(chosen, sorted({str(x) for m in members for x in m.models})):
            out += _lines(key, version, model, group)
    return out


def _grouped(scored: Iterable[Scored]) -> dict[tuple[str, ...], list[Scored]]:
    out: dict[tuple[str, ...], list[Scored]] = {}
    for s in scored:
        out.setdefault((s.file, s.kind, s.metric, s.gpu, s.dtype, s.framework), []).append(s)
    return out


def _lines(key: tuple[str, ...], version: str, model: str, group: Sequence[Scored]) -> list[ScoreLine]:
    ours = [s.models == model for s in group]
    regimes = sorted({str(r) for s, mine in zip(group, ours, strict=True) for r in s.regimes[mine]})
    out = []
    for regime in [ALL, *(regimes if len(regimes) > 1 or regimes != [""] else [])]:
        masks = [mine & _of(s.regimes, regime) for s, mine in zip(group, ours, strict=True)]
        if any(mask.any() for mask in masks):
            out.append(_line(key, version, model, regime, group, masks))
    return out


def _of(regimes: Texts, regime: str) -> Mask:
    return np.full(len(regimes), True) if regime == ALL else regimes == regime


def _line(
    key: tuple[str, ...], version: str, model: str, regime: str, group: Sequence[Scored], masks: Sequence[Mask]
) -> ScoreLine:
    def column(name: str) -> Floats:
        return np.concatenate([getattr(s, name)[mask] for s, mask in zip(group, masks, strict=True)])

    measured, predicted, low, high = (column(x) for x in ("measured", "predicted", "low", "high"))
    ape = np.abs(predicted - measured) / measured
    flat = np.abs(column("roofline") - measured) / measured
    file, kind, metric, gpu, dtype, framework = key
    steps = sorted({step for s, mask in zip(group, masks, strict=True) if mask.any() for step in s.steps})
    return ScoreLine(
        file=file, kind=kind, model=model, metric=metric, gpu=gpu, dtype=dtype, framework=framework, version=version,
        regime=regime, n=len(measured), median_ape=float(np.median(ape)), mape=float(ape.mean()),
        p90_ape=float(np.quantile(ape, 0.9)), bias=float(np.median(predicted / measured)),
        coverage80=float(((low <= measured) & (measured <= high)).mean()), width80=float(np.median(high / low - 1.0)),
        roofline_median_ape=float(np.median(flat)), roofline_mape=float(flat.mean()), steps="+".join(steps),
        in_sample=any(s.in_sample for s, mask in zip(group, masks, strict=True) if mask.any()),
    )  # fmt: skip
