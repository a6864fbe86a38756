"""The most activations that live at once in one step of inference, on one device."""

from dataclasses import dataclass

import numpy as np

from ridgepoint.prediction.capacity_split import Split, Stage
from ridgepoint.quantity import Array
from ridgepoint.workload import DTYPE_BYTES, AttentionSpec, Decoder, MlpSpec

__all__ = ["StageActivations", "activation_bytes", "logit_bytes", "stage_activations"]

_MLA_TOKENS = 65536
"""Cached tokens whose keys and values are expanded at a time (vLLM's chunked-prefill workspace of latent attention)."""


@dataclass(frozen=True, slots=True)
class StageActivations:
    """Bytes per token of the step: the residual stream and what the widest layer holds beside it.

    `expanded`: bytes per cached token of keys and values made from latent vectors. `logits`: bytes per sequence, 0 where
    the stage has no head.
    """

    stream: float
    widest: float
    expanded: float
    logits: float


def stage_activations(model: Decoder, stage: Stage, dtype: str, split: Split, last: bool) -> StageActivations:
    """What the layers of a stage hold, from the shapes of their operators."""
    width = DTYPE_BYTES[dtype]
    widest = max(
        width * max(_attention(b.attention, split.tp), _feed_forward(b.mlp, model.hidden_size, split)) for b, _ in stage
    )
    expanded = max(width * _expanded(b.attention, split.tp) for b, _ in stage)
    routers = max((4.0 * b.mlp.routing.num_experts for b, _ in stage if b.mlp.routing is not None), default=0.0)
    stream = 2 * width * model.hidden_size + routers
    # the logits of all vocabulary slices are gathered, and copied to fp32 twice: for the sampler and its probabilities
    logits = model.vocab_size * (width + 4 + 4) if last else 0.0
    return StageActivations(stream, widest, expanded, logits)


def activation_bytes(x: StageActivations, context: Array, users: Array, chunk: Array) -> Array:
    """The layers' peak in a step of `chunk` tokens, or of a token per sequence where those are more.

    Two tensors of the residual stream, then either queries, keys, values and the attention's output, or the feed-forward
    layer's inner tensors. Attention is computed in tiles (FlashAttention, arXiv 2205.14135): no scores are stored.
    """
    tokens = np.minimum(np.maximum(chunk, users), users * context)
    cached = np.minimum(context, _MLA_TOKENS)
    return tokens * (x.stream + x.widest) + cached * x.expanded


def logit_bytes(x: StageActivations, context: Array, users: Array, chunk: Array) -> Array:
    """What logits, of the last token of each sequence, need beyond the layers' peak: they come when that is over."""
    return np.maximum(0.0, users * x.logits - activation_bytes(x, context, users, chunk))


def _attention(attention: AttentionSpec, tp: int) -> float:
    """Elements per token: q, k and v, and the output."""
    heads = attention.num_attention_heads // tp
    if (c := attention.latent) is not None:
        into = c.q_lora_rank + c.kv_lora_rank + c.qk_rope_head_dim
        return into + heads * (c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim)
    kept = max(1, attention.num_key_value_heads // tp)
    return (2 * heads + 2 * kept) * attention.head_dim


def _expanded(attention: AttentionSpec, tp: int) -> float:
    """Elements per cached token of keys and values of all heads, which latent attention expands in prefill."""
    if (c := attention.latent) is None:
        return 0.0
    return attention.num_attention_heads // tp * (c.qk_nope_head_dim + c.qk_rope_head_dim + c.v_head_dim)


def _feed_forward(mlp: MlpSpec, hidden: int, split: Split) -> float:
    """Elements per token: outputs of gate and up, and their product; of a mixture one row for each expert chosen.

    Experts on several devices: each gets its even share of the rows.
    """
    inner = 3 if mlp.gated else 2
    if mlp.routing is None:
        return inner * mlp.intermediate_size / split.tp
    wide = mlp.intermediate_size / split.expert_tp
    rows = mlp.routing.num_experts_per_tok * (split.dp / split.ep if split.ep > 1 else 1.0)
    routed = rows * (max((inner - 1) * wide, hidden) + wide)
    return routed + inner * mlp.routing.shared_intermediate_size / split.tp
