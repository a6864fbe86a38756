"""What streams of weights displace: how long a small operator's code survives them, and how much more packing displaces."""

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import numpy as np

from ridgepoint.measurement.calibrate.linear import DTYPES, LinearBench
from ridgepoint.measurement.calibrate.pointwise import KINDS, Made, behind
from ridgepoint.measurement.calibrate.pool import STREAM_BYTES, weight_stream

__all__ = ["REFERENCE", "code_residency_samples", "displacement_samples"]

REFERENCE = ("rms_norm", "fp32")
"""The operator by which displacement is told: torch's norm runs several kernels, so much of its time is its code."""
_SUBJECTS = (REFERENCE, ("rms_norm", "bf16"), ("rope", "fp32"), ("rope", "bf16"), ("silu_mul", "bf16"))
_COLS = 640
_FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
_DISPLACED = 0.5
_ROWS = (1, 4, 16)


def code_residency_samples(cache_bytes: float, visits: int) -> Iterator[dict[str, Any]]:
    """Seconds of small operators behind a growing stream of other bytes: from 4 MB to twice the last-level cache."""
    import torch

    stream = weight_stream(cache_bytes)
    counts = sorted({1, *(max(1, round(f * cache_bytes / STREAM_BYTES)) for f in _FACTORS)})
    with torch.inference_mode():
        for kind, act in _SUBJECTS:
            made = KINDS[kind](1, _COLS, getattr(torch, DTYPES[act]))
            for count in counts:
                yield {
                    "probe": "code_residency", "subject": kind, "act": act, "bytes": float(count * STREAM_BYTES),
                    "seconds": _after(made, lambda count=count: [stream() for _ in range(count)], visits),
                }  # fmt: skip


def displacement_samples(bench: LinearBench, cache_bytes: float, visits: int) -> Iterator[dict[str, Any]]:
    """Seconds of the reference operator behind half a last-level cache of a kernel's weights, by rows.

    A kernel that packs or dequantises its weights writes a second copy, which displaces other data as well.
    """
    import torch

    if not bench.cold:
        return
    kind, act = REFERENCE
    dtype = getattr(torch, DTYPES[bench.probe.act])
    weights = cycle(bench.cold)
    with torch.inference_mode():
        made = KINDS[kind](1, _COLS, getattr(torch, DTYPES[act]))
        for rows in _ROWS:
            inputs = {key[1]: torch.randn(rows, key[1]).to(dtype) for key, _, _ in bench.cold}
            read = [0.0]

            def pass_by(inputs: dict[int, Any] = inputs, read: list[float] = read) -> None:
                read[0] = 0.0
                while read[0] < _DISPLACED * cache_bytes:
                    (_, k), module, size = next(weights)
                    module(inputs[k])
                    read[0] += size

            seconds = _after(made, pass_by, visits)
            yield {
                "probe": "displacement", "kernel": bench.kernel.name, "format": bench.probe.format, "act": bench.probe.act,
                "rung": bench.probe.rung, "m": rows, "passed_bytes": read[0], "seconds": seconds,
            }  # fmt: skip


def _after(made: Made, stream: Callable[[], object], visits: int) -> float:
    """Median seconds of the step behind the stream: how much of its code is left differs from visit to visit."""
    return float(np.median(behind(made, stream, visits))) * 1e-9
