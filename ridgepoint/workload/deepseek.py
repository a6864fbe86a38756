"""DeepSeek-V2 and V3 from the fields of a `config.json`: latent attention, shared and routed experts, dense first layers."""

from typing import Any

from ridgepoint.errors import BadInput
from ridgepoint.workload.config import read
from ridgepoint.workload.decoder import AttentionSpec, Block, Decoder, Latent, MlpSpec, Routing
from ridgepoint.workload.llama import LlamaConfig, check_silu, decoder_of

__all__ = ["MODEL_TYPES", "build"]

MODEL_TYPES = ("deepseek_v2", "deepseek_v3")


class DeepseekConfig(LlamaConfig, kw_only=True):
    """Fields of DeepseekV2Config and DeepseekV3Config."""

    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None = None
    n_routed_experts: int | None = None
    n_shared_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    first_k_dense_replace: int = 0


def build(name: str, config: dict[str, Any]) -> Decoder:
    """The first `first_k_dense_replace` layers are dense. Ignored: the multi-token-prediction layer of V3's checkpoint."""
    c = read(name, config, DeepseekConfig)
    for field in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"):
        if not 1 <= getattr(c, field) <= 2**16:
            raise BadInput(f"{name}: config.json: {field} is {getattr(c, field)}; possible is 1 to {2**16}")
    for field in ("q_lora_rank", "n_shared_experts"):
        if not 0 <= (getattr(c, field) or 0) <= 2**16:
            raise BadInput(f"{name}: config.json: {field} is {getattr(c, field)}; possible is 0 to {2**16}")
    check_silu(name, c, "the DeepSeek family")
    heads = c.num_attention_heads
    latent = Latent(c.q_lora_rank or 0, c.kv_lora_rank, c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim)
    attention = AttentionSpec(heads, heads, c.qk_nope_head_dim + c.qk_rope_head_dim, latent=latent)
    dense = MlpSpec(c.intermediate_size)
    if not c.n_routed_experts:
        return decoder_of(name, config, c, (Block(attention, dense, c.num_hidden_layers),))
    chosen, wide = c.num_experts_per_tok or 0, c.moe_intermediate_size or c.intermediate_size
    if not 1 <= chosen <= c.n_routed_experts or not 0 <= c.first_k_dense_replace <= c.num_hidden_layers:
        raise BadInput(
            f"{name}: config.json: {chosen} of {c.n_routed_experts} experts per token in all but the first "
            f"{c.first_k_dense_replace} of {c.num_hidden_layers} layers is impossible"
        )
    bias = config["model_type"] == "deepseek_v3"
    routing = Routing(c.n_routed_experts, chosen, (c.n_shared_experts or 0) * wide, router_bias=bias)
    first = Block(attention, dense, c.first_k_dense_replace)
    rest = Block(attention, MlpSpec(wide, routing=routing), c.num_hidden_layers - c.first_k_dense_replace)
    return decoder_of(name, config, c, tuple(block for block in (first, rest) if block.count))
