"""What a layer keeps for its backward pass, per token, with and without recomputation (Korthikanti et al., arXiv 2205.05198)."""

from dataclasses import dataclass
from typing import Literal

from ridgepoint.prediction.capacity_split import Split
from ridgepoint.quantity import Array
from ridgepoint.workload import DTYPE_BYTES, AttentionSpec, Block, Decoder, Linear, MlpSpec, prefill

__all__ = ["RECOMPUTE", "Keeping", "LayerKept", "Recompute", "kept_bytes", "layer_kept", "loss_bytes"]

Recompute = Literal["none", "selective", "selective-op", "full"]
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "selective-op", "full")
"""selective: the attention's scores, softmax and dropout (the paper's section 5). selective-op: of each layer every second
matrix product and the attention's output are kept, all else recomputed (torchtitan's option "op"). full: each layer's input."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """What decides which results are kept. `flash`: attention in tiles, which keeps no scores (arXiv 2205.14135)."""

    recompute: Recompute = "none"
    sequence_parallel: bool = False
    flash: bool = True
    dropout: bool = False


@dataclass(frozen=True, slots=True)
class LayerKept:
    """Bytes per token of one layer on one device.

    `repeated`: of tensors that every device of a tensor-parallel group holds whole, unless the sequence is split too;
    `sliced`: of tensors that tensor parallelism slices. `scores`: of the attention alone, per token and per key.
    `products`: what selective-op keeps, in the same two kinds. `stream`: the layer's input.
    """

    repeated: float
    sliced: float
    statistics: float
    scores: float
    products_repeated: float
    products_sliced: float
    stream: float


def layer_kept(model: Decoder, block: Block, dtype: str, split: Split, keeping: Keeping) -> LayerKept:
    """Tensors that autograd keeps of one layer, in eager execution with fused norms.

    Of the paper's 34 s b h: norms 4, inputs of the two products behind them 4, dropout masks 2; queries, keys, values 6,
    the output projection's input 2, the feed-forward layer's inner tensors 16. Here each with its own width: grouped
    heads, gated layers (gate, up, their activation and product), experts (a row for each that a token takes).
    """
    width, h, heads = DTYPE_BYTES[dtype], model.hidden_size, block.attention.num_attention_heads // split.tp
    masks = 2.0 * h if keeping.dropout else 0.0
    norms = (4 if block.sandwich else 2) * h
    narrow, wide = _attention(block.attention, split.tp)
    routed, inner = _feed_forward(block.mlp, h, split)
    routers = 4.0 * block.mlp.routing.num_experts if block.mlp.routing is not None else 0.0
    scores = 0.0 if keeping.flash else heads * (width + (1 + width if keeping.dropout else 0.0))
    products = _products(model, block, dtype, split)
    return LayerKept(
        repeated=width * (norms + 2 * h + narrow + routed) + masks + routers,
        sliced=width * (wide + inner),
        statistics=4.0 * heads if keeping.flash else 0.0,
        scores=scores,
        products_repeated=width * products[0],
        products_sliced=width * products[1],
        stream=width * h,
    )


def kept_bytes(kept: LayerKept, tokens: Array, seq: Array, tp: int, keeping: Keeping, recompute: Recompute) -> Array:
    """Bytes of one layer for `tokens` tokens in sequences of `seq` (equations 2 to 5 of the paper; scores: 5 a s / t)."""
    share = 1.0 / tp if keeping.sequence_parallel else 1.0
    if recompute == "full":
        return tokens * kept.stream * share
    if recompute == "selective-op":
        return tokens * ((kept.stream + kept.products_repeated) * share + kept.products_sliced + kept.statistics)
    core = 0.0 if recompute == "selective" else kept.statistics + kept.scores * seq
    return tokens * (kept.repeated * share + kept.sliced + core)


def loss_bytes(model: Decoder, dtype: str, tokens: Array, tp: int, loss: Literal["eager", "fused"]) -> Array:
    """Logits of all tokens and what cross-entropy makes of them, the vocabulary sliced by tp.

    eager: the logits, and in fp32 their log-probabilities and two gradients. fused: one fp32 tensor, overwritten in place
    (Megatron-LM; section 4.3 of the paper counts these 4 s b v / t).
    """
    per_logit = 4.0 if loss == "fused" else DTYPE_BYTES[dtype] + 12.0
    return tokens * (model.vocab_size / tp) * per_logit


def _attention(attention: AttentionSpec, tp: int) -> tuple[float, float]:
    """Elements per token, repeated and sliced: q, k, v and the input of the output projection."""
    heads = attention.num_attention_heads // tp
    if (c := attention.latent) is not None:
        key = c.qk_nope_head_dim + c.qk_rope_head_dim
        narrow = 2.0 * c.q_lora_rank + 2.0 * c.kv_lora_rank + c.qk_rope_head_dim
        return narrow, heads * (2.0 * key + 2.0 * c.v_head_dim)
    kept = max(1, attention.num_key_value_heads // tp)
    normed = heads + kept if attention.qk_norm else 0
    return 0.0, (2.0 * heads + 2.0 * kept + normed) * attention.head_dim


def _feed_forward(mlp: MlpSpec, hidden: int, split: Split) -> tuple[float, float]:
    """Elements per token, repeated and sliced; of relu the output says all that its gradient needs."""
    inner = 4.0 if mlp.gated else 1.0 if mlp.act == "relu" else 2.0
    if mlp.routing is None:
        return 0.0, inner * mlp.intermediate_size / split.tp
    rows = float(mlp.routing.num_experts_per_tok)
    shared = inner * mlp.routing.shared_intermediate_size / split.tp
    return 2.0 * rows * hidden, rows * inner * mlp.intermediate_size / split.tp + shared


def _products(model: Decoder, block: Block, dtype: str, split: Split) -> tuple[float, float]:
    """Elements per token that selective-op keeps: the first, third, … product of a layer, and the attention's output."""
    repeated, sliced, number = 0.0, 0.0, 0
    for op in block.ops(prefill(1, 1), model.hidden_size, dtype):
        if not isinstance(op, Linear):
            continue
        number += 1
        if number % 2 == 0:
            continue
        rows = float(op.m)
        if op.role in ("attention.out", "mlp.out") or op.name in ("router", "shared_gate"):
            repeated += rows * float(op.n)
        else:
            sliced += rows * float(op.n) / split.tp
    c = block.attention.latent
    value = c.v_head_dim if c is not None else block.attention.head_dim
    return repeated, sliced + block.attention.num_attention_heads // split.tp * value
