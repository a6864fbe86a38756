"""Parts of decoder layers: linear layers and norms without values, and the feed-forward layer in its forms."""

from torch import nn

from ridgepoint.kernels.ladder import TORCH_DTYPES
from ridgepoint.kernels.pointwise import Gelu, GeluMul, LayerNorm, Relu, RmsNorm, SiluMul
from ridgepoint.workload.decoder import Decoder, MlpSpec

__all__ = ["add_feed_forward", "linear", "norm"]

_ACTIVATIONS = {"silu_mul": SiluMul, "gelu_mul": GeluMul, "gelu": Gelu, "relu": Relu}


def linear(k: int, n: int, bias: bool, dtype: str, device: str) -> nn.Linear:
    """A linear layer whose values are whatever the memory holds."""
    layer = nn.utils.skip_init(nn.Linear, k, n, bias=bias, dtype=TORCH_DTYPES[dtype], device=device)
    return layer.requires_grad_(False)


def norm(kind: str, size: int, decoder: Decoder, dtype: str, device: str) -> nn.Module:
    """The norm of that kind over `size`."""
    made = RmsNorm if kind == "rms_norm" else LayerNorm
    return made(size, decoder.rms_norm_eps, TORCH_DTYPES[dtype], device)


def add_feed_forward(layer: nn.Module, mlp: MlpSpec, hidden: int, dtype: str, device: str) -> str:
    """Adds the projections and the activation to `layer`, under the plan's names; gives the activation's."""
    wide, act = mlp.intermediate_size, f"{mlp.act}_mul" if mlp.gated else mlp.act
    if mlp.fused:
        layer.gate_up_proj = linear(hidden, 2 * wide, mlp.bias, dtype, device)
    else:
        if mlp.gated:
            layer.gate_proj = linear(hidden, wide, mlp.bias, dtype, device)
        layer.up_proj = linear(hidden, wide, mlp.bias, dtype, device)
    setattr(layer, act, _ACTIVATIONS[act]())
    layer.down_proj = linear(wide, hidden, mlp.bias, dtype, device)
    return act
