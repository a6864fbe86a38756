"""Weights that are set to zero: in a dense tensor, whose kernels multiply them all the same, or in a format that skips them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Words, no_more_words
from ridgepoint.choice.scope import EVERYWHERE, Scope, take_scope
from ridgepoint.choice.share import share
from ridgepoint.choice.weights import rewrite_linears, swap_linears
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload import Decoder, Linear, Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Sparse"]

_N, _K = 32, 64
"""Multiples of rows and inputs that 2:4 kernels of 16 bits take (`kernels.semi_structured`)."""


@dataclass(frozen=True, slots=True)
class Sparse:
    """`sparse:0.5`: so much of every linear layer is zero, where |w| is smallest in the layer; `2:4`, short for
    `sparse:2:4`: the two smaller ones of every four neighbours of a row.

    `algorithm`: `wanda` goes by |w| times the norm of its input on a text, row by row (arXiv 2306.11695). `rung`: `csr` stores
    and multiplies only what is not zero, on a CPU in fp32; without it zeros stay in a dense tensor. 2:4 has kernels on GPUs
    since Ampere and is taken there; on a CPU its zeros stay in a dense tensor.
    """

    sparsity: str
    algorithm: str = ""
    rung: str = ""
    scope: Scope = EVERYWHERE

    NAMES: ClassVar[tuple[str, ...]] = ("sparse",)
    AXIS: ClassVar[str] = "sparsity"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Sparse":
        scope, words = take_scope(name, words)
        plain = [w.value for w in words if not w.key]
        pattern = plain[:2] == ["2", "4"]
        sparsity = "2:4" if pattern else share(name, plain[0] if plain else "")
        rest = words[2:] if pattern else words[1:]
        no_more_words(name, tuple(w for w in rest if w.key or w.value not in ("wanda", "csr")))
        flags = {w.value for w in rest}
        if pattern and "csr" in flags:
            raise BadInput("2:4 is a format of GPUs; sparse:0.5:csr stores the other half as rows on a CPU")
        return cls(sparsity, "wanda" if "wanda" in flags else "", "csr" if "csr" in flags else "", scope)

    @property
    def weight(self) -> str:
        """The format that skips the zeros."""
        return "2:4" if self.two_of_four else f"csr:{self.sparsity}"

    @property
    def two_of_four(self) -> bool:
        """Whether half of every four neighbours is zero."""
        return self.sparsity == "2:4"

    @property
    def zeros(self) -> float:
        """Share of the weights in scope that is zero."""
        return 0.5 if self.two_of_four else float(self.sparsity)

    @property
    def spelled(self) -> str:
        name = "2:4" if self.two_of_four else f"sparse:{self.sparsity}"
        return name + "".join(f":{word}" for word in (self.algorithm, self.rung) if word) + self.scope.spelled

    def skips(self, device: str) -> bool:
        """Whether a kernel there leaves the zeros out."""
        return self.rung == "csr" or (self.two_of_four and device != "cpu")

    def acts(self, device: str) -> tuple[str, ...]:
        if self.rung == "csr":
            return ("fp32",)
        return ("bf16", "fp16") if self.skips(device) else ()

    def check(self, plan: Plan) -> None:
        """Refuse what has no kernel, training, and checkpoints and formats whose codes would take the zeros' place."""
        if plan.step.phase == "train":
            raise NotSupported(
                f"{self.spelled}: the first gradient fills the zeros; it is for steps that train nothing"
            )
        if isinstance(plan.workload, Decoder) and plan.workload.stored is not None:
            raise NotSupported(
                f"{self.spelled}: {plan.workload.name} is quantised already; prune the checkpoint it came from"
            )
        if self.algorithm and not isinstance(plan.workload, Decoder):
            raise NotSupported(
                f"{self.spelled}: wanda works on the layers of a language model, and {plan.workload.name} is none"
            )
        if self.algorithm and self.scope.head:
            raise NotSupported(f"{self.spelled}: wanda leaves the head alone; leave :head out")
        if self.rung == "csr" and plan.device != "cpu":
            raise NotSupported(f"{self.spelled}: csr is a kernel for CPUs; on {plan.device} 2:4 is what kernels skip")
        tied = bool(getattr(plan.workload, "tie_word_embeddings", False))
        if self.scope.head and tied and not self.skips(plan.device):
            raise NotSupported(
                f"{self.spelled}: the head of {plan.workload.name} is its embedding table too; leave :head out"
            )
        here = [op for op in plan.ops if isinstance(op, Linear) and self.scope.takes(op)]
        if not here:
            raise NotSupported(f"{self.spelled}: {plan.workload.name} has no linear layer that it could prune")
        if self.skips(plan.device) and not any(op.weight == self.weight for op in here):
            other = ", ".join(sorted({op.weight for op in here})) or "no linear layer"
            raise NotSupported(
                f"{self.spelled} holds {'fp32' if self.rung else '16-bit'} values, not {other}; keep one of them"
            )
        self._check_shapes(plan, here)

    def _check_shapes(self, plan: Plan, here: list[Linear]) -> None:
        if not self.two_of_four:
            return
        n, k = (_N, _K) if self.skips(plan.device) else (1, 4)
        for op in here:
            if op.n % n or op.k % k:
                raise NotSupported(
                    f"{self.spelled}: {op.name} is {op.n} x {op.k}; possible are multiples of {n} x {k}; "
                    f"{self.spelled}:attention or :mlp leaves other layers out"
                )

    def on_paper(self, plan: Plan) -> Plan:
        self.scope.check(plan, self.spelled)
        return rewrite_linears(plan, self.weight, "", self.scope) if self.skips(plan.device) else plan

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        from torch import nn

        from ridgepoint.engine.prune.masks import prune

        rows = plan.linears_at(metal.layer)
        for name, linear in model.named_modules():
            if isinstance(linear, nn.Linear) and (op := rows(name)) is not None and self._means(op, metal.layer):
                prune(linear, self.zeros, self.two_of_four, metal.inputs.get(name) if self.algorithm else None)
        return swap_linears(model, plan, metal, self.weight) if self.skips(plan.device) else model

    def _means(self, op: Linear, layer: int | None) -> bool:
        inside = self.scope.whole or layer is None or bool(self.scope.inside(frozenset([layer])))
        return self.scope.takes(op) and (inside or op.role == "head")
