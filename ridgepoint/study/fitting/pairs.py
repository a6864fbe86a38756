"""Signs of the speed-ups of quantised products over 16-bit ones of the same shape, as predicted and as measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.gemm_format import FORMATS, GemmFormat
from ridgepoint.study.published.cells import measured_seconds
from ridgepoint.study.published.table import Floats, Table

__all__ = ["CLEAR", "PAIRED", "PairScore", "PredictedRows", "pair_scores"]

PAIRED = "gemm.csv"
"""The published table that has the same shapes in several formats."""
CLEAR = 1.1
"""Speed-ups beyond it, either way, have a sign that counts."""
_WHOLE = ("bf16", "fp16")
"""Formats that others are compared with; the first that a stack has."""


@dataclass(frozen=True)
class PredictedRows:
    """Matrix products of one machine, format and stack with their predicted seconds."""

    device: Device
    gpu: str
    dtype: str
    framework: str
    version: str
    table: Table
    predicted_s: Floats


@dataclass(frozen=True)
class PairScore:
    """Of the pairs of one machine, stack and format: how often each predictor has the sign of a clear effect right."""

    gpu: str
    framework: str
    version: str
    dtype: str
    pairs: int
    clear: int
    faster: int
    """Of the clear ones, those in which the quantised product is the faster."""
    right: float
    """A tie is half right, what was not predicted is wrong."""
    roofline_right: float
    """By max(FLOPs / peak, bytes / bandwidth) of the datasheet."""
    bytes_right: float
    """By compulsory bytes alone, which always say that fewer bits win."""
    median_ape: float
    """Of the speed-up, over all pairs."""


def pair_scores(rows: Sequence[PredictedRows]) -> Iterator[PairScore]:
    """One line for each machine, stack and format that has 16-bit products of the same shapes beside it."""
    whole = {(r.gpu, r.framework, r.version): r for dtype in reversed(_WHOLE) for r in rows if r.dtype == dtype}
    for b in rows:
        a = whole.get((b.gpu, b.framework, b.version))
        if a is not None and b.dtype not in _WHOLE:
            in_a, in_b = _same_shapes(a.table, b.table)
            if in_a:
                yield _score(a, b, in_a, in_b)


def _score(a: PredictedRows, b: PredictedRows, in_a: list[int], in_b: list[int]) -> PairScore:
    """Of the pairs (in_a[i], in_b[i]) of rows of both."""
    measured = measured_seconds(a.table)[in_a] / measured_seconds(b.table)[in_b]
    ours = a.predicted_s[in_a] / b.predicted_s[in_b]
    shape = tuple(a.table.number(name)[in_a] for name in "mnk")
    ends = [_bounds(x.device, FORMATS[x.dtype], *shape) for x in (a, b)]
    flat = np.maximum(*ends[0]) / np.maximum(*ends[1])
    by_bytes = ends[0][1] / ends[1][1]
    clear = np.maximum(measured, 1 / measured) > CLEAR
    right = [float(_right(x[clear], measured[clear])) for x in (ours, flat, by_bytes)]
    known = np.isfinite(ours)
    return PairScore(
        a.gpu, a.framework, a.version, b.dtype, len(measured), int(clear.sum()), int((measured[clear] > 1).sum()), *right,
        round(float(np.median(np.abs(ours[known] / measured[known] - 1))), 4) if known.any() else float("nan"),
    )  # fmt: skip


def _same_shapes(a: Table, b: Table) -> tuple[list[int], list[int]]:
    """Rows of both tables with the same m, n and k; of several with one shape, the last."""
    shapes = [
        {shape: i for i, shape in enumerate(zip(*(t.number(name).tolist() for name in "mnk"), strict=True))}
        for t in (a, b)
    ]
    both = [shape for shape in shapes[0] if shape in shapes[1]]
    return [shapes[0][s] for s in both], [shapes[1][s] for s in both]


def _bounds(device: Device, form: GemmFormat, m: Floats, n: Floats, k: Floats) -> tuple[Floats, Floats]:
    """FLOPs / peak and compulsory bytes / bandwidth."""
    moved = m * k * form.act_bytes + n * k * form.weight_bytes + m * n * form.out_bytes
    return 2.0 * m * n * k / form.peak(device), moved / device.dram_bytes_per_s


def _right(predicted: Floats, measured: Floats) -> Floats:
    """How many signs are right; no effect at all is right by half."""
    same = np.sign(np.log(predicted)) * np.sign(np.log(measured))
    return np.asarray(np.where(np.isfinite(predicted), (same + 1.0) / 2.0, 0.0).sum())
