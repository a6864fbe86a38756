"""A sliding window of attention: each token sees only the last so many keys, which changes what the model says."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from ridgepoint.choice.base import Metal, Words, integer, no_more_words
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Attention, Decoder, Op, Plan

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Window"]


@dataclass(frozen=True, slots=True)
class Window:
    """`window:256`: keys that a token sees, itself included (Longformer, arXiv 2004.05150; Mistral, arXiv 2310.06825).

    A step that adds one token reads only those keys. Prompts are another matter: torch's kernels on a CPU take the window as
    a mask and multiply what it hides as well, also what causality alone would have spared; `flex` skips blocks of it. The
    cache still holds all keys. Layers with a narrower window of their own keep it.
    """

    size: int

    NAMES: ClassVar[tuple[str, ...]] = ("window",)
    AXIS: ClassVar[str] = "window"

    @classmethod
    def parse(cls, name: str, words: Words) -> "Window":
        no_more_words(name, words[1:] if words and not words[0].key else words)
        return cls(integer("window", words[0].value if words else "", 1, 2**27))

    @property
    def spelled(self) -> str:
        return f"window:{self.size}"

    def acts(self, device: str) -> tuple[str, ...]:
        return ()

    def check(self, plan: Plan) -> None:
        if not isinstance(plan.workload, Decoder):
            raise NotSupported(
                f"{self.spelled} is for language models; {plan.workload.name} has no layers to give it to"
            )

    def on_paper(self, plan: Plan) -> Plan:
        def rewrite(op: Op) -> Op:
            if not isinstance(op, Attention) or 0 < op.window <= self.size:
                return op
            masked = (
                plan.device == "cpu"
                and op.kernel != "flex"
                and any(g.new > 1 and g.context > self.size for g in op.groups)
            )
            return replace(op, causal=False) if masked else replace(op, window=self.size)

        return plan.rewritten(rewrite)

    def on_metal(self, model: "nn.Module", plan: Plan, metal: Metal) -> "nn.Module":
        own = getattr(model, "window", None)
        if metal.layer is not None and own is not None:
            model.window = min(own or self.size, self.size)  # type: ignore[assignment]
        return model
