"""Which linear layers of a model a choice is for: all but the head, or the layers and parts that its words name."""

import re
from dataclasses import dataclass

from ridgepoint.choice.base import Option, Words
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload import Decoder, Linear, Plan

__all__ = ["EVERYWHERE", "Scope", "spelled_layers", "take_scope"]

_PARTS = ("attention", "mlp")
_LAYERS = re.compile(r"\d{1,4}(-\d{1,4})?(\.\d{1,4}(-\d{1,4})?)*")
_MOST = 2**12


@dataclass(frozen=True, slots=True)
class Scope:
    """`head`: the head too; `layers=0-3.7`: only these decoder layers; `skip=0.7`: all but these; `attention`, `mlp`: only
    the linear layers of that part. The head has no layer number and is left out unless it is named.
    """

    head: bool = False
    layers: str = ""
    skip: str = ""
    part: str = ""

    @property
    def spelled(self) -> str:
        """As behind a choice's name, each word with its colon."""
        words = [self.part, f"layers={self.layers}" if self.layers else "", f"skip={self.skip}" if self.skip else ""]
        return "".join(f":{word}" for word in (*words, "head" if self.head else "") if word)

    def takes(self, op: Linear) -> bool:
        """Whether a linear layer is of the kind that is meant, whatever its number."""
        if op.fixed:
            return False
        if op.role == "head":
            return self.head
        return not self.part or op.role.startswith(self.part)

    def inside(self, layers: frozenset[int]) -> frozenset[int]:
        """Those of the decoder layers `layers` that are meant."""
        if self.layers:
            return layers & _numbers(self.layers)
        return layers - _numbers(self.skip) if self.skip else layers

    @property
    def whole(self) -> bool:
        """Whether no layer is named."""
        return not (self.layers or self.skip)

    def check(self, plan: Plan, spelled: str) -> None:
        """Refuse layers that the model does not have, and layers of what has none."""
        if self.whole:
            return
        if not isinstance(plan.workload, Decoder):
            raise NotSupported(f"{spelled}: {plan.workload.name} has no numbered layers; leave layers= and skip= out")
        last = plan.workload.layers - 1
        if beyond := sorted(n for n in _numbers(self.layers) | _numbers(self.skip) if n > last):
            raise BadInput(f"{spelled}: {plan.workload.name} has layers 0 to {last}, no layer {beyond[0]}")

    def overlaps(self, other: "Scope") -> bool:
        """Whether a linear layer may be in both."""
        if self.head and other.head:
            return True
        if self.part and other.part and self.part != other.part:
            return False
        everything = frozenset(range(_MOST))
        return bool(self.inside(everything) & other.inside(everything))


EVERYWHERE = Scope()


def take_scope(name: str, words: Words) -> tuple[Scope, Words]:
    """The scope that is written among a choice's words, and the words that are left."""
    flags: set[str] = set()
    given: dict[str, str] = {}
    rest: list[Option] = []
    for word in words:
        if not word.key and word.value in ("head", *_PARTS):
            flags.add(word.value)
        elif word.key in ("layers", "skip") and word.key not in given:
            given[word.key] = _checked(name, word)
        else:
            rest.append(word)
    if len(given) == 2:
        raise BadInput(f"{name} names both layers= and skip=; one is possible")
    parts = [p for p in _PARTS if p in flags]
    if len(parts) == 2:
        raise BadInput(f"{name}: attention and mlp together are every layer; leave both out")
    return Scope("head" in flags, given.get("layers", ""), given.get("skip", ""), *parts), tuple(rest)


def spelled_layers(numbers: frozenset[int]) -> str:
    """`{0, 1, 2, 5}` -> `0-2.5`."""
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and runs[-1][1] == n - 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ".".join(f"{a}" if a == b else f"{a}-{b}" for a, b in runs)


def _checked(name: str, word: Option) -> str:
    if not _LAYERS.fullmatch(word.value) or not (numbers := _numbers(word.value)):
        raise BadInput(f"{name}: {word.key}={word.value[:40]} is not a list of layers; write {word.key}=0-3.7")
    return spelled_layers(numbers)


def _numbers(text: str) -> frozenset[int]:
    found: set[int] = set()
    for run in filter(None, text.split(".")):
        first, _, last = run.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
