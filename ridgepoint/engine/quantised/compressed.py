"""The layouts of compressed-tensors checkpoints (llm-compressor): packed integers, plain int8, and fp8.

Shapes: n outputs, k inputs, G scales of a row. weight_packed[n, k bits/32] int32 and weight_shape[2], or weight[n, k];
weight_scale[n, G], of a scale for the whole matrix [1]; weight_zero_point[n bits/32, G] int32 packed, or [n, G] int8.
"""

import torch
from torch import Tensor

from ridgepoint.engine.quantised.held import Held, unpacked
from ridgepoint.engine.quantised.tensors import LayerTensors
from ridgepoint.workload.stored import StoredFormat

__all__ = ["read_compressed"]


def read_compressed(tensors: LayerTensors, stored: StoredFormat, n: int, k: int) -> Held:
    """Codes of a layer, signed in the file; 4-bit ones come back unsigned (0 to 15, zero point 8), as kernels hold them."""
    group = stored.group or k
    groups = -(-k // group)
    # a whole matrix may share one scale, which some writers store without a dimension
    shapes = ((n, groups),) if stored.group else ((n, 1), (n,), (1,), (), (1, 1))
    scale = tensors.scales("weight_scale", *shapes).reshape(-1, groups).expand(n, groups).contiguous()
    group_of = _group_of(tensors, k, group, groups)
    if stored.layout == "pack-quantized":
        q, zero = _packed(tensors, stored, n, k, groups)
    else:
        q, zero = _plain(tensors, stored, n, k, groups)
    if stored.bits == 4:
        q = (q + 8).to(torch.uint8)
        zero = torch.full((n, groups), 8, dtype=torch.int16) if zero is None else zero + 8
    return Held(q, scale, zero, group_of)


def _group_of(tensors: LayerTensors, k: int, group: int, groups: int) -> Tensor | None:
    runs = torch.arange(k) // group
    if not tensors.has("weight_g_idx"):
        return None if k % group == 0 else runs
    group_of = tensors.take("weight_g_idx", (torch.int32, torch.int64), (k,)).long()
    if bool((group_of == -1).all()):  # as it is before anything is written to it
        return None if k % group == 0 else runs
    tensors.within("weight_g_idx", group_of, 0, groups - 1, "group")
    return None if k % group == 0 and bool((group_of == runs).all()) else group_of


def _packed(tensors: LayerTensors, stored: StoredFormat, n: int, k: int, groups: int) -> tuple[Tensor, Tensor | None]:
    """Signed codes and zero points, which are stored with 2^(bits - 1) added."""
    bits, middle = stored.bits, 2 ** (stored.bits - 1)
    words = tensors.take("weight_packed", (torch.int32,), (n, -(-k * bits // 32)))
    shape = tensors.take("weight_shape", (torch.int64, torch.int32), (2,))
    if shape.tolist() != [n, k]:
        raise tensors.wrong("weight_shape", f"says {shape.tolist()}; config.json asks for {[n, k]}")
    q = (unpacked(words, bits, k).to(torch.int16) - middle).to(torch.int8)
    if stored.symmetric:
        return q, None
    zeros = tensors.take("weight_zero_point", (torch.int32,), (-(-n * bits // 32), groups))
    return q, unpacked(zeros.t().contiguous(), bits, n).t().to(torch.int16) - middle


def _plain(tensors: LayerTensors, stored: StoredFormat, n: int, k: int, groups: int) -> tuple[Tensor, Tensor | None]:
    """Codes in a byte each; of fp8 the values themselves are codes of a scale."""
    if stored.floating:
        return tensors.take("weight", (torch.float8_e4m3fn,), (n, k)).float(), None
    low, high = -(2 ** (stored.bits - 1)), 2 ** (stored.bits - 1) - 1
    q = tensors.take("weight", (torch.int8,), (n, k))
    tensors.within("weight", q, low, high, "code")
    if stored.symmetric:
        return q, None
    shapes = ((n, groups),) if stored.group else ((n, 1), (n,), (1,), (), (1, 1))
    zero = tensors.take("weight_zero_point", (torch.int8,), *shapes).to(torch.int16)
    tensors.within("weight_zero_point", zero, low, high, "zero point")
    return q, zero.reshape(-1, groups).expand(n, groups).contiguous()
