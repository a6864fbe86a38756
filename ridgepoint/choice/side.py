"""A side of a bet: every choice settled, so that paper and metal carry out the same thing."""

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from ridgepoint.choice.base import Choice, Metal
from ridgepoint.choice.grammar import parse_choices
from ridgepoint.choice.precision import Precision
from ridgepoint.choice.registry import CHOICES
from ridgepoint.choice.stored import with_checkpoint
from ridgepoint.choice.threads import Threads
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Plan, Step, StoredFormat, Workload

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Side", "resolve"]


@dataclass(frozen=True)
class Side:
    """Settled choices, base dtype first; `spec` names them in full and parses back to the same side."""

    choices: tuple[Choice, ...]
    device: str

    @property
    def spec(self) -> str:
        """`"bf16+int4:g32+threads:1"`."""
        return "+".join(choice.spelled for choice in self.choices)

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Choices, as spelled, that need a text to calibrate on."""
        return tuple(c.spelled for c in self.choices if getattr(c, "algorithm", ""))

    def plan(self, workload: Workload, step: Step) -> Plan:
        """The plan of this side; raises NotSupported where a choice does not take the model."""
        bare = Plan(workload, step, workload.dtype, device=self.device, side=self.spec)
        plan = reduce(lambda plan, choice: choice.on_paper(plan), self.choices, bare)
        for choice in self.choices:
            choice.check(plan)
        return plan

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        """The model, or a part of it as it is built, after every choice's rewrite."""
        return reduce(lambda model, choice: choice.on_metal(model, plan, metal), self.choices, model)


def resolve(
    text: str, default_dtype: str, device: str = "cpu", common: str = "", threads: int = 1,
    checkpoint: StoredFormat | None = None,
) -> Side:  # fmt: skip
    """The side that `text` writes; what it does not name is that of `common` (`--with`), else the default.

    The base dtype, where nobody names it, is the checkpoint's if every choice takes it, else the first that the
    choice prefers (weight-only int8 needs bf16, fbgemm's dynamic int8 needs fp32). Of a `checkpoint` that is quantised
    already, linear layers are as stored unless the side is `dequantised` or gives all of them a format of its own.
    """
    own = parse_choices(text)
    taken = {choice.AXIS for choice in own}
    choices = [*own, *(c for c in parse_choices(common) if c.AXIS not in taken)]
    if not any(isinstance(c, Threads) for c in choices):
        choices.append(Threads(threads))
    choices = with_checkpoint(choices, checkpoint, device)
    named = next((c for c in choices if isinstance(c, Precision)), None)
    others = [c for c in choices if c is not named]
    # a side's own choice outranks the dtype of `--with`; written in one place, the two must agree
    bound = others if named in own else [c for c in others if named and c not in own]
    dtype = _base_dtype(named.dtype if named else default_dtype, others, device, bound)
    return Side((Precision(dtype), *sorted(others, key=lambda c: _ORDER.index(c.AXIS))), device)


_ORDER = tuple(dict.fromkeys(choice.AXIS for choice in CHOICES))


def _base_dtype(wanted: str, choices: list[Choice], device: str, bound: list[Choice]) -> str:
    """The dtype wanted, else the first one preferred by a choice that all of them take."""
    asking = [(choice, acts) for choice in choices if (acts := choice.acts(device))]
    for choice, acts in asking:
        if choice in bound and wanted not in acts:
            raise NotSupported(f"{choice.spelled} has no kernel for {wanted} activations here; {' or '.join(acts)} has")
    for dtype in (wanted, *(dtype for _, acts in asking for dtype in acts)):
        if all(dtype in acts for _, acts in asking):
            return dtype
    each = ", ".join(f"{choice.spelled} in {' or '.join(acts)}" for choice, acts in asking)
    raise NotSupported(f"these choices compute in no dtype that they share: {each}; keep one of them")
