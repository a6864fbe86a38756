"""A static key/value cache: one contiguous tensor per layer, allocated once, plain or quantised."""

import torch
from torch import Tensor, nn

from ridgepoint.errors import BadInput
from ridgepoint.kernels.kv_cache import KvRead, KvStore, KvWriteQuantised
from ridgepoint.kernels.ladder import TORCH_DTYPES
from ridgepoint.workload.decoder import Decoder

__all__ = ["KvCache", "quantise_cache"]


class KvCache:
    """`keys[i]`, `values[i]`: [B, K, L, D] of layer i, zeros at first, for `batch` sequences of `length` tokens.

    With a `format` they are kept as codes, for models that `quantise_cache` has rewritten.
    """

    def __init__(
        self, decoder: Decoder, batch: int, length: int, dtype: str, device: str = "cpu", format: str = ""
    ):  # fmt: skip
        if not 1 <= length <= decoder.max_position_embeddings or batch < 1:
            raise BadInput(
                f"{decoder.name}: no cache of {batch} x {length} tokens; at least 1 sequence, "
                f"and 1 to {decoder.max_position_embeddings} tokens each"
            )
        specs = [block.attention for block in decoder.blocks for _ in range(block.count)]
        shapes = [(batch, s.num_key_value_heads, length, s.head_dim) for s in specs]
        self.batch, self.length = batch, length
        self.keys = [_zeros(s, dtype, device, format) for s in shapes]
        self.values = [_zeros(s, dtype, device, format) for s in shapes]

    @property
    def bytes(self) -> int:
        """Bytes allocated."""
        return sum(t.nbytes for t in (*self.keys, *self.values))


def _zeros(shape: tuple[int, int, int, int], dtype: str, device: str, format: str) -> Tensor | KvStore:
    if format:
        return KvStore.zeros(shape, format, device)
    return torch.zeros(shape, dtype=TORCH_DTYPES[dtype], device=device)


def quantise_cache(model: nn.Module, dtype: str) -> nn.Module:
    """The same `model`, a decoder layer or what holds some, for a cache in any format; attention reads it in `dtype`."""
    for layer in list(model.modules()):
        if isinstance(getattr(layer, "kv_write", None), nn.Module):
            layer.kv_write, layer.kv_read = KvWriteQuantised(), KvRead(TORCH_DTYPES[dtype])
    return model
