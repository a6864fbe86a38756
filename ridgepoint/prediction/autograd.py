"""What recording for gradients costs a step that never uses them: time per call, and results that are kept."""

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target
from ridgepoint.prediction.results import result_bytes
from ridgepoint.quantity import Array
from ridgepoint.workload import Conv, Linear, Op, Plan

__all__ = ["autograd_call_s", "kept_bytes"]


def autograd_call_s(plan: Plan, target: Target, op: Op) -> float:
    """Seconds that a call of `op` takes more than in inference mode; NotSupported where it was not measured.

    Outside of inference mode a product with weights is several operators to torch, and costs more than a pointwise one.
    """
    if plan.autograd == "inference":
        return 0.0
    key = f"{plan.autograd} product" if isinstance(op, Linear | Conv) else plan.autograd
    if key not in target.autograd_call_s:
        raise NotSupported(
            f"{target.name} knows inference mode only, not {plan.autograd}; `ridge calibrate --modules` adds it"
        )
    return target.autograd_call_s[key]


def kept_bytes(plan: Plan) -> Array:
    """Bytes of results that `grad` keeps until the step's output is dropped: at most one result per call."""
    if plan.autograd != "grad":
        return 0.0
    return sum((op.count * result_bytes(op) for op in plan.ops), start=0.0)
