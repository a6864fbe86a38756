"""What the time models of attention share: the work of a call, the rates of the units, and how bounds are joined."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.device import Device
from ridgepoint.quantity import Array

__all__ = [
    "AttentionWork",
    "exponentials_per_clock",
    "joined",
    "missing_share",
    "odd_dim",
    "power_of_two",
    "summed",
    "tensor_peak",
]

Floats = npt.NDArray[np.float64]

_CLIFF = 0.5
"""Share beyond the capacity at which nothing is left of what a loop comes back to."""
_COLD = 0.02
"""Share that comes from DRAM even where all fits in L2."""
_QUERY_BYTES = 2.0
"""Of an element of queries and of results: kernels that multiply in fp8 take and give 16 bits too."""
_UNITS = {"bf16": ("bf16", "fp16"), "fp16": ("fp16", "bf16"), "fp32": ("tf32", "fp32"), "int8": ("int8", "fp16")}
_EXPONENTIALS = 16.0
"""Special functions of an SM in a clock: FlashAttention-3, arXiv 2407.08608, section 3.1."""
_DOUBLED = ("b300", "gb300")
"""Twice those of Blackwell: NVIDIA developer blog, "Making Softmax More Efficient with NVIDIA Blackwell Ultra"."""


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """Sizes of a group of like sequences, as floats, and what follows from them."""

    batch: Floats
    new: Floats
    keys: Floats
    """Keys of a sequence that its new tokens see together."""
    kv_len: Floats
    """All keys of a sequence, those before the window too."""
    pairs: Floats
    """Query-key pairs of one head of one sequence."""
    all_pairs: Floats
    """The same without a window."""
    window: Floats
    """Keys that a token sees at most; infinite without a window."""
    heads: Floats
    kv_heads: Floats
    head_dim: Floats
    both: Floats
    """Sizes of a key and of a value together."""
    key_bytes: Floats
    """Of a cached key and its value."""
    causal: bool
    reads: Array = 1.0
    """Times that keys and values come from DRAM."""

    @classmethod
    def of(
        cls, batch: Array, new: Array, kv_len: Array, heads: Array, kv_heads: Array, head_dim: Array,
        value_dim: Array = 0.0, kv_bytes: Array = 2.0, window: Array = 0.0, causal: bool = True, shared: bool = False,
    ) -> "AttentionWork":  # fmt: skip
        """Sizes below 1 count as 1, but a batch of 0 is none; the arguments are those of `prefill_time`."""
        q, kv, h, hk, d = (
            np.maximum(np.asarray(x, dtype=np.float64), 1.0) for x in (new, kv_len, heads, kv_heads, head_dim)
        )
        b, v, w, width = (np.asarray(x, dtype=np.float64) for x in (batch, value_dim, window, kv_bytes))
        w = np.where(w > 0.0, w, np.inf)
        kv = np.maximum(kv, q)
        cached = kv - q
        both = d + np.where(v > 0.0, v, d)
        key_bytes = (d if shared else both) * width
        if not causal:
            return cls(b, q, kv, kv, q * kv, q * kv, np.full_like(w, np.inf), h, hk, d, both, key_bytes, False)
        growing = np.clip(w - cached, 0.0, q)
        inside = growing * (cached + (growing + 1.0) / 2.0)
        pairs = inside + (q - growing) * np.minimum(w, kv)
        everything = q * (cached + (q + 1.0) / 2.0)
        keys = np.minimum(kv, w - 1.0 + q)
        return cls(b, q, keys, kv, pairs, everything, w, h, hk, d, both, key_bytes, True)

    @property
    def flops(self) -> Floats:
        """Of both products, masked pairs left out."""
        return 2.0 * self.batch * self.heads * self.pairs * self.both

    @property
    def query_bytes(self) -> Floats:
        """Queries read and results written, each once."""
        return self.batch * self.new * self.heads * self.both * _QUERY_BYTES

    @property
    def kv_read_bytes(self) -> Floats:
        """Keys and values that any token sees."""
        return self.reads * self.batch * self.kv_heads * self.keys * self.key_bytes

    @property
    def kv_new_bytes(self) -> Floats:
        """Keys and values of the new tokens in 16 bits, as they come from the layer before."""
        return self.batch * self.kv_heads * self.new * self.both * _QUERY_BYTES

    def walked(self, high: Floats, window_edge: float, skipped: float) -> tuple[Floats, Floats]:
        """Keys that a tile of `high` tokens walks: in the mean, and at most; masked ones of its corners included.

        `window_edge`: those masked at a window's far end, in `high`; `skipped`: what a key before it still costs.
        """
        if not self.causal:
            return self.keys, self.keys
        whole = self.all_pairs / self.new
        hidden = np.where(self.kv_len > self.window, window_edge * high, 0.0)
        mean = np.minimum(self.pairs / self.new + hidden, whole) + 0.5 * high
        longest = np.minimum(self.window + high + hidden, self.kv_len)
        mean = np.minimum(mean, self.kv_len)
        return mean + skipped * np.maximum(whole - mean, 0.0), longest + skipped * (self.kv_len - longest)


def tensor_peak(device: Device, dtype: str) -> float:
    """Dense peak of the unit that multiplies in `dtype`; raises NotSupported where the device has none."""
    for peaks in (device.tensor_flops_per_s, device.vector_flops_per_s):
        for name in _UNITS.get(dtype, (dtype,)):
            if name in peaks:
                return peaks[name]
    have = ", ".join(sorted({*device.tensor_flops_per_s, *device.vector_flops_per_s})) or "nothing"
    raise NotSupported(f"{device.name} has no attention in {dtype}; it multiplies {have}")


def exponentials_per_clock(device: Device) -> float:
    """Exponentials that the special function units of one SM do in a clock."""
    return _EXPONENTIALS * (2.0 if device.name in _DOUBLED else 1.0)


def summed(values: Iterable[Array]) -> Floats:
    """Their sum, as an array."""
    total = np.asarray(0.0)
    for value in values:
        total = np.asarray(total + value)
    return total


def odd_dim(head_dim: Floats) -> Floats:
    """1 where a head size is no power of two, else 0."""
    return np.where(np.frexp(head_dim)[0] == 0.5, 0.0, 1.0)


def power_of_two(head_dim: Floats) -> Floats:
    """The smallest that is no less."""
    share, exponent = np.frexp(head_dim)
    return np.where(share == 0.5, head_dim, np.ldexp(1.0, exponent))


def missing_share(fill: Floats) -> Floats:
    """Share that L2 does not hold of what fills it `fill` times over, call after call."""
    return np.clip((fill - 1.0) / _CLIFF, _COLD, 1.0)


def joined(sharpness: float, *bounds: Array) -> Floats:
    """The largest of the bounds, rounded up where they are near each other: their sum at 1.

    `np.power`, never `**`: of a single number the operator takes another routine than of an array, and rounds otherwise.
    """
    total: Floats = np.power(bounds[0], sharpness)
    for bound in bounds[1:]:
        total = total + np.power(bound, sharpness)
    return np.power(total, 1.0 / sharpness)
