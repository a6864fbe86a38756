"""What of a model is trained, or served, beside its weights: all of it, or low-rank adapters over a frozen base."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Words, integer
from ridgepoint.choice.scope import EVERYWHERE
from ridgepoint.choice.weights import check_groups, rewrite_linears
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload import Linear, Op, Plan, Pointwise, Traced

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Adapter"]

_TARGETS = {"all": ("attention.in", "attention.out", "mlp.in", "mlp.out"), "qv": ("attention.in",)}
_DEFAULT_RANK, _MOST_RANK, _MOST_ADAPTERS = 16, 1024, 4096


@dataclass(frozen=True, slots=True)
class Adapter:
    """`full`: every weight is trained. `lora` (arXiv 2106.09685): adapters of rank `r` beside the linear layers of all
    layers (`targets=all`), or of queries and values (`targets=qv`, the paper's own choice); embedding, norms, head and the
    layers themselves are frozen. `qlora` (arXiv 2305.14314): the same over weights in NF4 of bitsandbytes.

    `adapters=n`: so many of them serve one batch, on paper only (S-LoRA, arXiv 2311.03285; Punica, arXiv 2310.18547).
    """

    name: str
    rank: int = 0
    alpha: int = 0
    targets: str = "all"
    adapters: int = 1

    NAMES: ClassVar[tuple[str, ...]] = ("full", "lora", "qlora")
    AXIS: ClassVar[str] = "adapter"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Adapter":
        """`lora[:r=16][:alpha=2r][:targets=all|qv][:adapters=1]`."""
        values = {word.key: word.value for word in words}
        if len(values) < len(words):
            raise BadInput(f"choice {name!r} gives one option twice")
        if unknown := [key for key in values if key not in ("r", "alpha", "targets", "adapters")]:
            raise BadInput(
                f"choice {name!r} has no option {(unknown[0] or values[''])!r}; lora:r=16:alpha=32:targets=qv has all"
            )
        if name == "full":
            if values:
                raise BadInput("full trains every weight and takes no options; lora:r=16 takes a rank")
            return cls("full")
        rank = integer(f"{name}: r", values.get("r", str(_DEFAULT_RANK)), 1, _MOST_RANK)
        alpha = integer(f"{name}: alpha", values.get("alpha", str(2 * rank)), 1, 2**16)
        targets = values.get("targets", "all")
        if targets not in _TARGETS:
            raise BadInput(f"{name}: targets is {targets[:40]!r}; possible are {', '.join(_TARGETS)}")
        return cls(
            name, rank, alpha, targets, integer(f"{name}: adapters", values.get("adapters", "1"), 1, _MOST_ADAPTERS)
        )

    @property
    def spelled(self) -> str:
        if self.name == "full":
            return "full"
        several = f":adapters={self.adapters}" if self.adapters > 1 else ""
        return f"{self.name}:r={self.rank}:alpha={self.alpha}:targets={self.targets}{several}"

    def acts(self, device: str) -> tuple[str, ...]:
        return ("bf16",) if self.name == "qlora" else ()

    def check(self, plan: Plan) -> None:
        if isinstance(plan.workload, Traced) or not _adapted(plan):
            raise NotSupported(
                f"{self.name} is a choice for language models; {plan.workload.name} has no layers for it"
            )
        if self.name == "full" and plan.step.phase != "train":
            raise NotSupported(
                f"full says what is trained, and a {plan.step.phase} step trains nothing; --step train does"
            )
        if self.name == "qlora" and plan.step.phase != "train":
            raise NotSupported(
                "qlora is how a model is trained; to serve it, lora keeps its adapters and nf4 its weights"
            )
        if self.adapters > 1 and plan.step.phase == "train":
            raise NotSupported("adapters=n is of serving; a training step trains one")
        if self.name == "qlora":
            check_groups(plan, "nf4", EVERYWHERE)

    def on_paper(self, plan: Plan) -> Plan:
        if self.name == "full":
            return plan
        stored = {op.weight for op in plan.layer_inputs if isinstance(op, Linear) and op.weight != op.dtype}
        if self.name == "qlora" and stored:
            raise NotSupported(f"qlora stores the base in NF4, and {', '.join(sorted(stored))} otherwise; keep one")
        roles = _TARGETS[self.targets]

        def rewrite(op: Op) -> Op:
            if isinstance(op, Linear):
                taken = op.role in roles and not op.fixed and not (self.targets == "qv" and _is_key(op, plan))
                rank = self.rank if taken else 0
                return replace(op, trained=False, rank=rank, adapters=self.adapters if rank else 1)
            return replace(op, trained=False) if isinstance(op, Pointwise) else op

        plan = rewrite_linears(plan, "nf4", "", EVERYWHERE) if self.name == "qlora" else plan
        return plan.rewritten(rewrite)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        """Base and adapters by peft and bitsandbytes; layer by layer, or the outer model, which has none of either.

        NotSupported for what is predicted only.
        """
        if self.name == "full":
            return model
        from ridgepoint.engine.adapters import AdapterShape, inject, quantise_base
        from ridgepoint.engine.runs import check_adapters
        from ridgepoint.kernels.ladder import TORCH_DTYPES

        check_adapters(plan)
        linears = [op for op in plan.layer_inputs if isinstance(op, Linear)]
        quantised = {op.name.partition("#")[0] for op in linears if op.weight == "nf4"}
        ranked = {op.name.partition("#")[0] for op in linears if op.rank}
        if self.name == "qlora":
            model = quantise_base(model, lambda name: name.rpartition(".")[2] in quantised)
        here = ranked & {name.rpartition(".")[2] for name, _ in model.named_modules()}
        return (
            inject(model, sorted(here), AdapterShape(self.rank, self.alpha), TORCH_DTYPES[plan.dtype])
            if here
            else model
        )


def _adapted(plan: Plan) -> bool:
    return any(isinstance(op, Linear) and op.role in _TARGETS["all"] for op in plan.layer_inputs)


def _is_key(op: Linear, plan: Plan) -> bool:
    """Whether a projection into attention is that of the keys: the second of three."""
    into = [
        x.name for x in plan.workload.forward_ops(plan.step, plan.dtype) if isinstance(x, Linear) and x.role == op.role
    ]
    place = into.index(op.name) if op.name in into else 0
    return len(into) % 3 == 0 and place % 3 == 1
