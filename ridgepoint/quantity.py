"""Numbers the workbench speaks: base units inside, scaled only for a person.

Every float in this package is in a base unit and says so in its name: `_s` seconds, `_j` joules,
`_bytes`, `_flops` (a count; a multiply-accumulate is 2), `_flops_per_s`, `_bytes_per_s`.
"""

import math

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "show", "show_bytes", "show_ratio", "show_time"]

Array = float | npt.NDArray[np.float64]
"""A scalar or a NumPy array: operator and time formulas take either and broadcast."""

_SI = (
    (1e15, "P"),
    (1e12, "T"),
    (1e9, "G"),
    (1e6, "M"),
    (1e3, "k"),
    (1.0, ""),
    (1e-3, "m"),
    (1e-6, "µ"),
    (1e-9, "n"),
    (1e-12, "p"),
)


def show(value: float, unit: str, digits: int = 3) -> str:
    """`show(3.35e12, "B/s") == "3.35 TB/s"`: three significant digits and an SI prefix."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    scale, prefix = next(((s, p) for s, p in _SI if abs(value) >= s), _SI[-1])
    return f"{value / scale:.{digits}g} {prefix}{unit}"


def show_time(seconds: float) -> str:
    """`show_time(0.0123) == "12.3 ms"`."""
    return show(seconds, "s")


def show_bytes(count: float) -> str:
    """`show_bytes(2**30) == "1.00 GiB"`: memory in binary units."""
    for scale, unit in ((2.0**40, "TiB"), (2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB")):
        if abs(count) >= scale:
            value = count / scale
            return f"{value:.0f} {unit}" if abs(value) >= 999.5 else f"{value:.3g} {unit}"
    return f"{count:.0f} B"


def show_ratio(speedup: float) -> str:
    """`show_ratio(0.5) == "2.0x slower"`, `show_ratio(3.1) == "3.1x faster"`."""
    factor, word = (speedup, "faster") if speedup >= 1 else (1 / speedup, "slower")
    return f"{factor:.2f}x {word}" if factor < 2 else f"{factor:.1f}x {word}"
