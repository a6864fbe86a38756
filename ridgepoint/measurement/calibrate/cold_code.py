"""What an operator costs more when its code has left the last-level cache since its last call."""

from collections.abc import Collection, Iterator
from typing import Any

from ridgepoint.errors import NotSupported
from ridgepoint.measurement.calibrate.attention import ATTENTION_KERNELS, attention_pool
from ridgepoint.measurement.calibrate.grid import ATTENTION_DECODE, PROBES
from ridgepoint.measurement.calibrate.linear import DTYPES, probe_kernel
from ridgepoint.measurement.calibrate.pointwise import Made, behind_s, kinds_of
from ridgepoint.measurement.calibrate.pool import STREAM_BYTES, weight_stream

__all__ = ["code_subjects", "cold_code_samples"]

_SHAPE = (128, 128)
"""So small that its weights do not count; k splits into groups of 128."""
_COLS = 640
_ROWS = (1, 48)
"""Of a pointwise operator its temporaries count too, so it is measured at two sizes."""
Subject = tuple[str, str, int, Made]


def cold_code_samples(cache_bytes: float, visits: int) -> Iterator[dict[str, Any]]:
    """A sample per operator: its time behind 4 MB of weights and behind twice the last-level cache."""
    import torch

    stream = weight_stream(cache_bytes)
    far = int(2 * cache_bytes / STREAM_BYTES)
    with torch.inference_mode():
        for subject, act, rows, made in code_subjects(torch):
            near_s, far_s = (
                behind_s(made, lambda count=count: [stream() for _ in range(count)], visits) for count in (1, far)
            )
            yield {
                "probe": "cold_code", "subject": subject, "act": act, "rows": rows, "cols": _COLS,
                "seconds_near": near_s, "seconds": far_s,
            }  # fmt: skip


def code_subjects(torch: Any, acts: Collection[str] = tuple(DTYPES)) -> Iterator[Subject]:
    """(subject, activations, rows, step) of every operator of a decoder and every packed kernel, on next to no data."""
    from ridgepoint.kernels.attention import Attention

    for act, name in ((act, DTYPES[act]) for act in acts):
        dtype = getattr(torch, name)
        for kind, build in kinds_of(act).items():
            for rows in _ROWS:
                yield kind, act, rows, build(rows, _COLS, dtype)
        pool = attention_pool(Attention(ATTENTION_KERNELS["flash"]), "decode", ATTENTION_DECODE[0], dtype)
        yield "attention", act, 1, (pool.members[0][1], ())
    for probe in PROBES:
        if probe.rung == "naive" or probe.act not in acts:
            continue
        try:
            kernel = probe_kernel(probe)
        except NotSupported:
            continue
        n, k = _SHAPE
        module = kernel.pack(torch.randn(n, k) * 0.02, None, probe.act, probe.group)
        x = torch.randn(1, k).to(getattr(torch, DTYPES[probe.act]))
        yield probe.format, probe.act, 1, (lambda module=module, x=x: module(x), (x,))
