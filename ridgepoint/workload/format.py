"""How a number is stored: dtypes of activations, and weight formats with their scales, in bytes."""

import re
from dataclasses import dataclass

import numpy as np

from ridgepoint.errors import BadInput, UnknownName
from ridgepoint.quantity import Array

__all__ = [
    "CACHE_FORMATS", "DTYPES", "DTYPE_BYTES", "INT4_GROUPS", "Format", "arithmetic_dtype", "format_named", "ladder_named",
]  # fmt: skip

DTYPE_BYTES: dict[str, float] = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0}
DTYPES = tuple(DTYPE_BYTES)


@dataclass(frozen=True, slots=True)
class Format:
    """A weight format: `bits` per weight and scales per row (`group` 0) or per `group` inputs of a row.

    `scale_bytes` counts what is stored with each group: scale, and zero point where there is one.
    `rows` share a scale. `activation_bits`: 0 if activations keep their dtype, else the bits to which they are quantised
    at run time. `density`: share of the weights that is stored and multiplied, each with `index_bits` of its place.
    """

    name: str
    bits: float
    group: int
    scale_bytes: float
    activation_bits: int = 0
    rows: int = 1
    density: float = 1.0
    index_bits: float = 0.0

    def weight_bytes(self, n: Array, k: Array) -> Array:
        """Bytes of an n x k matrix with its scales."""
        scales = np.ceil(n / self.rows) * (np.ceil(k / self.group) if self.group else 1.0)
        return n * k * self.density * (self.bits + self.index_bits) / 8 + scales * self.scale_bytes

    def takes(self, k: int) -> bool:
        """Whether k inputs split into whole groups."""
        return not self.group or k % self.group == 0


_PLAIN = {name: Format(name, 8 * width, 0, 0.0) for name, width in DTYPE_BYTES.items()}
_QUANTISED = {
    "int8": Format("int8", 8, 0, 2),  # one bf16 scale per output row
    "int8:dyn": Format("int8:dyn", 8, 0, 4, activation_bits=8),  # fp32 scale per row, one scale per activation tensor
    "int8:dyn:token": Format("int8:dyn:token", 8, 0, 4, activation_bits=8),  # one scale per token
    "nf4": Format(
        "nf4", 4, 64, 4
    ),  # one fp32 absmax per block of 64 (QLoRA, arXiv 2305.14314, without double quantisation)
    "fp8": Format("fp8", 8, 0, 4, activation_bits=8),  # e4m3, one fp32 scale per row and per token
    "fp8:block": Format("fp8:block", 8, 128, 4, activation_bits=8, rows=128),  # one fp32 scale per 128 x 128 weights
    "nvfp4": Format("nvfp4", 4, 16, 1, activation_bits=4),  # e2m1, one e4m3 scale per 16 weights of a row
    "2:4": Format(
        "2:4", 16, 0, 0, density=0.5, index_bits=2
    ),  # bf16 or fp16; 2 bits say which of four (arXiv 2104.08378)
}
_CSR = re.compile(r"csr:0\.\d{1,4}")
INT4_GROUPS = (32, 64, 128, 256)
_GROUPED = {"int4": 4, "int3": 3}
CACHE_FORMATS = {"fp8": (1.0, 0.0), "int8": (1.0, 4.0), "int4": (0.5, 4.0)}
"""Formats of a quantised KV cache: bytes of an element, and of what each token and head has beside its key and beside its
value (fp32 scale: vLLM, vllm/v1/kv_cache_interface.py, INT8_PER_TOKEN_HEAD; of int4 a bf16 scale and smallest value).
fp8 has one scale for a whole tensor, which is not counted."""


def format_named(name: str) -> Format:
    """The format of that name: a dtype, or int8, int8:dyn, int8:dyn:token, int4:gN, int3:gN, nf4, fp8, fp8:block, nvfp4, 2:4,
    or csr:0.9, of whose weights that share is zero."""
    if name in _PLAIN:
        return _PLAIN[name]
    if name in _QUANTISED:
        return _QUANTISED[name]
    if _CSR.fullmatch(name):  # fp32 values, 32-bit columns, and where each row begins
        return Format(name, 32, 0, 4, density=1.0 - float(name.removeprefix("csr:")), index_bits=32)
    kind, grouped, group = name.partition(":g")
    if grouped and kind in _GROUPED:
        if group in map(str, INT4_GROUPS):
            return Format(name, _GROUPED[kind], int(group), 4)  # bf16 scale and zero point per group
        known = ", ".join(map(str, INT4_GROUPS))
        raise BadInput(f"{kind} groups of {group[:40]!r} weights have no kernel; groups of {known} do")
    raise UnknownName("weight format", name, [*_PLAIN, *_QUANTISED, *(f"int4:g{g}" for g in INT4_GROUPS)])


def ladder_named(weight: str) -> str:
    """Name of the kernel ladder of a format: groups and sparsity are arguments of its kernels."""
    return "csr" if weight.startswith("csr:") else weight.partition(":g")[0]


def arithmetic_dtype(weight: str, act: str) -> str:
    """The dtype whose units multiply: int8 or a float where activations are quantised too, else that of the activations."""
    if weight.startswith("int8:dyn"):
        return "int8"
    return _FLOATS.get(weight, act)


_FLOATS = {"fp8": "fp8", "fp8:block": "fp8", "nvfp4": "fp4"}
