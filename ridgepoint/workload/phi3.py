"""Phi-3 from the fields of a `config.json`: one projection for q, k and v, one for gate and up."""

from typing import Any

from ridgepoint.workload.config import read
from ridgepoint.workload.decoder import Decoder, MlpSpec
from ridgepoint.workload.llama import LlamaConfig, attention_of, check_heads, check_silu, decoder_of, windowed_blocks

__all__ = ["MODEL_TYPES", "build"]

MODEL_TYPES = ("phi3",)


def build(name: str, config: dict[str, Any]) -> Decoder:
    """All layers see the sliding window, where there is one."""
    c = read(name, config, LlamaConfig)
    check_heads(name, c)
    check_silu(name, c, "the Phi-3 family")
    attention = attention_of(c, qkv_bias=c.attention_bias, fused=True)
    mlp = MlpSpec(c.intermediate_size, fused=True)
    blocks = windowed_blocks(c, attention, mlp, c.num_hidden_layers if c.sliding_window else 0)
    return decoder_of(name, config, c, blocks)
