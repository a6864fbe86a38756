"""Mixtures of experts of the Llama shape (Mixtral, Qwen2-MoE, Qwen3-MoE) from the fields of a `config.json`."""

from dataclasses import replace
from typing import Any

from ridgepoint.errors import BadInput
from ridgepoint.workload.config import read
from ridgepoint.workload.decoder import Block, Decoder, MlpSpec, Routing
from ridgepoint.workload.llama import LlamaConfig, attention_of, check_heads, check_silu, decoder_of

__all__ = ["MODEL_TYPES", "build"]

MODEL_TYPES = ("mixtral", "qwen2_moe", "qwen3_moe")


class MixtureConfig(LlamaConfig, kw_only=True):
    """Mixtral says num_local_experts, Qwen num_experts; Qwen's experts have an intermediate size of their own."""

    num_experts_per_tok: int
    num_local_experts: int | None = None
    num_experts: int | None = None
    moe_intermediate_size: int | None = None
    shared_expert_intermediate_size: int = 0
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] | None = None


def build(name: str, config: dict[str, Any]) -> Decoder:
    """Every layer is a mixture, but Qwen's `mlp_only_layers` and all but each `decoder_sparse_step`-th."""
    c = read(name, config, MixtureConfig)
    check_heads(name, c)
    kind = config["model_type"]
    experts = c.num_local_experts or c.num_experts
    if experts is None or c.num_experts_per_tok > experts:
        raise BadInput(f"{name}: config.json: {c.num_experts_per_tok} of {experts or 'no'} experts per token")
    check_silu(name, c, "mixtures")
    attention = attention_of(c, qkv_bias=kind == "qwen2_moe" or c.attention_bias, qk_norm=kind == "qwen3_moe")
    if kind == "mixtral" and c.sliding_window:
        attention = replace(attention, window=c.sliding_window)
    shared = c.shared_expert_intermediate_size if kind == "qwen2_moe" else 0
    routing = Routing(experts, c.num_experts_per_tok, shared, shared_gate=shared > 0)
    sparse = Block(attention, MlpSpec(c.moe_intermediate_size or c.intermediate_size, routing=routing), 1)
    dense = Block(attention, MlpSpec(c.intermediate_size), 1)
    plain = _dense_layers(c)
    pair = (replace(dense, count=plain), replace(sparse, count=c.num_hidden_layers - plain))
    return decoder_of(name, config, c, tuple(block for block in pair if block.count))


def _dense_layers(c: MixtureConfig) -> int:
    """Layers with a plain feed-forward layer."""
    only, step = set(c.mlp_only_layers or ()), max(1, c.decoder_sparse_step)
    return sum(i in only or (i + 1) % step != 0 for i in range(c.num_hidden_layers))
