"""Published times of operators that touch each element a few times: columns op, rows and cols."""

import numpy as np

from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.pointwise import ELEMENT_BYTES, POINTWISE, PointwiseParameters, pointwise_time
from ridgepoint.study.published.kind import Kind
from ridgepoint.study.published.spelling import our_dtypes
from ridgepoint.study.published.table import Mask, Table, Texts

__all__ = ["ELEMENTWISE"]

_OPERATORS = {
    "addu": "add_scalar", "mulu": "mul_scalar", "divu": "div_scalar", "powu": "pow_scalar", "ln": "layernorm",
}  # fmt: skip
"""Names of published tables that are not ours; `u` marks a scalar operand."""


def _names(table: Table) -> list[str]:
    return [_OPERATORS.get(str(op), str(op)) for op in table.text("op")]


def _seconds(device: Device, p: PointwiseParameters, dtype: str, table: Table) -> PhysicalTime:
    names = np.array(_names(table), dtype=np.str_)
    rows, cols = table.number("rows"), table.number("cols")
    parts = {x: np.empty(len(table)) for x in ("seconds", "compute_s", "memory_s", "fixed_s")}
    for name in dict.fromkeys(map(str, names)):
        mask = names == name
        time = pointwise_time(device, p, POINTWISE[name], ELEMENT_BYTES[dtype], rows[mask], cols[mask], warm=True)
        for part, values in parts.items():
            values[mask] = getattr(time, part)
    return PhysicalTime(**parts)


def _usable(table: Table) -> Mask:
    """Rows of operators and dtypes that the time model knows, timed plausibly.

    Left out are `compute_scale` and `scale_matrix` of fp8, whose published times are the difference of two loops and
    absurd in part (0.13 us for 42 million elements), and `sampler`, whose work is over a vocabulary that no column names.
    """
    known = np.array([name in POINTWISE for name in _names(table)], dtype=np.bool_)
    sized = np.isin(our_dtypes(table.text("dtype")), list(ELEMENT_BYTES))
    return known & sized & (table.text("suspect") != "1") & (table.number("latency_us") > 0)


def _variant(table: Table) -> Texts:
    return np.array([POINTWISE[name].family if name in POINTWISE else "" for name in _names(table)], dtype=np.str_)


def _regime(table: Table) -> Texts:
    elements = table.number("rows") * table.number("cols")
    size = np.where(elements <= 2**20, ", <=1M elements", ", >1M elements")
    return np.char.add(_variant(table), size)


def _shape(table: Table) -> Texts:
    return np.char.add(np.char.add(table.text("rows"), "x"), table.text("cols"))


ELEMENTWISE = Kind(
    name="pointwise", columns=("op", "rows", "cols", "latency_us"), model=PointwiseParameters, seconds=_seconds,
    usable=_usable, regime=_regime, shape=_shape, variant=_variant, pools=False,
)  # fmt: skip
