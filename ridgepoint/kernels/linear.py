"""All ladders by weight format, and the look-up of a rung."""

from ridgepoint.errors import UnknownName
from ridgepoint.kernels import csr, dense, fp8, nf4, ort, semi_structured, w4a16, w8a8, w8a16
from ridgepoint.kernels.ladder import LinearKernel

__all__ = ["LADDERS", "find"]

_ALL = (
    *ort.LADDER, *dense.LADDER, *w8a16.LADDER, *w8a8.LADDER, *w4a16.LADDER, *nf4.LADDER, *fp8.LADDER,
    *csr.LADDER, *semi_structured.LADDER,
)  # fmt: skip

LADDERS: dict[str, tuple[LinearKernel, ...]] = {
    name: tuple(kernel for kernel in _ALL if kernel.format == name) for name in dict.fromkeys(k.format for k in _ALL)
}
"""Weight format (groups are an argument: "int4", not "int4:g32") -> its rungs, naive first, CPU first."""


BY_NAME = ("ort", "emulated")
"""Kernels of another framework, and emulations: nobody gets them who did not ask for it."""


def find(format: str, device: str, rung: str = "", name: str = "") -> tuple[LinearKernel, ...]:
    """The rungs of `format` on `device`, those of `rung` and `name` where given; empty if the format has none there.

    Rungs of `BY_NAME` are found only so. Whether a rung runs here and takes a shape is answered by its `available` and
    `check`. Raises UnknownName for a format without a ladder and for a kernel name that the format has on no device.
    """
    if format not in LADDERS:
        raise UnknownName("kernel ladder", format, LADDERS)
    ladder = LADDERS[format]
    if name and name not in {k.name for k in ladder}:
        raise UnknownName(f"{format} kernel", name, {k.name for k in ladder})
    named = bool(rung or name)
    return tuple(
        k for k in ladder
        if k.device == device and rung in ("", k.rung) and name in ("", k.name) and (named or k.rung not in BY_NAME)
    )  # fmt: skip
