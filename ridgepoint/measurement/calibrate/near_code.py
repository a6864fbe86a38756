"""What an operator costs less while its code and data are still in the second-level cache, and how soon they have left it."""

from collections.abc import Callable, Iterator
from typing import Any

from ridgepoint.measurement.calibrate.cold_code import code_subjects
from ridgepoint.measurement.calibrate.linear import DTYPES
from ridgepoint.measurement.calibrate.modules import MODULE_KINDS
from ridgepoint.measurement.calibrate.pointwise import KINDS, Made, behind_s
from ridgepoint.measurement.calibrate.pool import STREAM_BYTES, weight_stream

__all__ = ["near_code_samples", "near_residency_samples"]

_COLS = 640
_SIZES = tuple(2**i for i in range(15, 23))
_REFERENCES = ("rms_norm", "layer_norm", "silu_mul")


def near_code_samples(act: str, cache_bytes: float, visits: int) -> Iterator[dict[str, Any]]:
    """A sample per operator: its time behind 4 MB of other bytes, as all laws have it, and behind nothing at all."""
    import torch

    stream = weight_stream(cache_bytes)
    with torch.inference_mode():
        for subject, made in _subjects(torch, act):
            near_s, beyond_s = (behind_s(made, between, visits) for between in (_nothing, stream))
            yield {
                "probe": "near_code", "subject": subject, "act": act, "seconds_near": near_s, "seconds": beyond_s,
            }  # fmt: skip


def near_residency_samples(cache_bytes: float, visits: int) -> Iterator[dict[str, Any]]:
    """Seconds of small operators behind other bytes, from as many as a first-level cache holds to 4 MB."""
    import torch

    buffer = torch.ones(2 * max(int(cache_bytes), _SIZES[-1]) // 4)
    with torch.inference_mode():
        for kind in _REFERENCES:
            made = KINDS[kind](1, _COLS, torch.float32)
            for size in _SIZES:
                yield {
                    "probe": "near_residency", "subject": kind, "bytes": float(size),
                    "seconds": behind_s(made, _reader(buffer, size // 4), visits),
                }  # fmt: skip


def _subjects(torch: Any, act: str) -> Iterator[tuple[str, Made]]:
    from torch import nn

    dtype = getattr(torch, DTYPES[act])
    for subject, _, rows, made in code_subjects(torch, (act,)):
        if rows == 1:
            yield subject, made
    for kind, build in MODULE_KINDS.items():
        yield kind, build(1, 1 if kind == "view" else _COLS, dtype)
    conv, image = nn.Conv2d(16, 16, 3, padding=1).to(dtype), torch.randn(1, 16, 6, 6).to(dtype)
    yield "conv", (lambda: conv(image), (image,))
    x, z = torch.randn(2, 12, 16).to(dtype), torch.randn(2, 16, 12).to(dtype)
    yield "matmul", (lambda: torch.matmul(x, z), (x, z))


def _nothing() -> None: ...


def _reader(buffer: Any, elements: int) -> Callable[[], object]:
    """Reads the next so many elements of the buffer, in NumPy, so that none of torch's code runs in between."""
    blocks = buffer.numpy()[: len(buffer) // elements * elements].reshape(-1, elements)
    turn = 0

    def read() -> object:
        nonlocal turn
        turn = (turn + 1) % len(blocks)
        return blocks[turn].sum()

    return read


assert _SIZES[-1] == STREAM_BYTES, "the curve ends where the laws begin"
