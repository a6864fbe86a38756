"""The layout of GPTQ checkpoints (AutoGPTQ, GPTQModel): codes packed along the inputs, zero points along the outputs.

Shapes: n outputs, k inputs, G groups. qweight[k bits/32, n] int32, qzeros[G, n bits/32] int32, scales[G, n], g_idx[k] int32.
"""

import torch
from torch import Tensor

from ridgepoint.engine.quantised.held import Held, unpacked
from ridgepoint.engine.quantised.tensors import LayerTensors
from ridgepoint.workload.stored import StoredFormat

__all__ = ["read_gptq"]


def read_gptq(tensors: LayerTensors, stored: StoredFormat, n: int, k: int) -> Held:
    """Codes of a layer; those of 3 bits run on over three words, the others fill each word.

    `gptq` (v1) stores zero points less one, so that it has no 0 and a stored maximum means a zero point beyond the
    codes, which no writer makes on purpose: it is refused. `gptq_v2` stores them as they are.
    """
    bits, group = stored.bits, stored.group or k
    groups = -(-k // group)
    words = tensors.take("qweight", (torch.int32,), (-(-k * bits // 32), n))
    scale = tensors.scales("scales", (groups, n))
    zero = unpacked(tensors.take("qzeros", (torch.int32,), (groups, -(-n * bits // 32))), bits, n)
    if stored.layout == "gptq":
        zero = zero.to(torch.int16) + 1
        tensors.within("qzeros", zero, 1, 2**bits - 1, "zero point")
    q = unpacked(words.t().contiguous(), bits, k)
    if stored.symmetric:
        tensors.within("qzeros", zero, 2 ** (bits - 1), 2 ** (bits - 1), "zero point of symmetric codes")
    if bits == 8:  # kernels hold them signed
        q, zero = (q.to(torch.int16) - 128).to(torch.int8), zero.to(torch.int16) - 128
    zeros = None if bits == 8 and stored.symmetric else zero.t().contiguous()
    return Held(q, scale.t().contiguous(), zeros, _group_of(tensors, k, group, groups))


def _group_of(tensors: LayerTensors, k: int, group: int, groups: int) -> Tensor | None:
    """None where groups are runs of `group` inputs."""
    runs = torch.arange(k) // group
    if not tensors.has("g_idx"):
        return None if k % group == 0 else runs
    group_of = tensors.take("g_idx", (torch.int32, torch.int64), (k,)).long()
    tensors.within("g_idx", group_of, 0, groups - 1, "group")
    return None if k % group == 0 and bool((group_of == runs).all()) else group_of
