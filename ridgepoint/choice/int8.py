"""8-bit integers: weight-only (`int8`), or activations too, quantised at run time (`int8:dyn`)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Words, no_more_words
from ridgepoint.choice.scope import EVERYWHERE, Scope, take_scope
from ridgepoint.choice.weights import (
    ALGORITHMS,
    RUNGS,
    check_algorithm,
    check_device,
    one_of,
    rewrite_linears,
    swap_linears,
)
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Int8"]


@dataclass(frozen=True, slots=True)
class Int8:
    """Weights in int8 with a scale per output row; `activations`: "", "dyn" (a scale per tensor), "dyn:token".

    `algorithm`: "" rounds to nearest; `gptq`, `awq`, and of `dyn` also `smooth` choose on a text. `naive` pins the kernel
    that dequantises the whole matrix at every call, `ort` (of `dyn`) that of ONNX Runtime; `scope` says for which layers.
    """

    activations: str = ""
    algorithm: str = ""
    rung: str = ""
    scope: Scope = EVERYWHERE

    NAMES: ClassVar[tuple[str, ...]] = ("int8",)
    AXIS: ClassVar[str] = "weights"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Int8":
        scope, words = take_scope(name, words)
        flags = {w.value for w in words if not w.key}
        no_more_words(name, tuple(w for w in words if w.key or w.value not in ("dyn", "token", *ALGORITHMS, *RUNGS)))

        def refuse(of: str, *values: str) -> None:
            no_more_words(of, tuple(w for w in words if w.value in values))

        if "dyn" not in flags:
            refuse(name, "token", "smooth", "ort")
        else:
            refuse("int8:dyn", "naive")
        if "token" in flags:
            refuse("int8:dyn:token", "ort")
        activations = "dyn:token" if "token" in flags else "dyn" if "dyn" in flags else ""
        return cls(
            activations, one_of(name, ALGORITHMS, flags, "algorithms"), one_of(name, RUNGS, flags, "kernels"), scope
        )

    @property
    def weight(self) -> str:
        return f"int8:{self.activations}" if self.activations else "int8"

    @property
    def spelled(self) -> str:
        return self.weight + "".join(f":{word}" for word in (self.algorithm, self.rung) if word) + self.scope.spelled

    def acts(self, device: str) -> tuple[str, ...]:
        if self.activations == "dyn":
            return ("fp32",)  # fbgemm's dynamic linear and onnxruntime take and give fp32
        if self.activations == "dyn:token":
            return ("bf16", "fp32")
        return ("bf16",)

    def check(self, plan: Plan) -> None:
        """A scale per row fits any shape."""
        check_device(plan, self.spelled, self.rung)
        check_algorithm(plan, self.spelled, self.algorithm, self.rung, self.scope)

    def on_paper(self, plan: Plan) -> Plan:
        self.scope.check(plan, self.spelled)
        return rewrite_linears(plan, self.weight, self.rung, self.scope)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        return swap_linears(model, plan, metal, self.weight, self.algorithm)
