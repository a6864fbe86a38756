"""4-bit integers, weight-only, with a scale and a zero point per group of inputs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Words, no_more_words
from ridgepoint.choice.scope import EVERYWHERE, Scope, take_scope
from ridgepoint.choice.weights import (
    ALGORITHMS,
    RUNGS,
    check_algorithm,
    check_device,
    check_groups,
    one_of,
    rewrite_linears,
    swap_linears,
)
from ridgepoint.workload import Plan, format_named

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Int4"]

_ALGORITHMS = tuple(a for a in ALGORITHMS if a != "smooth")


@dataclass(frozen=True, slots=True)
class Int4:
    """`int4` is groups of 32, rounded to nearest; `int4:g128` larger groups; `gptq` and `awq` choose the codes on a text;
    `naive` and `ort` as in int8; `scope` says for which layers."""

    group: int = 32
    algorithm: str = ""
    rung: str = ""
    scope: Scope = EVERYWHERE

    NAMES: ClassVar[tuple[str, ...]] = ("int4",)
    AXIS: ClassVar[str] = "weights"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Int4":
        scope, words = take_scope(name, words)
        groups, flags, rest = [], set(), []
        for word in words:
            if not groups and word.key == "g":
                groups.append(word.value)
            elif not groups and not word.key and word.value[:1] == "g" and word.value not in ALGORITHMS:
                groups.append(word.value[1:])
            elif not word.key and word.value in (*_ALGORITHMS, *RUNGS):
                flags.add(word.value)
            else:
                rest.append(word)
        no_more_words(name, tuple(rest))
        group = format_named(f"int4:g{groups[0]}").group if groups else 32
        return cls(group, one_of(name, _ALGORITHMS, flags, "algorithms"), one_of(name, RUNGS, flags, "kernels"), scope)

    @property
    def weight(self) -> str:
        return f"int4:g{self.group}"

    @property
    def spelled(self) -> str:
        return self.weight + "".join(f":{word}" for word in (self.algorithm, self.rung) if word) + self.scope.spelled

    def acts(self, device: str) -> tuple[str, ...]:
        return ("fp32",) if self.rung == "ort" else ("bf16",)

    def check(self, plan: Plan) -> None:
        check_device(plan, self.spelled, self.rung)
        check_algorithm(plan, self.spelled, self.algorithm, self.rung, self.scope)
        check_groups(plan, self.weight, self.scope)

    def on_paper(self, plan: Plan) -> Plan:
        self.scope.check(plan, self.spelled)
        return rewrite_linears(plan, self.weight, self.rung, self.scope)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        return swap_linears(model, plan, metal, self.weight, self.algorithm)
