"""The Llama family in torch: one leaf module per operator of the plan, under the plan's names.

Shapes: B batch, T new tokens, M = B T rows, C hidden size, H query heads, K key/value heads, D head dim, V vocabulary.
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from ridgepoint.engine.cache import KvCache
from ridgepoint.errors import BadInput
from ridgepoint.kernels.attention import Attention
from ridgepoint.kernels.ladder import TORCH_DTYPES
from ridgepoint.kernels.pointwise import Add, Embedding, KvWrite, RmsNorm, Rope, SiluMul
from ridgepoint.workload.decoder import Block, Decoder

__all__ = ["Llama", "LlamaLayer", "rope_of"]


class LlamaLayer(nn.Module):
    """Norm, attention, add, norm, gated feed-forward, add."""

    def __init__(self, decoder: Decoder, block: Block, rope: Rope, dtype: str, device: str = "cpu"):
        super().__init__()
        attention, wide, hidden = block.attention, block.mlp.intermediate_size, decoder.hidden_size
        self.heads, self.kv_heads = attention.num_attention_heads, attention.num_key_value_heads
        self.head_dim = attention.head_dim
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        to = TORCH_DTYPES[dtype]

        def linear(k: int, n: int, bias: bool) -> nn.Linear:
            layer = nn.utils.skip_init(nn.Linear, k, n, bias=bias, dtype=to, device=device)
            return layer.requires_grad_(False)

        self.input_norm = RmsNorm(hidden, decoder.rms_norm_eps, to, device)
        self.q_proj = linear(hidden, q, attention.bias)
        self.k_proj = linear(hidden, kv, attention.bias)
        self.v_proj = linear(hidden, kv, attention.bias)
        self.rope = copy.deepcopy(rope)
        self.kv_write = KvWrite()
        self.attention = Attention()
        self.o_proj = linear(q, hidden, attention.bias)
        self.attention_add = Add()
        self.post_attention_norm = RmsNorm(hidden, decoder.rms_norm_eps, to, device)
        self.gate_proj = linear(hidden, wide, block.mlp.bias)
        self.up_proj = linear(hidden, wide, block.mlp.bias)
        self.silu_mul = SiluMul()
        self.down_proj = linear(wide, hidden, block.mlp.bias)
        self.mlp_add = Add()

    def forward(
        self, x_MC: Tensor, batch: int, k_cache: Tensor, v_cache: Tensor, position: int, mask_TS: Tensor | None
    ) -> Tensor:
        h_MC = self.input_norm(x_MC)
        q = self.q_proj(h_MC).view(batch, -1, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(h_MC).view(batch, -1, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(h_MC).view(batch, -1, self.kv_heads, self.head_dim).transpose(1, 2)
        q, k = self.rope(q, k, position)
        k, v = self.kv_write(k, v, k_cache, v_cache, position)
        a_BHTD = self.attention(q, k, v, mask_TS)
        a_MC = a_BHTD.transpose(1, 2).reshape(x_MC.shape[0], -1)
        x_MC = self.attention_add(x_MC, self.o_proj(a_MC))
        h_MC = self.post_attention_norm(x_MC)
        return self.mlp_add(x_MC, self.down_proj(self.silu_mul(self.gate_proj(h_MC), self.up_proj(h_MC))))


class Llama(nn.Module):
    """A decoder-only model of the Llama shape; weights are uninitialised until `engine.build` fills them.

    Its modules carry the plan's operator names: `embed_tokens`, `layers.N.q_proj` and so on, `final_norm`, `lm_head`.
    Ignored: rope scaling, sliding windows and dropout, which a `Decoder` does not have.
    """

    def __init__(self, decoder: Decoder, dtype: str, device: str = "cpu"):
        super().__init__()
        to = TORCH_DTYPES[dtype]
        self.decoder = decoder
        self.hidden = decoder.hidden_size
        self.embed_tokens = Embedding(decoder.vocab_size, decoder.hidden_size, to, device)
        self.layers = nn.ModuleList(_layers(decoder, dtype, device))
        self.final_norm = RmsNorm(decoder.hidden_size, decoder.rms_norm_eps, to, device)
        head_device = "meta" if decoder.tie_word_embeddings else device
        shape = decoder.hidden_size, decoder.vocab_size
        self.lm_head = nn.utils.skip_init(nn.Linear, *shape, bias=False, dtype=to, device=head_device)
        self.lm_head.requires_grad_(False)
        if decoder.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    @torch.inference_mode()
    def forward(
        self, tokens_BT: Tensor, cache: KvCache, position: int = 0, logits: Literal["last", "all"] = "last"
    ) -> Tensor:
        """Logits [B, V] of the last token of each sequence, or [B, T, V] of all; writes k and v into `cache`.

        `position` is how many tokens each sequence has in the cache already.
        """
        batch, new = tokens_BT.shape
        end = position + new
        if end > cache.length or batch != cache.batch or not new or position < 0:
            raise BadInput(f"{batch} x {end} tokens do not fit a cache of {cache.batch} x {cache.length}")
        mask_TS = None
        if new > 1 and position:
            mask_TS = torch.ones(new, end, dtype=torch.bool, device=tokens_BT.device).tril_(position)
        x_MC = self.embed_tokens(tokens_BT).view(-1, self.hidden)
        for layer, k_cache, v_cache in zip(self.layers, cache.keys, cache.values, strict=True):
            x_MC = layer(x_MC, batch, k_cache, v_cache, position, mask_TS)
        x_MC = self.final_norm(x_MC)
        if logits == "last":
            return self.lm_head(x_MC if new == 1 else x_MC.view(batch, new, -1)[:, -1])
        return self.lm_head(x_MC).view(batch, new, -1)


def rope_of(decoder: Decoder, block: Block, dtype: str, device: str = "cpu") -> Rope:
    """The rotary embedding of the block's layers; one table serves them all."""
    positions = decoder.max_position_embeddings
    return Rope(block.attention.head_dim, decoder.rope_theta, positions, TORCH_DTYPES[dtype], device)


def _layers(decoder: Decoder, dtype: str, device: str) -> list[LlamaLayer]:
    layers = []
    for block in decoder.blocks:
        rope = rope_of(decoder, block, dtype, device)
        layers += [LlamaLayer(decoder, block, rope, dtype, device) for _ in range(block.count)]
    return layers
