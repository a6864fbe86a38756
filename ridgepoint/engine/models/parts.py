"""Parts of decoder layers: linear layers and norms without values, and the feed-forward layer in its forms."""

from collections.abc import Callable

from torch import Tensor, nn

from ridgepoint.kernels.ladder import TORCH_DTYPES
from ridgepoint.kernels.pointwise import Gelu, GeluMul, LayerNorm, Relu, RmsNorm, SiluMul
from ridgepoint.workload.decoder import Decoder, MlpSpec

__all__ = ["feed_forward", "linear", "norm"]

Steps = Callable[["nn.Module", Tensor], Tensor]
_GATED = {"silu": SiluMul, "gelu": GeluMul}
_PLAIN = {"gelu": Gelu, "relu": Relu}


def linear(k: int, n: int, bias: bool, dtype: str, device: str) -> nn.Linear:
    """A linear layer whose values are whatever the memory holds."""
    layer = nn.utils.skip_init(nn.Linear, k, n, bias=bias, dtype=TORCH_DTYPES[dtype], device=device)
    return layer.requires_grad_(False)


def norm(kind: str, size: int, decoder: Decoder, dtype: str, device: str) -> nn.Module:
    """The norm of that kind over `size`."""
    made = RmsNorm if kind == "rms_norm" else LayerNorm
    return made(size, decoder.rms_norm_eps, TORCH_DTYPES[dtype], device)


def feed_forward(layer: nn.Module, mlp: MlpSpec, hidden: int, dtype: str, device: str) -> Steps:
    """Adds the projections and the activation to `layer`, under the plan's names; gives what runs them."""
    wide, steps = mlp.intermediate_size, _plain_relu if mlp.act == "relu" else _plain_gelu
    if mlp.gated and mlp.fused:
        layer.gate_up_proj, steps = linear(hidden, 2 * wide, mlp.bias, dtype, device), _fused
    elif mlp.gated:
        layer.gate_proj, steps = linear(hidden, wide, mlp.bias, dtype, device), _GATED_STEPS[mlp.act]
    if not (mlp.gated and mlp.fused):
        layer.up_proj = linear(hidden, wide, mlp.bias, dtype, device)
    act = _GATED[mlp.act]() if mlp.gated else _PLAIN[mlp.act]()
    setattr(layer, f"{mlp.act}_mul" if mlp.gated else mlp.act, act)
    layer.down_proj = linear(wide, hidden, mlp.bias, dtype, device)
    return steps


def _gated_silu(layer: nn.Module, x: Tensor) -> Tensor:
    return layer.down_proj(layer.silu_mul(layer.gate_proj(x), layer.up_proj(x)))


def _gated_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    return layer.down_proj(layer.gelu_mul(layer.gate_proj(x), layer.up_proj(x)))


def _fused(layer: nn.Module, x: Tensor) -> Tensor:
    gate, up = layer.gate_up_proj(x).chunk(2, -1)
    return layer.down_proj(layer.silu_mul(gate, up))


def _plain_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    return layer.down_proj(layer.gelu(layer.up_proj(x)))


def _plain_relu(layer: nn.Module, x: Tensor) -> Tensor:
    return layer.down_proj(layer.relu(layer.up_proj(x)))


_GATED_STEPS: dict[str, Steps] = {"silu": _gated_silu, "gelu": _gated_gelu}
