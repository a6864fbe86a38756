"""What all weight formats share: which linear layers they rewrite, on paper and on metal."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload import INT4_GROUPS, Linear, Op, Plan, Traced, format_named

if TYPE_CHECKING:
    from torch import nn

__all__ = ["RUNGS", "check_device", "check_groups", "one_rung", "refuse_cpu", "rewrite_linears", "swap_linears"]


RUNGS = ("naive", "ort")
"""Kernels that are taken only where a side names them: the slow one that dequantises first, and ONNX Runtime's."""


def one_rung(name: str, flags: Collection[str]) -> str:
    """The rung among a choice's flags, or ""; two are refused."""
    found = [rung for rung in RUNGS if rung in flags]
    if len(found) > 1:
        raise BadInput(f"{name} names two kernels, {' and '.join(found)}; one is possible")
    return found[0] if found else ""


def check_device(plan: Plan, spelled: str, rung: str) -> None:
    """Refuse ONNX Runtime's kernels on a GPU, and on several threads."""
    if rung == "ort" and (plan.device != "cpu" or plan.threads > 1):
        where = f"{plan.threads} threads" if plan.device == "cpu" else plan.device
        raise NotSupported(f"{spelled} runs on one thread of a CPU, not on {where}; without :ort torch's kernels do")


def refuse_cpu(plan: Plan, spelled: str) -> None:
    """Refuse a floating-point format of GPUs on a CPU."""
    if plan.device == "cpu":
        raise NotSupported(
            f"{spelled} has no kernel on a CPU (torch emulates it, and emulation is never timed); int8 has one"
        )


def rewrite_linears(plan: Plan, weight: str, kernel: str, head: bool) -> Plan:
    """The plan with every linear layer stored as `weight`, the head only if asked (it is left out by custom)."""

    def rewrite(op: Op) -> Op:
        if isinstance(op, Linear) and not op.fixed and (head or op.role != "head"):
            return replace(op, weight=weight, kernel=kernel)
        return op

    return plan.rewritten(rewrite)


def check_groups(plan: Plan, weight: str, head: bool) -> None:
    """Refuse a group size that does not divide the inputs of a layer, naming one that divides those of all."""
    form = format_named(weight)
    linears = [op for op in plan.ops if isinstance(op, Linear) and op.sweep == "forward" and not op.fixed]
    inputs = {op.name: int(op.k) for op in linears if head or op.role != "head"}
    for name, k in inputs.items():
        if not form.takes(k):
            fits = [g for g in reversed(INT4_GROUPS) if all(other % g == 0 for other in inputs.values())]
            instead = f"int4:g{fits[0]} fits" if fits else "no int4 group fits all layers"
            raise NotSupported(f"{weight}: {name} has {k} inputs, not a multiple of {form.group}; {instead}")


def swap_linears(model: "nn.Module", plan: Plan, kernels: Mapping[str, str]) -> "nn.Module":
    """Replace each `nn.Linear` whose operator in the plan has a packed format by a module that holds it packed.

    `kernels` names the kernel to use by operator name; where it is silent, the top rung of the format's ladder.
    """
    from ridgepoint.engine.convert import replace_linears
    from ridgepoint.kernels.linear import find

    ops = {op.name: op for op in plan.ops if isinstance(op, Linear) and op.weight != op.dtype}
    groups = {int(op.weight.partition(":g")[2] or 0) for op in ops.values()} or {0}
    assert len(groups) == 1, "one side has one weight format"

    def select(name: str, linear: "nn.Linear"):  # type: ignore[no-untyped-def]
        workload = plan.workload
        row = workload.row_of(name, plan.dtype) if isinstance(workload, Traced) else name.rsplit(".", 1)[-1]
        op = ops.get(row)
        if op is None:
            return None
        rungs = find(op.weight.partition(":g")[0], plan.device, rung=op.kernel, name=kernels.get(op.name, ""))
        if not rungs:
            raise NotSupported(f"{op.weight} has no {op.kernel or 'kernel'} on {plan.device}")
        return rungs[-1]

    return replace_linears(model, select, plan.dtype, groups.pop())
