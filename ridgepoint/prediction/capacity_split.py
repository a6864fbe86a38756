"""How a model is split over devices: tensor, pipeline, expert and data parallelism, and which splits it allows."""

from dataclasses import dataclass

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload import Block, Decoder

__all__ = ["Split", "Stage", "check_split", "stages_of"]

Stage = tuple[tuple[Block, int], ...]
"""Layers of one pipeline stage: blocks with the number of their layers that stand in it."""
_MOST = 2**16


@dataclass(frozen=True, slots=True)
class Split:
    """`tp` slices each matrix, `pp` cuts the layers into stages, `dp` repeats what is left, each with its own sequences.

    `ep` spreads whole experts over that many of the tp x dp devices of a stage; what remains of tp x dp slices each expert.
    With `ep` 1 experts are sliced as all other matrices are, by tp.
    """

    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1

    @property
    def devices(self) -> int:
        """All devices together."""
        return self.tp * self.pp * self.dp

    @property
    def expert_tp(self) -> int:
        """Slices of each expert."""
        return self.tp * self.dp // self.ep if self.ep > 1 else self.tp

    @property
    def expert_replicas(self) -> int:
        """Devices of a stage that hold the same experts: over these ZeRO splits what belongs to them."""
        return max(1, self.tp * self.dp // (self.ep * self.expert_tp))

    def __str__(self) -> str:
        parts = [f"{name}={n}" for name in ("tp", "pp", "ep", "dp") if (n := getattr(self, name)) > 1]
        return " ".join(parts) or "1 device"


def check_split(model: Decoder, split: Split) -> None:
    """Refuse a split that does not divide the model; the message names the splits that do."""
    for name in ("tp", "pp", "ep", "dp"):
        if not 1 <= getattr(split, name) <= _MOST:
            raise BadInput(f"{name} is {getattr(split, name)}; possible is 1 to {_MOST}")
    wrong = _indivisible(model, split.tp)
    if wrong:
        possible = [str(n) for n in (1, 2, 4, 8, 16, 32, 64) if not _indivisible(model, n)]
        raise NotSupported(f"{model.name}: tp {split.tp} does not divide {wrong}; {', '.join(possible)} do")
    if split.pp > model.layers:
        raise NotSupported(f"{model.name}: pp {split.pp} has more stages than there are layers, {model.layers}")
    _check_experts(model, split)


def _indivisible(model: Decoder, tp: int) -> str:
    """What tp slices would cut unevenly; "" where all is even. Fewer key/value heads than slices are repeated."""
    for block in model.blocks:
        attention, mlp = block.attention, block.mlp
        heads, kv_heads = attention.num_attention_heads, attention.num_key_value_heads
        if heads % tp:
            return f"{heads} attention heads"
        if attention.latent is None and kv_heads % tp and tp % kv_heads:
            return f"{kv_heads} key/value heads"
        wide = mlp.intermediate_size if mlp.routing is None else mlp.routing.shared_intermediate_size
        if wide % tp:
            return f"an intermediate size of {wide}"
    return ""


def _check_experts(model: Decoder, split: Split) -> None:
    routings = [(block.mlp, block.mlp.routing) for block in model.blocks if block.mlp.routing is not None]
    if split.ep > 1 and not routings:
        raise NotSupported(f"{model.name} has no experts to spread over ep {split.ep}; tp and pp split it")
    if split.ep > 1 and (split.tp * split.dp) % split.ep:
        raise BadInput(f"ep {split.ep} must divide tp x dp, {split.tp} x {split.dp}: experts lie on the same devices")
    for mlp, routing in routings:
        if split.ep > routing.num_experts:
            raise NotSupported(f"{model.name}: ep {split.ep} is more than its {routing.num_experts} experts")
        if mlp.intermediate_size % split.expert_tp:
            raise NotSupported(
                f"{model.name}: experts of {mlp.intermediate_size} do not split into {split.expert_tp} slices; "
                f"a larger ep, up to tp x dp, slices them less"
            )


def stages_of(model: Decoder, pp: int) -> tuple[Stage, ...]:
    """Layers by stage; what does not divide goes to the stages before the last, which has the head (as in vLLM)."""
    sizes = [model.layers // pp] * pp
    for number in range(model.layers % pp):
        sizes[-2 - number] += 1
    left = [(block, block.count) for block in model.blocks]
    stages: list[Stage] = []
    for size in sizes:
        stage: list[tuple[Block, int]] = []
        while size:
            block, count = left.pop(0)
            taken = min(size, count)
            stage.append((block, taken))
            if count > taken:
                left.insert(0, (block, count - taken))
            size -= taken
        stages.append(tuple(stage))
    return tuple(stages)
