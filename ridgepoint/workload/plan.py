"""A plan: one step of a workload made concrete; choices change it, predictions read its operators.

A choice may change three things, and only these: the step (what is asked), the rewrites of operators (how it is carried
out), and the execution (threads, launch, what torch records). Steps are settled before rewrites run, so the order in which
choices are listed matters only between two that rewrite the same field.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from ridgepoint.quantity import Array
from ridgepoint.workload.adapter import adapted, rank_parameters
from ridgepoint.workload.format import CACHE_FORMATS, DTYPE_BYTES
from ridgepoint.workload.fused import fused_ops
from ridgepoint.workload.op import Attention, Linear, Op
from ridgepoint.workload.parallel import ALONE, Parallel, sharded
from ridgepoint.workload.step import Step
from ridgepoint.workload.training import training_ops

__all__ = ["Autograd", "Launch", "Plan", "Rewrite", "Workload"]

Launch = Literal["eager", "graph", "compile"]
"""How a step's operators are started."""
Autograd = Literal["inference", "no-grad", "grad"]
Rewrite = Callable[[Op], Op | tuple[Op, ...]]
"""One operator in, what replaces it out: itself where the choice does not apply, several where it is for some layers."""


class Workload(Protocol):
    """What a plan needs of a model: its name, its checkpoint's dtype and the operators of a forward pass."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def parameters(self) -> int: ...

    def forward_ops(self, step: Step, dtype: str) -> tuple[Op, ...]: ...
    def kv_bytes_per_token(self, width: float, scale: float = 0.0) -> float: ...
    def row_at(self, layer: int | None, module: str, dtype: str) -> str: ...


@dataclass(frozen=True)
class Plan:
    """A workload with its step, base dtype, rewrites and execution; `ops` is what will be computed."""

    workload: Workload
    step: Step
    dtype: str
    rewrites: tuple[Rewrite, ...] = ()
    threads: int = 1
    device: str = "cpu"
    side: str = ""
    launch: Launch = "eager"
    """`graph`: on a GPU, as one CUDA graph, so that the host's time per operator does not count; `compile`: neighbouring
    pointwise operators are one kernel, and Python calls none of them."""

    autograd: Autograd = "inference"
    """What torch records during the step; `grad` keeps results for a backward pass that does not come."""

    parallel: Parallel = ALONE
    """Over how many devices the model is spread: operators and bytes are then those of one of them."""
    recompute: bool = False
    """Whether a training step keeps only each layer's input, and runs the layer again before its gradients."""
    stack: str = ""
    """The software whose kernels run, as "vllm" or "vllm:0.24.0", where a prediction from datasheets has to know it."""

    cache: str = ""
    """Format of the KV cache, one of `CACHE_FORMATS`; "" is the base dtype."""
    kept: tuple[int, ...] = ()
    """Numbers, in the model as it was given, of the decoder layers that `workload` still has; () are all."""

    @property
    def ops(self) -> tuple[Op, ...]:
        """Operators after all rewrites, in order of execution."""
        ops = self._forward_ops()
        held = self.workload.parameters // (self.parallel.tp * self.parallel.pp)
        ops = training_ops(ops, held, self.recompute, self._tied) if self.step.phase == "train" else adapted(ops)
        return fused_ops(ops) if self.launch == "compile" else ops

    @property
    def _tied(self) -> bool:
        return bool(getattr(self.workload, "tie_word_embeddings", False))

    def _forward_ops(self) -> tuple[Op, ...]:
        ops = self.workload.forward_ops(self.step, self.dtype)
        for rewrite in self.rewrites:
            ops = tuple(new for op in ops for new in _each(rewrite(op)))
        return sharded(ops, self.parallel)

    @property
    def layer_inputs(self) -> tuple[Op, ...]:
        """Operators of the forward pass with what each says of training, before adapters and gradients are written out."""
        return self._forward_ops()

    def rewritten(self, rewrite: Rewrite) -> "Plan":
        """The same plan with one more rewrite."""
        return replace(self, rewrites=(*self.rewrites, rewrite))

    def linears_at(self, layer: int | None) -> Callable[[str], Linear | None]:
        """Look-up of the operator of the linear layer of that name, in decoder layer `layer` or outside of all layers.

        Of a module the name is its path; of a decoder its last part counts.
        """
        found: dict[str, list[Linear]] = {}
        for op in self._forward_ops():
            if isinstance(op, Linear):
                found.setdefault(op.name.partition("@")[0], []).append(op)

        def find(name: str) -> Linear | None:
            row = self.workload.row_at(layer, name, self.dtype)
            return next((op for op in found.get(row, []) if layer is None or not op.layers or layer in op.layers), None)

        return find

    @property
    def weight_bytes(self) -> Array:
        """Bytes of all weights that a device stores, embedding table included (a tied head shares it). Of a pipeline the
        mean of its stages."""
        ops = self._forward_ops()
        inner = sum((op.count * _stored(op) for op in ops if op.role not in ("embed", "head")), start=0.0)
        tables = getattr(self.workload, "table_parameters", 0) * DTYPE_BYTES[self.dtype]
        adapters = rank_parameters(ops) * DTYPE_BYTES[self.dtype]
        return (inner + tables + adapters + self._table_bytes(ops)) / self.parallel.pp

    def _table_bytes(self, ops: tuple[Op, ...]) -> Array:
        tables: Array = 0.0
        for op in ops:
            if isinstance(op, Linear) and op.role == "head":
                tied = self._tied and op.weight == op.dtype
                tables += op.weight_bytes + (0.0 if tied else op.n * op.k * DTYPE_BYTES[op.dtype])
        return tables

    @property
    def kv_cache_bytes(self) -> Array:
        """Bytes of keys and values that the step's sequences hold after it, on one device."""
        keys = sum((g.count * g.context for g in self.step.groups), start=0.0)
        width, scale = CACHE_FORMATS.get(self.cache, (DTYPE_BYTES[self.dtype], 0.0))
        return keys * self.workload.kv_bytes_per_token(width, scale) * self._kv_share()

    def _kv_share(self) -> float:
        """Share of the cache that a device holds: heads that cannot be split are repeated."""
        if self.parallel == ALONE:
            return 1.0
        whole = [op for op in self.workload.forward_ops(self.step, self.dtype) if isinstance(op, Attention)]
        mine = [op for op in self._forward_ops() if isinstance(op, Attention)]
        heads = sum(op.count * op.kv_heads for op in mine) / max(sum(op.count * op.kv_heads for op in whole), 1)
        return heads / (self.parallel.attention_dp * self.parallel.pp)


def _each(ops: Op | tuple[Op, ...]) -> tuple[Op, ...]:
    return ops if isinstance(ops, tuple) else (ops,)


def _stored(op: Op) -> Array:
    """Bytes of an operator's weights: of a mixture of experts all of them; those of a fixed product count as tables."""
    if isinstance(op, Linear):
        return 0.0 if op.fixed else op.stored_bytes
    return op.weight_bytes
