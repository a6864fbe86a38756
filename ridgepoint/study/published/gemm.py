"""Published matrix products: columns m, n, k, and a batch where there is one."""

import numpy as np

from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.gemm import GemmParameters, Loop, gemm_time
from ridgepoint.prediction.physics.gemm_format import FORMATS
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.table import Mask, Table, Texts

__all__ = ["GEMM", "LOOPS"]

LOOPS = {
    "vllm": Loop(weights=5, acts=1),
    "sglang": Loop(weights=5, acts=5),
    "trtllm": Loop(weights=0, acts=1),
    "pytorch": Loop(weights=1, acts=1),
    "sarathi-serve/vLLM kernels": Loop(weights=1, acts=1),
}
"""What the loops of published tables come back to. Read off the tables themselves, where a card with a large L2 (L40S,
96 MiB) shows it: weights are faster than DRAM up to a fifth of L2, or whenever their size divides that of L2."""
_REAL = Loop(weights=np.inf, acts=1)
"""Layers timed inside a running model."""


def _seconds(device: Device, p: GemmParameters, dtype: str, table: Table) -> PhysicalTime:
    m, n, k = (table.number(name) for name in ("m", "n", "k"))
    batch = table.number("batch", empty=1.0) if table.has("batch") else np.ones(len(table))
    loops = _loops(table)
    if len(set(loops)) == 1:
        return gemm_time(device, p, FORMATS[dtype], m, n, k, loops[0], batch)
    parts = [gemm_time(device, p, FORMATS[dtype], m, n, k, loop, batch) for loop in dict.fromkeys(loops)]
    index = np.array([list(dict.fromkeys(loops)).index(loop) for loop in loops])
    rows = np.arange(len(table))
    return PhysicalTime(
        *(
            np.stack([np.asarray(getattr(part, name)) for part in parts])[index, rows]
            for name in ("seconds", "compute_s", "memory_s", "fixed_s")
        )
    )


def _loops(table: Table) -> list[Loop]:
    inside = table.has("layer") & (table.text("framework") == "vllm")
    return [
        _REAL if real else LOOPS.get(str(f), _REAL) for f, real in zip(table.text("framework"), inside, strict=True)
    ]


def _usable(table: Table) -> Mask:
    return (table.text("suspect") != "1") & (table.number("latency_us") > 0)


def _regime(table: Table) -> Texts:
    return np.where(table.number("m") <= 64, "m<=64", "m>64").astype(np.str_)


def _shape(table: Table) -> Texts:
    return np.char.add(np.char.add(table.text("n"), "x"), table.text("k"))


def _variant(table: Table) -> Texts:
    op = table.text("op")
    return np.where(op == "bmm", "bmm", "").astype(np.str_)


def _fixed(dtype: str) -> dict[str, float]:
    """Parameters that a format does not have stay where they do nothing."""
    form, start = FORMATS[dtype], GemmParameters()
    names = [] if form.quantises else ["quantise_s", "quantise_row_s", "quantise_bytes"]
    names += [] if form.unpacks else ["unpack_per_clock"]
    return {name: getattr(start, name) for name in names}


GEMM = Kind(
    name="gemm", columns=("m", "n", "k", "latency_us"), model=GemmParameters, seconds=_seconds, usable=_usable,
    regime=_regime, shape=_shape, variant=_variant, fixed=_fixed,
)  # fmt: skip
