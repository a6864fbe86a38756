"""What choices share that remove a part of every layer, or whole layers, so that tensors are really smaller."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from ridgepoint.choice.base import Words, no_more_words
from ridgepoint.choice.share import share
from ridgepoint.errors import NotSupported
from ridgepoint.workload import Block, Decoder, Plan

__all__ = ["Removed", "block_at", "decoder_of", "smaller"]


def decoder_of(plan: Plan, spelled: str) -> Decoder:
    """The language model of the plan; refuses others, and checkpoints whose codes are of the whole layer."""
    model = plan.workload
    if not isinstance(model, Decoder) or any(b.mlp.routing or b.attention.latent for b in model.blocks):
        raise NotSupported(
            f"{spelled} is for plain language models; {model.name} is none: give it a smaller model instead"
        )
    if model.stored is not None:
        raise NotSupported(f"{spelled}: {model.name} is quantised already; prune the checkpoint it came from")
    return model


@dataclass(frozen=True, slots=True)
class Removed:
    """A share that goes, and by what: the weights alone, or `wanda`, what they are given on a text too."""

    share: str
    algorithm: str = ""

    NAMES: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def parse(cls, name: str, words: Words) -> Self:
        gone = share(name, words[0].value if words and not words[0].key else "")
        no_more_words(name, tuple(w for w in words[1:] if w.key or w.value != "wanda" or name == "layers"))
        return cls(gone, "wanda" if words[1:] else "")

    @property
    def spelled(self) -> str:
        return f"{self.NAMES[0]}:{self.share}" + (f":{self.algorithm}" if self.algorithm else "")

    def acts(self, device: str) -> tuple[str, ...]:
        return ()

    def check(self, plan: Plan) -> None:
        """Checked while the plan was made, which has no place for what is gone."""


def smaller(plan: Plan, spelled: str, blocks: tuple[Block, ...]) -> Plan:
    """The plan of the same model with other layers."""
    return replace(plan, workload=replace(decoder_of(plan, spelled), blocks=blocks))


def block_at(plan: Plan, layer: int) -> Block:
    """The block of a layer of what is left."""
    assert isinstance(plan.workload, Decoder), "only decoders have layers"
    return plan.workload.blocks[plan.workload.block_of(layer)]
