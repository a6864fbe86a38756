"""What the time models of attention share: the work of a call, the rates of the units, and how bounds are joined."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.device import Device
from ridgepoint.quantity import Array

__all__ = ["AttentionWork", "joined", "missing_share", "tensor_peak"]

Floats = npt.NDArray[np.float64]

_CLIFF = 0.5
"""Share beyond the capacity at which nothing is left of what a loop comes back to."""
_COLD = 0.02
"""Share that comes from DRAM even where all fits in L2."""
_UNITS = {"bf16": ("bf16", "fp16"), "fp16": ("fp16", "bf16"), "fp32": ("tf32", "fp32"), "fp8": ("fp8",)}


@dataclass(frozen=True, slots=True)
class AttentionWork:
    """Sizes of a call, as floats of at least 1, and what follows from them."""

    batch: Floats
    new: Floats
    keys: Floats
    """Keys of a sequence that its new tokens see together."""
    pairs: Floats
    """Query-key pairs of one head of one sequence."""
    all_pairs: Floats
    """The same without a window."""
    windowed: Floats
    """Whether the window hides a key from a token."""
    heads: Floats
    kv_heads: Floats
    head_dim: Floats
    both: Floats
    """Sizes of a key and of a value together."""

    @classmethod
    def of(
        cls, batch: Array, new: Array, kv_len: Array, heads: Array, kv_heads: Array, head_dim: Array,
        value_dim: Array, window: Array, causal: bool,
    ) -> "AttentionWork":  # fmt: skip
        """`kv_len`: cached and new tokens together; `value_dim` 0: that of a key; `window` 0: all."""
        b, q, kv, h, hk, d = (
            np.maximum(np.asarray(x, dtype=np.float64), 1.0) for x in (batch, new, kv_len, heads, kv_heads, head_dim)
        )
        v, w = (np.asarray(x, dtype=np.float64) for x in (value_dim, window))
        w = np.where(w > 0.0, w, np.inf)
        kv = np.maximum(kv, q)
        cached = kv - q
        growing = np.clip(w - cached, 0.0, q)
        pairs = growing * (cached + (growing + 1.0) / 2.0) + (q - growing) * np.minimum(w, kv) if causal else q * kv
        everything = q * (cached + (q + 1.0) / 2.0) if causal else q * kv
        both = d + np.where(v > 0.0, v, d)
        return cls(b, q, np.minimum(kv, w - 1.0 + q), pairs, everything, pairs < everything, h, hk, d, both)


def tensor_peak(device: Device, dtype: str) -> float:
    """Dense peak of the unit that multiplies in `dtype`; raises NotSupported where the device has none."""
    for peaks in (device.tensor_flops_per_s, device.vector_flops_per_s):
        for name in _UNITS.get(dtype, (dtype,)):
            if name in peaks:
                return peaks[name]
    have = ", ".join(sorted({*device.tensor_flops_per_s, *device.vector_flops_per_s})) or "none"
    raise NotSupported(f"{device.name} has no attention in {dtype}; it multiplies {have}")


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
