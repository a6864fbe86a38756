"""The layout of AWQ checkpoints (AutoAWQ's GEMM version): codes packed along the outputs, interleaved within a word.

Shapes: n outputs, k inputs, G groups. qweight[k, n/8] int32, qzeros[G, n/8] int32, scales[G, n].
"""

import torch
from torch import Tensor

from ridgepoint.engine.quantised.held import Held, unpacked
from ridgepoint.engine.quantised.tensors import LayerTensors
from ridgepoint.workload.stored import StoredFormat

__all__ = ["read_awq"]

_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Output that the nibbles of a word hold, from the lowest on."""


def read_awq(tensors: LayerTensors, stored: StoredFormat, n: int, k: int) -> Held:
    """Codes of a layer; zero points are stored as they are."""
    group = stored.group or k
    groups = -(-k // group)
    q = _in_order(tensors.take("qweight", (torch.int32,), (k, n // 8)))
    zero = _in_order(tensors.take("qzeros", (torch.int32,), (groups, n // 8)))
    scale = tensors.scales("scales", (groups, n))
    group_of = None if k % group == 0 else torch.arange(k) // group
    return Held(q.t().contiguous(), scale.t().contiguous(), zero.t().contiguous(), group_of)


def _in_order(words: Tensor) -> Tensor:
    """int32[r, n/8] -> uint8[r, n], the outputs in their order."""
    rows = words.shape[0]
    nibbles = unpacked(words, 4, 8 * words.shape[1]).view(rows, -1, 8)
    out = torch.empty_like(nibbles)
    out[..., list(_ORDER)] = nibbles
    return out.view(rows, -1)
