"""Memory of a step on paper: weights as stored, the KV cache, and the largest activations that live at once."""

from dataclasses import dataclass

import numpy as np

from ridgepoint.prediction.autograd import kept_bytes
from ridgepoint.prediction.training_memory import training_need
from ridgepoint.quantity import Array
from ridgepoint.workload import DTYPE_BYTES, Decoder, Linear, Plan, Pointwise, Traced

__all__ = ["MemoryNeed", "predict_memory"]


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Itemised bytes. Ignored: the framework's own code and allocator slack."""

    weights_bytes: Array
    kv_cache_bytes: Array
    activations_bytes: Array
    gradients_bytes: Array = 0.0
    """Of a training step, those that are there at its peak."""
    optimizer_bytes: Array = 0.0

    @property
    def total_bytes(self) -> Array:
        return (
            self.weights_bytes
            + self.kv_cache_bytes
            + self.activations_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
        )


def predict_memory(plan: Plan) -> MemoryNeed:
    """What the step holds at its peak; a training step adds gradients and AdamW's two moments in the weights' dtype."""
    if plan.step.phase == "train" and isinstance(plan.workload, Decoder):
        need = training_need(plan)
        return MemoryNeed(need.weights, 0.0, need.activations, need.gradients, need.optimizer)
    weights, width = plan.weight_bytes, DTYPE_BYTES[plan.dtype]
    model = plan.workload
    widest = model.activation_bytes(plan.step, plan.dtype) if isinstance(model, Traced) else _widest(plan, width)
    if plan.step.phase == "train":
        held = plan.workload.parameters * width
        return MemoryNeed(weights, 0.0, widest, held, 2.0 * held)
    return MemoryNeed(weights, plan.kv_cache_bytes, np.maximum(widest, kept_bytes(plan)))


def _widest(plan: Plan, width: float) -> Array:
    """Inputs and outputs of the widest linear layer (a gated one has two outputs), or one layer's dequantised cache."""
    widest: Array = 0.0
    for op in plan.ops:
        if isinstance(op, Linear) and op.sweep == "forward":
            live = width * op.m * (op.k + 2 * op.n if op.role == "mlp.in" else op.k + op.n)
            widest = np.maximum(widest, live)
        elif op.kind.startswith("kv_read"):
            assert isinstance(op, Pointwise), "reading a quantised cache is pointwise"
            widest = np.maximum(widest, width * op.rows * op.cols)
    return widest
