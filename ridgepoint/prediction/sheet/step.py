"""All operators of a plan on a machine that is known from its datasheet, in the kernels that the stack runs."""

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target
from ridgepoint.prediction.optime import OpTime
from ridgepoint.prediction.served import Experts, served_ops
from ridgepoint.prediction.sheet.attention import attention_time
from ridgepoint.prediction.sheet.collective import collective_op_time
from ridgepoint.prediction.sheet.context import Sheet, Timed, sheet_of
from ridgepoint.prediction.sheet.experts import experts_time
from ridgepoint.prediction.sheet.kv_cache import with_fused_cache
from ridgepoint.prediction.sheet.linear import linear_time
from ridgepoint.prediction.sheet.pointwise import normed_sum_time, one_time
from ridgepoint.prediction.used import Used
from ridgepoint.workload import Attention, Collective, Fused, Linear, Op, Plan, Pointwise

__all__ = ["EAGER_STACKS", "sheet_times"]

EAGER_STACKS = ("pytorch",)
"""Stacks that run a plan's operators one by one as they stand in it."""


def sheet_times(plan: Plan, target: Target) -> tuple[OpTime, ...]:
    """Times of all operators in the order in which the stack runs them; what takes no time of its own is left out.

    Raises NotSupported for what was never measured on a like machine, and for figures that the target lacks.
    """
    sheet = sheet_of(plan, target)
    ops = with_fused_cache(plan.ops, sheet.stack.framework)
    one_by_one = sheet.stack.framework in EAGER_STACKS or plan.step.phase == "train"  # serving stacks do not train
    ops = ops if one_by_one else served_ops(ops)
    out = []
    for op in ops:
        timed = _timed(sheet, op, plan)
        if timed is not None:
            used = Used(timed.kernel, timed.sigma, 1.0, timed.common)
            out.append(OpTime(op, op.count * timed.time.seconds, (used,), timed.time, timed.found.elsewhere))
    return tuple(out)


def _timed(sheet: Sheet, op: Op, plan: Plan) -> Timed | None:
    if isinstance(op, Linear):
        return linear_time(sheet, op)
    if isinstance(op, Attention):
        return attention_time(sheet, op)
    if isinstance(op, Experts):
        return experts_time(sheet, op, plan.parallel.ep)
    if isinstance(op, Collective):
        return collective_op_time(sheet, op)
    if isinstance(op, Fused) and len(op.parts) == 2:
        return normed_sum_time(sheet, op)
    if isinstance(op, Pointwise):
        return one_time(sheet, op)
    raise NotSupported(
        f"{op.name} ({op.kind}) is not predicted from a datasheet; `ridge calibrate` measures a machine at hand"
    )
