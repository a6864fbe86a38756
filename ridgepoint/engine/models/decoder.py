"""Decoder-only models in torch, as a `Decoder` describes them: one leaf module per operator of the plan, under its name.

Shapes: B batch, T new tokens, M = B T rows, C hidden size, H query heads, K key/value heads, D head dim, V vocabulary.
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from ridgepoint.engine.cache import KvCache
from ridgepoint.engine.models.parts import add_feed_forward, linear, norm
from ridgepoint.errors import BadInput
from ridgepoint.kernels.attention import Attention
from ridgepoint.kernels.ladder import TORCH_DTYPES
from ridgepoint.kernels.pointwise import Add, Embedding, KvWrite, Rope, Scale, Softcap
from ridgepoint.workload.decoder import Block, Decoder

__all__ = ["DecoderLayer", "DecoderModel", "rope_of"]


class DecoderLayer(nn.Module):
    """Norm, attention, add, norm, feed-forward, add; with `sandwich` norms behind attention and feed-forward too."""

    def __init__(self, decoder: Decoder, block: Block, rope: Rope | None, dtype: str, device: str = "cpu"):
        super().__init__()
        spec, hidden = block.attention, decoder.hidden_size
        self.heads, self.kv_heads, self.head_dim = spec.num_attention_heads, spec.num_key_value_heads, spec.head_dim
        self.window, self.fused, self.normed = spec.window, spec.fused, spec.qk_norm
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        self.input_norm = norm(block.norm, hidden, decoder, dtype, device)
        if spec.fused:
            self.qkv_proj = linear(hidden, q + 2 * kv, spec.bias, dtype, device)
        else:
            self.q_proj = linear(hidden, q, spec.bias, dtype, device)
            self.k_proj = linear(hidden, kv, spec.bias, dtype, device)
            self.v_proj = linear(hidden, kv, spec.bias, dtype, device)
        if spec.qk_norm:
            self.q_norm = norm("rms_norm", self.head_dim, decoder, dtype, device)
            self.k_norm = norm("rms_norm", self.head_dim, decoder, dtype, device)
        self.rope = copy.deepcopy(rope) if rope is not None else None
        self.kv_write = KvWrite()
        self.kv_read: nn.Module | None = None
        self.attention = Attention()
        self.o_proj = linear(q, hidden, spec.has_out_bias, dtype, device)
        self.attention_out_norm = norm(block.norm, hidden, decoder, dtype, device) if block.sandwich else None
        self.attention_add = Add()
        self.post_attention_norm = norm(block.norm, hidden, decoder, dtype, device)
        self.mlp, self.act = block.mlp, add_feed_forward(self, block.mlp, hidden, dtype, device)
        self.mlp_out_norm = norm(block.norm, hidden, decoder, dtype, device) if block.sandwich else None
        self.mlp_add = Add()

    def forward(
        self,
        x_MC: Tensor,
        batch: int,
        k_cache: Tensor | None = None,
        v_cache: Tensor | None = None,
        position: int = 0,
        mask_TS: Tensor | None = None,
    ) -> Tensor:
        """[M, C] -> [M, C]; without a cache keys and values are those of the new tokens, as in training."""
        a_MC = self._attend(self.input_norm(x_MC), batch, k_cache, v_cache, position, mask_TS)
        if self.attention_out_norm is not None:
            a_MC = self.attention_out_norm(a_MC)
        x_MC = self.attention_add(x_MC, a_MC)
        h_MC = self._feed_forward(self.post_attention_norm(x_MC))
        if self.mlp_out_norm is not None:
            h_MC = self.mlp_out_norm(h_MC)
        return self.mlp_add(x_MC, h_MC)

    def _feed_forward(self, h_MC: Tensor) -> Tensor:
        act = getattr(self, self.act)
        if self.mlp.fused:
            return self.down_proj(act(*self.gate_up_proj(h_MC).chunk(2, -1)))
        if self.mlp.gated:
            return self.down_proj(act(self.gate_proj(h_MC), self.up_proj(h_MC)))
        return self.down_proj(act(self.up_proj(h_MC)))

    def _attend(
        self,
        h_MC: Tensor,
        batch: int,
        k_cache: Tensor | None,
        v_cache: Tensor | None,
        position: int,
        mask_TS: Tensor | None,
    ) -> Tensor:
        q, k, v = self._projected(h_MC, batch)
        if self.normed:
            q, k = self.q_norm(q), self.k_norm(k)
        if self.rope is not None:
            q, k = self.rope(q, k, position)
        if k_cache is not None and v_cache is not None:
            k, v = self.kv_write(k, v, k_cache, v_cache, position)
            if self.kv_read is not None:
                k, v = self.kv_read(k, v, self.window if q.shape[2] == 1 else 0)
        if self.window and q.shape[2] == 1:
            k, v = k[:, :, -self.window :], v[:, :, -self.window :]
        elif self.window and k.shape[2] > self.window and self.attention.kernel != "flex":
            mask_TS = _windowed(q.shape[2], k.shape[2], self.window, q.device)
        a_BHTD = self.attention(q, k, v, mask_TS, self.window)
        return self.o_proj(a_BHTD.transpose(1, 2).reshape(h_MC.shape[0], -1))

    def _projected(self, h_MC: Tensor, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        if self.fused:
            heads = self.heads + 2 * self.kv_heads
            joined = self.qkv_proj(h_MC).view(batch, -1, heads, self.head_dim).transpose(1, 2)
            q, k, v = joined.split((self.heads, self.kv_heads, self.kv_heads), 1)
            return q, k, v
        q = self.q_proj(h_MC).view(batch, -1, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(h_MC).view(batch, -1, self.kv_heads, self.head_dim).transpose(1, 2)
        v = self.v_proj(h_MC).view(batch, -1, self.kv_heads, self.head_dim).transpose(1, 2)
        return q, k, v


def _windowed(new: int, keys: int, window: int, device: torch.device) -> Tensor:
    """Which keys each new token sees."""
    rows = torch.arange(keys - new, keys, device=device)[:, None]
    columns = torch.arange(keys, device=device)[None, :]
    return (columns <= rows) & (columns > rows - window)


class DecoderModel(nn.Module):
    """A decoder-only model; weights are uninitialised until `engine.build` fills them.

    Its modules carry the plan's operator names: `embed_tokens`, `layers.N.q_proj` and so on, `final_norm`, `lm_head`.
    For decoders that `engine.runs` lets through. Ignored: rope scaling and dropout.
    """

    def __init__(self, decoder: Decoder, dtype: str, device: str = "cpu"):
        super().__init__()
        to, hidden = TORCH_DTYPES[dtype], decoder.hidden_size
        self.decoder, self.hidden = decoder, hidden
        self.embed_tokens = Embedding(decoder.vocab_size, hidden, to, device)
        if decoder.positions:
            self.embed_positions = Embedding(decoder.positions, hidden, to, device)
            self.position_add = Add()
        self.embed_scale = Scale(hidden**0.5) if decoder.scaled else None
        self.layers = nn.ModuleList(_layers(decoder, dtype, device))
        self.final_norm = norm(decoder.norm, hidden, decoder, dtype, device) if decoder.final_norm else None
        self.lm_head = linear(
            hidden, decoder.vocab_size, False, dtype, "meta" if decoder.tie_word_embeddings else device
        )
        if decoder.tie_word_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        self.softcap = Softcap(_LOGIT_CAP) if decoder.softcap else None

    @torch.inference_mode()
    def forward(
        self, tokens_BT: Tensor, cache: KvCache, position: int = 0, logits: Literal["last", "all"] = "last"
    ) -> Tensor:
        """Logits [B, V] of the last token of each sequence, or [B, T, V] of all; writes k and v into `cache`.

        `position` is how many tokens each sequence has in the cache already.
        """
        return self.logits(tokens_BT, cache, position, logits)

    def logits(
        self, tokens_BT: Tensor, cache: KvCache, position: int = 0, logits: Literal["last", "all"] = "last"
    ) -> Tensor:
        """`forward` as it is inside of inference mode, which a compiler cannot enter by itself."""
        batch, new = tokens_BT.shape
        end = position + new
        if end > cache.length or batch != cache.batch or not new or position < 0:
            raise BadInput(f"{batch} x {end} tokens do not fit a cache of {cache.batch} x {cache.length}")
        mask_TS = None
        if new > 1 and position:
            mask_TS = torch.ones(new, end, dtype=torch.bool, device=tokens_BT.device).tril_(position)
        x_MC = self.embedded(tokens_BT, position)
        for layer, k_cache, v_cache in zip(self.layers, cache.keys, cache.values, strict=True):
            x_MC = layer(x_MC, batch, k_cache, v_cache, position, mask_TS)
        if self.final_norm is not None:
            x_MC = self.final_norm(x_MC)
        if logits == "last":
            return self._headed(x_MC if new == 1 else x_MC.view(batch, new, -1)[:, -1])
        return self._headed(x_MC).view(batch, new, -1)

    def training_logits(self, tokens_BT: Tensor, recompute: bool = False) -> Tensor:
        """Logits [M, V] of all tokens, recorded for gradients; no cache.

        `recompute`: of each layer only the input is kept, and it runs again in the backward pass (arXiv 1604.06174).
        """
        from torch.utils.checkpoint import checkpoint

        batch = tokens_BT.shape[0]
        x_MC = self.embedded(tokens_BT, 0)
        for layer in self.layers:
            x_MC = checkpoint(layer, x_MC, batch, use_reentrant=False) if recompute else layer(x_MC, batch)
        if self.final_norm is not None:
            x_MC = self.final_norm(x_MC)
        return self._headed(x_MC)

    def embedded(self, tokens_BT: Tensor, position: int = 0) -> Tensor:
        """What the first layer is given, [B T, C]."""
        x_MC = self.embed_tokens(tokens_BT).view(-1, self.hidden)
        if self.decoder.positions:
            batch, new = tokens_BT.shape
            first = position + self.decoder.positions - self.decoder.max_position_embeddings
            rows = torch.arange(first, first + new, device=tokens_BT.device).repeat(batch)
            x_MC = self.position_add(x_MC, self.embed_positions(rows))
        return x_MC if self.embed_scale is None else self.embed_scale(x_MC)

    def _headed(self, x: Tensor) -> Tensor:
        logits = self.lm_head(x)
        return logits if self.softcap is None else self.softcap(logits)


_LOGIT_CAP = 30.0
"""Gemma 2's; it does not decide the time."""


def rope_of(decoder: Decoder, block: Block, dtype: str, device: str = "cpu") -> Rope | None:
    """The rotary embedding of the block's layers, if they have one; one table serves them all."""
    if not block.attention.rotary:
        return None
    positions = decoder.max_position_embeddings
    return Rope(block.attention.head_dim, decoder.rope_theta, positions, TORCH_DTYPES[dtype], device)


def _layers(decoder: Decoder, dtype: str, device: str) -> list[DecoderLayer]:
    layers = []
    for block in decoder.blocks:
        rope = rope_of(decoder, block, dtype, device)
        layers += [DecoderLayer(decoder, block, rope, dtype, device) for _ in range(block.count)]
    return layers
