"""8-bit integers: weight-only (`int8`), or activations too, quantised at run time (`int8:dyn`)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Words, no_more_words
from ridgepoint.choice.weights import RUNGS, check_device, one_rung, rewrite_linears, swap_linears
from ridgepoint.workload import Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Int8"]


@dataclass(frozen=True, slots=True)
class Int8:
    """Weights in int8 with a scale per output row; `activations`: "", "dyn" (a scale per tensor), "dyn:token".

    `naive` pins the kernel that dequantises the whole matrix at every call, `ort` (of `dyn`) that of ONNX Runtime; `head`
    quantises the head as well.
    """

    activations: str = ""
    rung: str = ""
    head: bool = False

    NAMES: ClassVar[tuple[str, ...]] = ("int8",)
    AXIS: ClassVar[str] = "weights"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Int8":
        flags = {w.value for w in words if not w.key}
        no_more_words(name, tuple(w for w in words if w.key or w.value not in ("dyn", "token", "head", *RUNGS)))
        if "token" in flags and "dyn" not in flags:
            no_more_words(name, tuple(w for w in words if w.value == "token"))
        if "naive" in flags and "dyn" in flags:
            no_more_words("int8:dyn", tuple(w for w in words if w.value == "naive"))
        if "ort" in flags and flags & {"token", "dyn"} != {"dyn"}:
            no_more_words("int8:dyn:token" if "token" in flags else name, tuple(w for w in words if w.value == "ort"))
        activations = "dyn:token" if "token" in flags else "dyn" if "dyn" in flags else ""
        return cls(activations, one_rung(name, flags), "head" in flags)

    @property
    def weight(self) -> str:
        return f"int8:{self.activations}" if self.activations else "int8"

    @property
    def spelled(self) -> str:
        return self.weight + (f":{self.rung}" if self.rung else "") + (":head" if self.head else "")

    def acts(self, device: str) -> tuple[str, ...]:
        if self.activations == "dyn":
            return ("fp32",)  # fbgemm's dynamic linear and onnxruntime take and give fp32
        if self.activations == "dyn:token":
            return ("bf16", "fp32")
        return ("bf16",)

    def check(self, plan: Plan) -> None:
        """A scale per row fits any shape."""
        check_device(plan, self.spelled, self.rung)

    def on_paper(self, plan: Plan) -> Plan:
        return rewrite_linears(plan, self.weight, self.rung, self.head)

    def on_metal(self, model: "nn.Module", plan: Plan, kernels: Mapping[str, str]) -> "nn.Module":
        return swap_linears(model, plan, kernels)
