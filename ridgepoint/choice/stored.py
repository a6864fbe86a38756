"""What becomes of a checkpoint that is quantised already: computed as it is stored, or dequantised first."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Choice, Metal, Words, no_more_words
from ridgepoint.choice.scope import EVERYWHERE, Scope
from ridgepoint.choice.weights import refuse_cpu, split_row, swap_linears
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload import Decoder, Linear, Op, Plan, StoredFormat, format_named

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Checkpoint", "with_checkpoint"]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`stored`: the codes of the file, in the kernel of their format (`stored:int4:g128` where it is spelled in full);
    `dequantised`: the weights that the codes stand for, in the dtype of the side. A side that names neither is `stored`.
    """

    name: str
    weight: str = ""

    NAMES: ClassVar[tuple[str, ...]] = ("stored", "dequantised")
    AXIS: ClassVar[str] = "checkpoint"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Checkpoint":
        if name == "dequantised" or not words:
            no_more_words(name, words)
            return cls(name)
        no_more_words(name, tuple(w for w in words if w.key))
        return cls(name, format_named(":".join(w.value for w in words)).name)

    @property
    def spelled(self) -> str:
        return f"{self.name}:{self.weight}" if self.weight else self.name

    def acts(self, device: str) -> tuple[str, ...]:
        if self.weight == "int8:dyn":
            return ("fp32",)  # as choice.int8 has it
        if self.weight == "int8:dyn:token":
            return ("bf16", "fp32")
        return ("bf16",) if self.weight else ()

    def check(self, plan: Plan) -> None:
        stored = plan.workload.stored if isinstance(plan.workload, Decoder) else None
        if stored is None:
            raise NotSupported(
                f"{plan.workload.name} is not quantised in its checkpoint, so {self.name} changes nothing; leave it out"
            )
        if self.name == "dequantised":
            return
        if self.weight != stored.weight:
            raise BadInput(
                f"{plan.workload.name} is stored as {stored.weight or stored.layout}, not as {self.weight or 'asked'}"
            )
        if self.weight.startswith("fp8"):
            refuse_cpu(plan, f"the checkpoint's {self.weight}")
        if odd := _odd(plan, self.weight):
            raise NotSupported(f"{plan.workload.name}: {odd}; dequantised computes its weights in {plan.dtype}")

    def on_paper(self, plan: Plan) -> Plan:
        """Every linear layer that the checkpoint quantises; a row of which it leaves some layers out becomes two."""
        model, weight = plan.workload, self.weight
        stored = model.stored if isinstance(model, Decoder) else None
        if not weight or stored is None:
            return plan
        assert isinstance(model, Decoder), "only decoders have a stored format"

        def rewrite(op: Op) -> Op | tuple[Op, ...]:
            if not isinstance(op, Linear) or op.fixed:
                return op
            if op.role == "head":
                whole = stored.holds("lm_head") and not model.tie_word_embeddings
                return replace(op, weight=weight) if whole else op
            here = op.layers or model.layers_of_row(op.name)
            return split_row(op, weight, "", here, stored.layers_of(op.role, op.name, here))

        return plan.rewritten(rewrite)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        """Packs the codes that the checkpoint was read with; random weights are rounded to nearest."""
        if not self.weight:
            return model
        from ridgepoint.engine.quantised.linear import held_codes

        return swap_linears(model, plan, metal, self.weight, choose=held_codes)


def _odd(plan: Plan, weight: str) -> str:
    """A layer whose inputs do not split into whole groups, if there is one."""
    form = format_named(weight)
    for op in plan.ops:
        if isinstance(op, Linear) and op.weight == weight and not form.takes(int(op.k)):
            return f"{op.name} has {op.k} inputs, not a multiple of {form.group}"
    return ""


def with_checkpoint(choices: list[Choice], checkpoint: StoredFormat | None, device: str) -> list[Choice]:
    """The choices of a side with what becomes of the checkpoint settled; unchanged where it is not quantised.

    A side that gives all linear layers a format of its own takes them dequantised. NotSupported where the side needs the
    codes as they are stored and no kernel holds them in its dtype, and where an algorithm is to choose codes for a part of
    the model whose other layers are stored as codes already.
    """
    named = next((c for c in choices if isinstance(c, Checkpoint)), None)
    if checkpoint is None or (named is not None and named.name == "dequantised"):
        return choices
    if named is None and any(c.AXIS == "weights" and _everywhere(c) for c in choices):
        return [*choices, Checkpoint("dequantised")]
    if checkpoint.misfit:
        raise NotSupported(f"{checkpoint.misfit}; name dequantised, and its weights are computed in the side's dtype")
    again = next((c for c in choices if getattr(c, "algorithm", "")), None)
    if again is not None:
        raise NotSupported(
            f"{again.spelled}: the checkpoint is quantised already ({checkpoint.weight}); name dequantised+{again.spelled} "
            "to choose codes anew"
        )
    stored = named if named is not None and named.weight else Checkpoint("stored", checkpoint.weight)
    dtype = next((c.spelled for c in choices if c.AXIS == "dtype"), "")
    if dtype and dtype not in (acts := stored.acts(device)):
        raise NotSupported(
            f"the checkpoint stores {stored.weight}, which has no kernel for {dtype} activations here; {' or '.join(acts)} "
            f"has, and {dtype}+dequantised computes its weights in {dtype}"
        )
    return [*(c for c in choices if c is not named), stored]


def _everywhere(choice: Choice) -> bool:
    """Whether a weight format is for every layer."""
    scope: Scope = getattr(choice, "scope", EVERYWHERE)
    return scope.whole and not scope.part
