"""3-bit integers, on paper: how much less memory they take; no kernel here reads them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Words, no_more_words
from ridgepoint.choice.scope import EVERYWHERE, Scope, take_scope
from ridgepoint.choice.weights import check_groups, rewrite_linears
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Plan, format_named

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Int3"]


@dataclass(frozen=True, slots=True)
class Int3:
    """`int3` is groups of 32 with a bf16 scale and zero point, codes packed without gaps; `int3:g128` larger groups."""

    group: int = 32
    scope: Scope = EVERYWHERE

    NAMES: ClassVar[tuple[str, ...]] = ("int3",)
    AXIS: ClassVar[str] = "weights"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Int3":
        scope, words = take_scope(name, words)
        groups = [w.value.removeprefix("g") for w in words if w.key in ("", "g") and (w.key or w.value[:1] == "g")]
        no_more_words(name, words[1:] if groups else words)
        return cls(format_named(f"int3:g{groups[0]}").group if groups else 32, scope)

    @property
    def weight(self) -> str:
        return f"int3:g{self.group}"

    @property
    def spelled(self) -> str:
        return self.weight + self.scope.spelled

    def acts(self, device: str) -> tuple[str, ...]:
        return ("bf16",)

    def check(self, plan: Plan) -> None:
        if plan.device == "cpu":
            raise NotSupported(f"{self.spelled} has no kernel; `ridge fit` says what it saves, and int4 runs")
        check_groups(plan, self.weight, self.scope)

    def on_paper(self, plan: Plan) -> Plan:
        self.scope.check(plan, self.spelled)
        return rewrite_linears(plan, self.weight, "", self.scope)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        raise NotSupported(f"{self.spelled} has no kernel; `ridge fit` says what it saves, and int4 runs")
