"""Decoder-only language models as blocks of attention and feed-forward layers; families build them from configs."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from ridgepoint.workload.attention import AttentionSpec, Latent
from ridgepoint.workload.feedforward import MlpSpec, Routing
from ridgepoint.workload.op import Linear, Op, Pointwise
from ridgepoint.workload.step import Step, decode
from ridgepoint.workload.stored import StoredFormat

__all__ = ["AttentionSpec", "Block", "Decoder", "Latent", "MlpSpec", "Norm", "Routing"]

Norm = Literal["rms_norm", "layer_norm"]
_NORM_WEIGHTS = {"rms_norm": 1, "layer_norm": 2}


@dataclass(frozen=True)
class Block:
    """`count` like layers: norm, attention, add, norm, feed-forward, add.

    `sandwich`: the outputs of attention and feed-forward are normed too, before they are added (Gemma 2 and 3).
    """

    attention: AttentionSpec
    mlp: MlpSpec
    count: int
    norm: Norm = "rms_norm"
    sandwich: bool = False

    def parameters(self, hidden: int) -> int:
        """Parameters of all `count` layers, norms included."""
        norms = (4 if self.sandwich else 2) * _NORM_WEIGHTS[self.norm] * hidden
        return self.count * (self.attention.parameters(hidden) + self.mlp.parameters(hidden) + norms)

    def ops(self, step: Step, hidden: int, dtype: str) -> tuple[Op, ...]:
        """Operators of the block, each with the block's count."""
        m, n = step.tokens, self.count

        def norm(name: str) -> Pointwise:
            return Pointwise(name, "norm", self.norm, m, hidden, dtype, n)

        def add(name: str) -> Pointwise:
            return Pointwise(name, "residual", "add", m, hidden, dtype, n)

        return (
            norm("input_norm"),
            *self.attention.ops(step, hidden, dtype, n),
            *((norm("attention_out_norm"),) if self.sandwich else ()),
            add("attention_add"),
            norm("post_attention_norm"),
            *self.mlp.ops(step, hidden, dtype, n),
            *((norm("mlp_out_norm"),) if self.sandwich else ()),
            add("mlp_add"),
        )


@dataclass(frozen=True)
class Decoder:
    """A decoder-only model; `max_position_embeddings` bounds its context, `dtype` is its checkpoint's.

    `positions`: rows of a learned position table, added to the embedding (0: none). `embedding_size`: width of the token
    table where it is not hidden_size; two projections then lead in and out. `scaled`: embeddings are multiplied by a
    constant. `softcap`: logits go through a tanh. `not_modelled`: fields of the config that may matter and are not here.
    """

    name: str
    hidden_size: int
    vocab_size: int
    blocks: tuple[Block, ...]
    tie_word_embeddings: bool
    max_position_embeddings: int
    dtype: str
    family: str = "llama"
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    norm: Norm = "rms_norm"
    positions: int = 0
    embedding_size: int = 0
    scaled: bool = False
    softcap: bool = False
    final_norm: bool = True
    not_modelled: tuple[str, ...] = field(default=())
    stored: StoredFormat | None = None
    """How the checkpoint keeps its linear layers, where it is quantised already; operators here are those of `dtype`."""

    @cached_property
    def parameters(self) -> int:
        """All parameters; tied embeddings count once."""
        width = self.embedding_size or self.hidden_size
        tables = (1 if self.tie_word_embeddings else 2) * self.vocab_size * width + self.positions * self.hidden_size
        projections = 2 * width * self.hidden_size if self.embedding_size else 0
        norm = _NORM_WEIGHTS[self.norm] * self.hidden_size if self.final_norm else 0
        return tables + projections + sum(b.parameters(self.hidden_size) for b in self.blocks) + norm

    @property
    def table_parameters(self) -> int:
        """Parameters in tables other than that of the tokens."""
        return self.positions * self.hidden_size

    @property
    def active_parameters(self) -> int:
        """Parameters that one token uses: of a mixture only the experts it takes."""
        unused = 0
        for block in self.blocks:
            if (r := block.mlp.routing) is not None:
                wide, gated = block.mlp.intermediate_size, 3 if block.mlp.gated else 2
                unused += block.count * (r.num_experts - r.num_experts_per_tok) * gated * self.hidden_size * wide
        return self.parameters - unused

    @property
    def layers(self) -> int:
        """Number of decoder layers (`num_hidden_layers`)."""
        return sum(b.count for b in self.blocks)

    def kv_bytes_per_token(self, width: float, scale: float = 0.0) -> float:
        """Bytes that one token adds to the whole KV cache at `width` bytes per element and `scale` bytes beside a vector."""
        return sum(b.count * b.attention.kv_bytes_per_token(width, scale) for b in self.blocks)

    def forward_ops(self, step: Step, dtype: str) -> tuple[Op, ...]:
        """The operators of one forward pass, in order; like operators of a block share one row."""
        d = self.hidden_size
        return (
            *self._into(step, dtype),
            *self._rows(step, dtype),
            *((Pointwise("final_norm", "norm", self.norm, step.tokens, d, dtype),) if self.final_norm else ()),
            *self._out_of(step, dtype),
        )

    def _rows(self, step: Step, dtype: str) -> tuple[Op, ...]:
        rows: dict[str, Op] = {}
        for block, names in zip(self.blocks, self.row_names, strict=True):
            for op in block.ops(step, self.hidden_size, dtype):
                name = names[op.name]
                if name in rows:
                    rows[name] = replace(rows[name], count=rows[name].count + op.count)  # type: ignore[type-var]
                else:
                    rows[name] = op if name == op.name else replace(op, name=name)  # type: ignore[type-var]
        return tuple(rows.values())

    @cached_property
    def row_names(self) -> tuple[dict[str, str], ...]:
        """For each block: name of an operator in its layers -> name of its row. Like operators of several blocks share a
        row; one that differs from its namesake in an earlier block is numbered by its own, as `attention#2`."""
        rows: dict[tuple[str, object], str] = {}
        parts = [_parts(block, self.hidden_size) for block in self.blocks]
        for number, part in enumerate(parts, 1):
            for name, decides in part.items():
                taken = name in rows.values()
                rows.setdefault((name, decides), f"{name}#{number}" if taken else name)
        return tuple({name: rows[name, decides] for name, decides in part.items()} for part in parts)

    def layers_of_row(self, row: str) -> tuple[int, ...]:
        """Numbers of the decoder layers whose operators a row stands for."""
        found: list[int] = []
        first = 0
        for block, names in zip(self.blocks, self.row_names, strict=True):
            if row in names.values():
                found += range(first, first + block.count)
            first += block.count
        return tuple(found)

    def row_at(self, layer: int | None, module: str, dtype: str) -> str:
        """Row of the module at that path, in decoder layer `layer` or outside of all layers."""
        name = module.rpartition(".")[2]
        if name == "kv_read":  # the row that a quantised cache puts before the attention of the same layers
            return self.row_at(layer, "attention", dtype).replace("attention", name, 1)
        return name if layer is None else self.row_names[self.block_of(layer)].get(name, name)

    def block_of(self, layer: int) -> int:
        """Index of the block that layer `layer` belongs to."""
        for index, block in enumerate(self.blocks):
            if layer < block.count:
                return index
            layer -= block.count
        raise IndexError(f"{self.name} has {self.layers} layers")

    def _into(self, step: Step, dtype: str) -> tuple[Op, ...]:
        m, d, width = step.tokens, self.hidden_size, self.embedding_size or self.hidden_size
        ops: list[Op] = [Pointwise("embed_tokens", "embed", "embedding", m, width, dtype, table=self.vocab_size)]
        if self.embedding_size:
            ops.append(Linear("project_in", "other", m, d, width, dtype, dtype))
        if self.positions:
            ops.append(Pointwise("embed_positions", "embed", "embedding", m, d, dtype, table=self.positions))
            ops.append(Pointwise("position_add", "residual", "add", m, d, dtype))
        if self.scaled:
            ops.append(Pointwise("embed_scale", "embed", "scale", m, d, dtype))
        return tuple(ops)

    def _out_of(self, step: Step, dtype: str) -> tuple[Op, ...]:
        d, width, rows = self.hidden_size, self.embedding_size or self.hidden_size, step.head_tokens
        project = (Linear("project_out", "other", rows, width, d, dtype, dtype),) if self.embedding_size else ()
        head = Linear("lm_head", "head", rows, self.vocab_size, width, dtype, dtype)
        cap = (Pointwise("softcap", "head", "softcap", rows, self.vocab_size, dtype),) if self.softcap else ()
        return *project, head, *cap


def _parts(block: Block, hidden: int) -> dict[str, object]:
    """Operator of a block's layers -> what decides its cost: blocks that agree in it share its row."""
    step = decode(1, 1)
    attention = {op.name for op in block.attention.ops(step, hidden, "bf16", 1)}
    mlp = {op.name for op in block.mlp.ops(step, hidden, "bf16", 1)}
    around = replace(block.attention, window=0, softcap=False)  # these two decide only the attention itself
    of = {**dict.fromkeys(attention, around), **dict.fromkeys(mlp, block.mlp), "attention": block.attention}
    return {op.name: of.get(op.name, block.norm) for op in block.ops(step, hidden, "bf16")}
