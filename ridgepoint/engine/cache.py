"""A static key/value cache: one contiguous tensor per layer, allocated once."""

import torch
from torch import Tensor

from ridgepoint.errors import BadInput
from ridgepoint.kernels.ladder import TORCH_DTYPES
from ridgepoint.workload.decoder import Decoder

__all__ = ["KvCache"]


class KvCache:
    """`keys[i]`, `values[i]`: [B, K, L, D] of layer i, zeros at first, for `batch` sequences of `length` tokens."""

    def __init__(self, decoder: Decoder, batch: int, length: int, dtype: str, device: str = "cpu"):
        if not 1 <= length <= decoder.max_position_embeddings or batch < 1:
            raise BadInput(
                f"{decoder.name}: no cache of {batch} x {length} tokens; at least 1 sequence, "
                f"and 1 to {decoder.max_position_embeddings} tokens each"
            )
        specs = [block.attention for block in decoder.blocks for _ in range(block.count)]
        shapes = [(batch, s.num_key_value_heads, length, s.head_dim) for s in specs]
        self.batch, self.length = batch, length
        self.keys: list[Tensor] = [torch.zeros(s, dtype=TORCH_DTYPES[dtype], device=device) for s in shapes]
        self.values: list[Tensor] = [torch.zeros(s, dtype=TORCH_DTYPES[dtype], device=device) for s in shapes]

    @property
    def bytes(self) -> int:
        """Bytes allocated."""
        return sum(t.nbytes for t in (*self.keys, *self.values))
