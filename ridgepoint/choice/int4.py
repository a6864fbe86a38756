"""4-bit integers, weight-only, with a scale and a zero point per group of inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Words, no_more_words
from ridgepoint.choice.weights import RUNGS, check_device, check_groups, one_rung, rewrite_linears, swap_linears
from ridgepoint.workload import Plan, format_named

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Int4"]


@dataclass(frozen=True, slots=True)
class Int4:
    """`int4` is groups of 32; `int4:g128` larger groups; `naive`, `ort` and `head` as in int8."""

    group: int = 32
    rung: str = ""
    head: bool = False

    NAMES: ClassVar[tuple[str, ...]] = ("int4",)
    AXIS: ClassVar[str] = "weights"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Int4":
        groups, flags, rest = [], set(), []
        for word in words:
            if not groups and word.key == "g":
                groups.append(word.value)
            elif not groups and not word.key and word.value[:1] == "g":
                groups.append(word.value[1:])
            elif not word.key and (word.value == "head" or word.value in RUNGS):
                flags.add(word.value)
            else:
                rest.append(word)
        no_more_words(name, tuple(rest))
        group = format_named(f"int4:g{groups[0]}").group if groups else 32
        return cls(group, one_rung(name, flags), "head" in flags)

    @property
    def weight(self) -> str:
        return f"int4:g{self.group}"

    @property
    def spelled(self) -> str:
        return self.weight + (f":{self.rung}" if self.rung else "") + (":head" if self.head else "")

    def acts(self, device: str) -> tuple[str, ...]:
        return ("fp32",) if self.rung == "ort" else ("bf16",)

    def check(self, plan: Plan) -> None:
        check_device(plan, self.spelled, self.rung)
        check_groups(plan, self.weight, self.head)

    def on_paper(self, plan: Plan) -> Plan:
        return rewrite_linears(plan, self.weight, self.rung, self.head)

    def on_metal(self, model: "nn.Module", plan: Plan, kernels: Mapping[str, str]) -> "nn.Module":
        return swap_linears(model, plan, kernels)
