"""NF4 weights by bitsandbytes: 16 quantiles of a normal distribution, a scale per 64 weights (QLoRA, arXiv 2305.14314).

bitsandbytes is an optional dependency, imported when a layer is packed. Its CPU kernel repacks the weights (and rounds
their scales to bf16) at the first call, 9 to 28 times as slow as the next; packing makes that call here.
"""

import copy
import logging
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ridgepoint.kernels.ladder import LinearKernel, multiple_reason, needs_cuda

__all__ = ["LADDER", "Nf4Linear", "trainable_nf4"]

NAME, _BLOCK = "bitsandbytes.matmul_4bit", 64


class Nf4Linear(nn.Module):
    """The product that `bitsandbytes.nn.Linear4bit` runs, on the weights it packed, without its per-call checks."""

    kernel = NAME
    packed: Tensor
    bias: Tensor | None

    def __init__(self, packed: Tensor, state: Any, bias: Tensor | None):
        super().__init__()
        self.matmul = _bitsandbytes().matmul_4bit
        self.state = state  # bitsandbytes.functional.QuantState
        self.register_buffer("packed", packed)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.matmul(x, self.packed, quant_state=self.state, bias=self.bias)

    @property
    def packed_bytes(self) -> int:
        """Scales and the 16 quantiles, which bitsandbytes keeps beside the buffer."""
        return self.state.absmax.nbytes + self.state.code.nbytes

    def dequantised(self) -> Tensor:
        """[n, k] fp32."""
        functional = _bitsandbytes().functional
        packed, state = self.packed, copy.deepcopy(self.state)
        if getattr(state, "packing_format_for_cpu", False):
            packed, state = functional._convert_weight_packed_for_cpu_inverse(packed, state)
            state.absmax = state.absmax.t().reshape(-1).float()  # bitsandbytes leaves the scales transposed and in bf16
        state.dtype = torch.float32
        return functional.dequantize_4bit(packed, state)


@cache
def _bitsandbytes() -> Any:
    """bitsandbytes, imported without its notice that a faster kernel could be fetched from the network."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")

    def without_notice(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Failed to load CPU gemm_4bit_forward")

    logger.addFilter(without_notice)
    try:
        import bitsandbytes
    finally:
        logger.removeFilter(without_notice)
    return bitsandbytes


def trainable_nf4(linear: nn.Linear) -> nn.Module:
    """bitsandbytes' own `Linear4bit` of a layer, whose gradient of the input is that of the dequantised weights; it must
    stay in training mode, for the packed format of CPU inference has no gradient."""
    layer = _quantised(linear.weight.detach())
    if linear.bias is not None:
        layer.bias = nn.Parameter(linear.bias.detach().clone(), requires_grad=False)
    return layer.train()


def _quantised(weight: Tensor) -> Any:
    bnb = _bitsandbytes()
    n, k = weight.shape
    layer = bnb.nn.Linear4bit(
        k, n, bias=False, compute_dtype=torch.bfloat16, compress_statistics=False, quant_type="nf4", device="meta"
    )
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=False, quant_type="nf4")
    return layer.to(weight.device)  # quantises


@torch.no_grad()
def _pack(weight: Tensor, bias: Tensor | None, act: str, group: int) -> Nf4Linear:
    k = weight.shape[1]
    layer = _quantised(weight).eval()
    layer(torch.zeros(1, k, dtype=torch.bfloat16, device=weight.device))  # repacks, on CPUs with AVX512_BF16
    bias = None if bias is None else bias.to(torch.bfloat16, copy=True)
    return Nf4Linear(layer.weight.data, layer.weight.quant_state, bias)


def _check_cpu(n: int, k: int, group: int) -> str:
    # scales are laid out by row there, and rows are repacked in blocks of 32
    return multiple_reason("k", k, _BLOCK) or multiple_reason("n", n, 32)


def _check_cuda(n: int, k: int, group: int) -> str:
    return multiple_reason("k", k, _BLOCK)


def _installed() -> str:
    return "" if find_spec("bitsandbytes") else "bitsandbytes is not installed; pip install bitsandbytes"


def _installed_with_cuda() -> str:
    return _installed() or needs_cuda()


LADDER = (
    LinearKernel(NAME, "nf4", "packed", ("bf16",), "cpu", _pack, _check_cpu, _installed),
    LinearKernel(NAME, "nf4", "packed", ("bf16",), "cuda", _pack, _check_cuda, _installed_with_cuda),
)
