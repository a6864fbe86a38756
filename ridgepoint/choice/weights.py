"""What all weight formats share: which linear layers they rewrite, by which algorithm, on paper and on metal."""

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

from ridgepoint.choice.base import Metal
from ridgepoint.choice.scope import Scope
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload import INT4_GROUPS, Decoder, Linear, Op, Plan, format_named, ladder_named

if TYPE_CHECKING:
    from torch import nn

    from ridgepoint.engine.convert import ChooseCodes

__all__ = [
    "ALGORITHMS", "RUNGS", "check_algorithm", "check_device", "check_groups", "one_of", "refuse_cpu", "rewrite_linears",
    "split_row", "swap_linears",
]  # fmt: skip


RUNGS = ("naive", "ort")
"""Kernels that are taken only where a side names them: the slow one that dequantises first, and ONNX Runtime's."""
ALGORITHMS = ("gptq", "awq", "smooth")
"""How codes are chosen, where it is not by rounding to nearest; each needs a text to calibrate on."""


def one_of(name: str, known: Collection[str], flags: Collection[str], what: str) -> str:
    """The word of `known` among a choice's flags, or ""; two are refused."""
    found = [word for word in known if word in flags]
    if len(found) > 1:
        raise BadInput(f"{name} names two {what}, {' and '.join(found)}; one is possible")
    return found[0] if found else ""


def check_device(plan: Plan, spelled: str, rung: str) -> None:
    """Refuse ONNX Runtime's kernels on a GPU, and on several threads."""
    if rung == "ort" and (plan.device != "cpu" or plan.threads > 1):
        where = f"{plan.threads} threads" if plan.device == "cpu" else plan.device
        raise NotSupported(f"{spelled} runs on one thread of a CPU, not on {where}; without :ort torch's kernels do")


def check_algorithm(plan: Plan, spelled: str, algorithm: str, rung: str, scope: Scope) -> None:
    """Refuse an algorithm where there are no decoder layers, for the head, and for kernels that choose codes themselves."""
    if not algorithm:
        return
    without = spelled.replace(f":{algorithm}", "")
    if not isinstance(plan.workload, Decoder):
        raise NotSupported(
            f"{spelled}: {algorithm} works on the layers of a language model, and {plan.workload.name} is none; {without} does"
        )
    if scope.head:
        raise NotSupported(f"{spelled}: {algorithm} leaves the head alone; leave :head out")
    if rung == "ort":
        raise NotSupported(f"{spelled}: onnxruntime's kernels take their own codes; leave :ort or :{algorithm} out")


def refuse_cpu(plan: Plan, spelled: str) -> None:
    """Refuse a floating-point format of GPUs on a CPU."""
    if plan.device == "cpu":
        raise NotSupported(
            f"{spelled} has no kernel on a CPU (torch emulates it, and emulation is never timed); int8 has one"
        )


def rewrite_linears(plan: Plan, weight: str, kernel: str, scope: Scope) -> Plan:
    """The plan with every linear layer in `scope` stored as `weight`.

    A row of which only some layers are meant becomes two, the second named `q_proj@int4:g32`.
    """

    def rewrite(op: Op) -> Op | tuple[Op, ...]:
        if not isinstance(op, Linear) or not scope.takes(op):
            return op
        if scope.whole or op.role == "head":
            return replace(op, weight=weight, kernel=kernel)
        assert isinstance(plan.workload, Decoder), "checked before"
        here = op.layers or plan.workload.layers_of_row(op.name)
        return split_row(op, weight, kernel, here, scope.inside(frozenset(here)))

    return plan.rewritten(rewrite)


def split_row(
    op: Linear, weight: str, kernel: str, here: tuple[int, ...], inside: frozenset[int]
) -> Linear | tuple[Linear, Linear]:
    """A row that stands for the decoder layers `here`, stored as `weight` in those `inside`: one row, or two."""
    stored = replace(op, weight=weight, kernel=kernel)
    if not inside:
        return op
    if len(inside) == len(here):
        return stored
    name = f"{op.name.partition('@')[0]}@{weight}"
    outside = tuple(n for n in here if n not in inside)
    return (
        replace(op, layers=outside, count=len(outside)),
        replace(stored, name=name, layers=tuple(sorted(inside)), count=len(inside)),
    )


def check_groups(plan: Plan, weight: str, scope: Scope) -> None:
    """Refuse a group size that does not divide the inputs of a layer, naming one that divides those of all."""
    form = format_named(weight)
    linears = [op for op in plan.ops if isinstance(op, Linear) and op.sweep == "forward" and scope.takes(op)]
    inputs = {op.name: int(op.k) for op in linears if scope.whole or op.weight == weight}
    for name, k in inputs.items():
        if not form.takes(k):
            fits = [g for g in reversed(INT4_GROUPS) if all(other % g == 0 for other in inputs.values())]
            instead = f"int4:g{fits[0]} fits" if fits else "no int4 group fits all layers"
            raise NotSupported(f"{weight}: {name} has {k} inputs, not a multiple of {form.group}; {instead}")


def swap_linears(
    model: "nn.Module", plan: Plan, metal: Metal, weight: str, algorithm: str = "", choose: "ChooseCodes | None" = None
) -> "nn.Module":
    """Replace each `nn.Linear` whose operator in the plan is stored as `weight` by a module that holds it packed.

    Its codes are those of `choose`, else of `algorithm` where the layer's inputs are known, else the nearest.

    `metal.kernels` names the kernel to use by operator name; where it is silent, the top rung of the format's ladder.
    """
    from ridgepoint.engine.convert import replace_linears
    from ridgepoint.engine.quantise.algorithms import chosen_codes
    from ridgepoint.kernels.linear import find

    rows = plan.linears_at(metal.layer)

    def select(name: str, linear: "nn.Linear"):  # type: ignore[no-untyped-def]
        op = rows(name)
        if op is None or op.weight != weight:
            return None
        rungs = find(ladder_named(weight), plan.device, rung=op.kernel, name=metal.kernels.get(op.name, ""))
        if not rungs:
            raise NotSupported(f"{weight} has no {op.kernel or 'kernel'} on {plan.device}")
        return rungs[-1]

    group = int(weight.partition(":g")[2] or 0)
    if choose is None and algorithm and metal.inputs:
        choose = chosen_codes(algorithm, metal.inputs)
    return replace_linears(model, select, plan.dtype, group, choose)
