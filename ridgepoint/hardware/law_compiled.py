"""What compiling a step costs and saves on a machine: its guards, its fused kernels, and the calls that it keeps."""

import msgspec
import numpy as np

from ridgepoint.quantity import Array

__all__ = ["CompiledLaw"]


class CompiledLaw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of one dtype, one thread. A compiled step takes `guard_s`, its fused kernels, and the operators that stay as they
    are by their own laws plus `kept_call_s` each (negative: calling them from compiled code is cheaper than from Python)."""

    dtype: str
    guard_s: float
    kept_call_s: float
    fused_call_s: float
    byte_s: float
    """Per byte that a fused kernel moves."""
    flop_s: float
    compile_s: float
    """The compiler's start: a process's first compilation, of next to nothing."""
    compile_call_s: float
    """What each operator call of a step takes to compile."""
    sigma: float
    source: str

    def fused_s(self, moved_bytes: Array, flops: Array, bytes_per_s: Array) -> Array:
        """Seconds of one fused kernel on tensors that a cache of that bandwidth holds; never faster than it."""
        work_s = self.byte_s * moved_bytes + self.flop_s * flops
        return self.fused_call_s + np.maximum(work_s, moved_bytes / bytes_per_s)

    def compilation_s(self, calls: int) -> float:
        """Seconds to compile a step of `calls` operator calls, the compiler's start not among them."""
        return self.compile_call_s * calls
