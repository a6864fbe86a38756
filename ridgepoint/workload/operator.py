"""A single linear layer as a workload: `linear:4096x4096`, copies rotated so that its weights come from memory."""

import re
from dataclasses import dataclass

from ridgepoint.errors import BadInput
from ridgepoint.workload.op import Linear, Op
from ridgepoint.workload.step import Step

__all__ = ["LinearLayer", "linear_layer"]

_NAME = re.compile(r"linear:(\d{1,7})x(\d{1,7})")
_LIMIT = 2**18


@dataclass(frozen=True)
class LinearLayer:
    """y[m, n] = x[m, k] Wᵀ with m = the tokens of the step; every call meets weights that are not in the cache."""

    n: int
    k: int
    dtype: str = "bf16"
    cold: bool = True

    @property
    def name(self) -> str:
        return f"linear:{self.n}x{self.k}"

    @property
    def parameters(self) -> int:
        return self.n * self.k

    def forward_ops(self, step: Step, dtype: str) -> tuple[Op, ...]:
        """One linear operator; its role is `other`, so that every weight format applies to it."""
        return (Linear("linear", "other", step.tokens, self.n, self.k, dtype, dtype),)

    def row_at(self, layer: int | None, module: str, dtype: str) -> str:
        """The one row."""
        return "linear"

    def kv_bytes_per_token(self, width: float, scale: float = 0.0) -> float:
        """A linear layer caches nothing."""
        return 0.0


def linear_layer(name: str) -> LinearLayer | None:
    """The layer that `linear:NxK` names; None if `name` is of another kind."""
    if not name.startswith("linear:"):
        return None
    match = _NAME.fullmatch(name)
    if match is None:
        raise BadInput(
            f"{name[:80]!r} is not a linear layer; write linear:NxK (outputs x inputs), for example linear:4096x4096"
        )
    n, k = int(match[1]), int(match[2])
    if not (1 <= n <= _LIMIT and 1 <= k <= _LIMIT):
        raise BadInput(f"{name}: outputs and inputs must be from 1 to {_LIMIT}")
    return LinearLayer(n, k)
