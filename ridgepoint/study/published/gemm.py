"""Published matrix products: columns m, n, k, and a batch where there is one."""

import numpy as np

from ridgepoint.errors import BadInput
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.gemm import GemmParameters, Loop, gemm_time
from ridgepoint.prediction.physics.gemm_format import FORMATS, GemmFormat
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.table import Mask, Table, Texts

__all__ = ["GEMM", "LOOPS"]

LOOPS = {
    "vllm": Loop(weights=6, acts=1),
    "sglang": Loop(weights=6, acts=6),
    "trtllm": Loop(weights=0, acts=1),
    "pytorch": Loop(weights=1, acts=1),
    "sarathi-serve/vLLM kernels": Loop(weights=1, acts=1),
}
"""What the loops of published tables come back to. Read off the tables themselves, where a card with a large L2 (L40S,
96 MiB) shows it: weights up to a sixth of L2 are faster than DRAM and larger ones are not (vLLM, SGLang), or those are
whose size divides that of L2 (TensorRT-LLM: 48 and 96 MiB are, 30, 36, 40 and 56 are not); activations of 94 MiB are
faster than DRAM with vLLM, and not with SGLang."""
_REAL = Loop(weights=np.inf, acts=1)
"""Layers timed inside a running model."""


def _format(dtype: str) -> GemmFormat:
    if dtype not in FORMATS:
        raise BadInput(f"no matrix product in {dtype!r}; possible are {', '.join(FORMATS)}")
    return FORMATS[dtype]


def _seconds(device: Device, p: GemmParameters, dtype: str, table: Table) -> PhysicalTime:
    form = _format(dtype)
    m, n, k = (table.number(name) for name in ("m", "n", "k"))
    batch = table.number("batch", empty=1.0) if table.has("batch") else np.ones(len(table))
    loops = _loops(table)
    parts = np.empty((4, len(table)))
    for loop in dict.fromkeys(loops):
        rows = np.array([one == loop for one in loops])
        time = gemm_time(device, p, form, m[rows], n[rows], k[rows], loop, batch[rows])
        parts[:, rows] = time.seconds, time.compute_s, time.memory_s, time.fixed_s
    return PhysicalTime(*parts)


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


_PLAIN = ("bf16", "fp16", "fp8", "sq")
"""Formats that tensor cores multiply as they are: no scales inside the product, nothing to unpack."""


def _fixed(dtype: str) -> dict[str, float]:
    """Parameters that a format does not have stay where they do nothing."""
    form, start = _format(dtype), GemmParameters()
    names = [] if form.quantises else ["quantise_s", "quantise_row_s", "quantise_bytes"]
    names += [] if form.unpacks else ["unpack_per_clock"]
    return {name: getattr(start, name) for name in names}


def _settled(dtype: str) -> dict[str, float]:
    """A tile's loop reaches the dense peak where tensor cores multiply a format as it is. A free share ends there on the
    cards whose power limit leaves room; on one whose limit always binds the two stand for each other."""
    return {"tensor_share": 1.0} if dtype in _PLAIN else {}


GEMM = Kind(
    name="gemm", columns=("m", "n", "k", "latency_us"), model=GemmParameters, seconds=_seconds, usable=_usable,
    regime=_regime, shape=_shape, variant=_variant, fixed=_fixed, settled=_settled,
)  # fmt: skip
