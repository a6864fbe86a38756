"""A module of the user's own as a workload: the calls it makes, with sizes that are affine in the batch."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.quantity import Array
from ridgepoint.workload.contraction import Conv, Matmul
from ridgepoint.workload.layout import laid_out
from ridgepoint.workload.op import POINTWISE, Attention, Linear, Op, Pointwise
from ridgepoint.workload.step import Group, Step

__all__ = ["Call", "Traced"]


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`count` like calls of one operator.

    `aten`: the operator's name in torch. `sizes`: name -> (a, b) for a + b x batch. `options`: what does not change with
    the batch. `modules`: paths of the `nn.Linear` modules that a weight format may replace; of other calls empty.
    """

    row: str
    kind: str
    dtype: str
    aten: str = ""
    count: int = 1
    sizes: dict[str, tuple[float, float]]
    options: dict[str, int | bool | str] = {}
    modules: tuple[str, ...] = ()

    def op(self, batch: Array) -> Op:
        """The operator at that batch."""
        size: dict[str, Any] = {name: a + b * batch if b else a for name, (a, b) in self.sizes.items()}
        common: dict[str, Any] = {"name": self.row, "dtype": self.dtype, "count": self.count}
        options: dict[str, Any] = dict(self.options)
        if self.kind == "linear":
            return Linear(role="other", weight=self.dtype, fixed=not self.modules, **common, **size, **options)
        if self.kind == "conv":
            return Conv(**common, **size, **options)
        if self.kind == "matmul" and self.aten == "linear" and np.ndim(size["m"]) == 0 and size["m"] == 1:
            # of one row each the input lies as a matrix does, however it was turned, and torch sees one product
            linear = {"m": size["batch"], "n": size["n"], "k": size["k"]}
            return Linear(role="other", weight=self.dtype, fixed=True, **common, **linear)
        if self.kind == "matmul":
            return Matmul(**common, **size, **options)
        if self.kind == "attention":
            new, keys = size["new"], size["keys"]
            group = Group(size["batch"], new, keys - new)
            return Attention(groups=(group,), **common, **options)
        last = options.get("layout") == "last"
        op = Pointwise(role="other", kind=self.kind, **common, **size)
        return laid_out(op, last=True) if last else op


@dataclass(frozen=True, eq=False)
class Traced:
    """What `FILE.py:NAME` builds, traced on tensors without memory; one list of calls for each dtype that was asked for.

    `stored_elements`: parameters and buffers. `order`: for each dtype the index in `calls` of every call, in the order
    in which they are made. `live_bytes`: (a, b) of the most bytes a + b x batch of results that live at once.
    `not_modelled`: operators that are counted as a pass over their tensors, and what else a reader must know.
    Ignored: that calls may depend on values.
    """

    name: str
    dtype: str
    parameters: int
    stored_elements: int
    calls: dict[str, tuple[Call, ...]]
    order: dict[str, tuple[int, ...]] = field(default_factory=dict)
    live_bytes: dict[str, tuple[float, float]] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    not_modelled: tuple[str, ...] = ()

    max_position_embeddings = 1
    tie_word_embeddings = False

    def forward_ops(self, step: Step, dtype: str) -> tuple[Op, ...]:
        """The operators of one call of the module on `step.sequences` items."""
        return tuple(call.op(step.sequences) for call in self._calls(dtype))

    def _calls(self, dtype: str) -> tuple[Call, ...]:
        if dtype not in self.calls:
            raise NotSupported(f"{self.name} was traced in {', '.join(self.calls)}, not in {dtype}")
        return self.calls[dtype]

    def kv_bytes_per_token(self, width: float, scale: float = 0.0) -> float:
        """A module keeps nothing from one call to the next."""
        return 0.0

    def activation_bytes(self, step: Step, dtype: str) -> Array:
        """The most that results take at once."""
        a, b = self.live_bytes[dtype]
        return a + b * step.sequences

    @cached_property
    def table_parameters(self) -> int:
        """Stored elements beside the weights of linear layers, convolutions and norms: tables, and what is never read."""
        return max(0, self.stored_elements - sum(_elements(call) for call in next(iter(self.calls.values()))))

    def in_order(self, dtype: str) -> tuple[tuple[str, str], ...]:
        """(operator, row) of each call, in the order in which they are made; operators without a name that rows share."""
        calls = self._calls(dtype)
        return tuple((calls[i].aten, calls[i].row) for i in self.order[dtype])

    def row_at(self, layer: int | None, module: str, dtype: str) -> str:
        """Row of the linear layer at that path; "" where no weight format may replace it."""
        return self._rows[dtype].get(module, "")

    @cached_property
    def _rows(self) -> dict[str, dict[str, str]]:
        return {dtype: {path: c.row for c in calls for path in c.modules} for dtype, calls in self.calls.items()}


def _elements(call: Call) -> int:
    op = call.op(1)
    if isinstance(op, Linear) and not op.fixed:
        return int(op.count * op.n * (op.k + op.bias))
    if isinstance(op, Conv):
        return int(op.count * (op.weights + (op.n if op.bias else 0)))
    if isinstance(op, Pointwise):
        return int(op.count * POINTWISE[op.kind].weights * op.cols)
    return 0
