"""Encoders (BERT, ViT): blocks of attention in which each token sees all, between an embedding and a small head."""

from dataclasses import dataclass
from functools import cached_property

from ridgepoint.workload.decoder import Block
from ridgepoint.workload.op import Linear, Op, Pointwise
from ridgepoint.workload.step import Step

__all__ = ["Encoder", "Patches"]


@dataclass(frozen=True)
class Patches:
    """An image as tokens: squares of `size` x `size` pixels of `channels` colours, `count` of them, and a class token."""

    size: int
    channels: int
    count: int


@dataclass(frozen=True)
class Encoder:
    """An encoder-only model; a step is one forward pass of `batch` inputs of `new` tokens (of an image its own count).

    `vocab_size` 0: tokens come from `patches`. `positions`: rows of the learned table; `types`: of that of segments.
    `norm_first`: norms stand before the layers (ViT), else behind them (BERT). `pooler`: a projection and a tanh on the
    first token. `classes`: outputs of a last projection (0: none).
    """

    name: str
    hidden_size: int
    blocks: tuple[Block, ...]
    positions: int
    dtype: str
    vocab_size: int = 0
    types: int = 0
    patches: Patches | None = None
    norm_first: bool = False
    pooler: bool = False
    classes: int = 0
    family: str = "bert"

    @cached_property
    def parameters(self) -> int:
        """All parameters."""
        d = self.hidden_size
        tables = (self.vocab_size + self.types + self.positions) * d
        embedding = d * self._patch_size + 2 * d if self.patches else 2 * d  # bias and class token, or the norm
        last = 2 * d if self.norm_first else 0
        head = (d * d + d if self.pooler else 0) + (self.classes * (d + 1))
        return tables + embedding + sum(b.parameters(d) for b in self.blocks) + last + head

    @property
    def table_parameters(self) -> int:
        """Parameters in tables, and the class token."""
        return (self.vocab_size + self.types + self.positions + (1 if self.patches else 0)) * self.hidden_size

    @property
    def _patch_size(self) -> int:
        return self.patches.size**2 * self.patches.channels if self.patches else 0

    @property
    def layers(self) -> int:
        """Number of layers (`num_hidden_layers`)."""
        return sum(b.count for b in self.blocks)

    @property
    def max_position_embeddings(self) -> int:
        """Longest input."""
        return self.positions

    @property
    def tie_word_embeddings(self) -> bool:
        """There is no head over a vocabulary."""
        return False

    def row_at(self, layer: int | None, module: str, dtype: str) -> str:
        """Row of the module at that path: its last part."""
        return module.rpartition(".")[2]

    def kv_bytes_per_token(self, width: float, scale: float = 0.0) -> float:
        """An encoder caches nothing."""
        return 0.0

    def forward_ops(self, step: Step, dtype: str) -> tuple[Op, ...]:
        """Operators of one forward pass; like operators of a block share one row."""
        d, m = self.hidden_size, step.tokens
        last = (Pointwise("final_norm", "norm", "layer_norm", m, d, dtype),) if self.norm_first else ()
        return (*self._into(step, dtype), *(op for b in self.blocks for op in b.ops(step, d, dtype)), *last,
                *self._out_of(step, dtype))  # fmt: skip

    def _into(self, step: Step, dtype: str) -> tuple[Op, ...]:
        d, m = self.hidden_size, step.tokens
        if self.patches is not None:
            rows = step.sequences * self.patches.count
            return (
                Linear("patch_embed", "other", rows, d, self._patch_size, dtype, dtype, bias=True),
                Pointwise("position_add", "embed", "add", m, d, dtype),
            )
        return (
            Pointwise("embed_tokens", "embed", "embedding", m, d, dtype),
            Pointwise("embed_types", "embed", "embedding", m, d, dtype),
            Pointwise("type_add", "embed", "add", m, d, dtype),
            Pointwise("embed_positions", "embed", "embedding", m, d, dtype),
            Pointwise("position_add", "embed", "add", m, d, dtype),
            Pointwise("embed_norm", "norm", "layer_norm", m, d, dtype),
        )

    def _out_of(self, step: Step, dtype: str) -> tuple[Op, ...]:
        d, rows = self.hidden_size, step.sequences
        ops: tuple[Op, ...] = ()
        if self.pooler:
            ops += (Linear("pooler", "other", rows, d, d, dtype, dtype, bias=True),)
        if self.classes:
            ops += (Linear("classifier", "other", rows, self.classes, d, dtype, dtype, bias=True),)
        return ops
