"""ONNX Runtime's CPU kernels for one linear layer: 4-bit weights (MatMulNBits) and dynamic int8 (MatMulInteger).

Shapes: x[..., k] fp32, weight[n, k]. onnxruntime and onnx are optional dependencies, imported when a layer is packed.
Each layer is a graph of its own, run in the calling thread; its input is read where torch holds it.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from ridgepoint.kernels.codes import INT8_FP32, nearest
from ridgepoint.kernels.ladder import LinearKernel
from ridgepoint.kernels.w4a16 import check_groups

__all__ = ["LADDER", "OrtLinear"]

RUNG = "ort"
NBITS, DYNAMIC = "onnxruntime.MatMulNBits", "onnxruntime.MatMulInteger"


class OrtLinear(nn.Module):
    """A session of onnxruntime over `model`, a serialised graph from x to y that holds its weights."""

    def __init__(self, kernel: str, model: bytes, n: int):
        super().__init__()
        self.kernel, self.n, self.model = kernel, n, model
        self.session = _session(model)

    def forward(self, x: Tensor) -> Tensor:
        (y,) = self.session.run(None, {"x": x.reshape(-1, x.shape[-1]).numpy()})
        return torch.from_numpy(y).view(*x.shape[:-1], self.n)

    @property
    def packed_bytes(self) -> int:
        """The weights as the graph holds them; onnxruntime's own packed copy takes as much again."""
        return len(self.model)

    def dequantised(self) -> Tensor:
        """[n, k] fp32, from the graph's constants; activations are rounded on top of it in the dynamic kernel."""
        from onnx import load_from_string, numpy_helper

        constants = load_from_string(self.model).graph.initializer
        held = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in constants}
        if self.kernel == DYNAMIC:
            return (held["w"].float() * held["scale"]).t().contiguous()
        n = held["w"].shape[0]
        codes = torch.stack((held["w"] & 15, held["w"] >> 4), -1).view(n, held["w"].shape[1], -1)
        zeros = torch.stack((held["zero"] & 15, held["zero"] >> 4), -1).view(n, -1)[:, : codes.shape[1]]
        scale = held["scale"].view(n, -1)
        return ((codes.float() - zeros.float()[..., None]) * scale[..., None]).view(n, -1)

    def __deepcopy__(self, memo: dict[int, Any]) -> "OrtLinear":
        return OrtLinear(self.kernel, self.model, self.n)


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _pack_nbits(weight: Tensor, bias: Tensor | None, act: str, group: int) -> OrtLinear:
    from onnx import helper

    n, k = weight.shape
    codes, scale, zero = quantise_blocks(weight, group)
    constants = {
        "w": (codes[..., ::2] | codes[..., 1::2] << 4).numpy(),  # [n, k/group, group/2], even inputs in the low half
        "scale": scale.reshape(-1).numpy(),
        "zero": _nibbles(zero).reshape(-1).numpy(),
    }
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "scale", "zero"], ["p"], domain="com.microsoft", K=k, N=n, bits=4, block_size=group,
        accuracy_level=1,  # multiplies in fp32: level 4 would quantise the activations too
    )  # fmt: skip
    return OrtLinear(NBITS, _model([node], constants, bias, n, k), n)


def quantise_blocks(weight: Tensor, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [n, k/group, group] uint8 in 0..15, scale [n, k/group] fp32 and zero point uint8 by the least and the greatest
    weight of each block; weight ~ (code - zero) * scale. The range takes in 0, as a zero point needs."""
    n, k = weight.shape
    w = weight.float().view(n, k // group, group)
    low, high = w.amin(-1).clamp(max=0), w.amax(-1).clamp(min=0)
    scale = ((high - low) / 15).clamp_(min=1e-8)
    zero = (-low / scale).round_().clamp_(0, 15)
    codes = (w / scale[..., None] + zero[..., None]).round_().clamp_(0, 15)
    return codes.to(torch.uint8), scale, zero.to(torch.uint8)


def _nibbles(zero: Tensor) -> Tensor:
    """[n, ceil(blocks / 2)]: two zero points a byte, the row padded to whole bytes."""
    if zero.shape[1] % 2:
        zero = torch.cat((zero, torch.zeros_like(zero[:, :1])), 1)
    return zero[:, ::2] | zero[:, 1::2] << 4


def _pack_dynamic(weight: Tensor, bias: Tensor | None, act: str, group: int) -> OrtLinear:
    """Activations get a scale and a zero point per call, in 8 bits; weights a symmetric scale per row."""
    from onnx import helper

    n, k = weight.shape
    codes = nearest(weight, INT8_FP32)
    constants = {"w": codes.q.t().contiguous().numpy(), "scale": codes.scale[:, 0].numpy()}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["xq", "w", "xz"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["sums32"], to=1),  # 1: fp32
        helper.make_node("Mul", ["xs", "scale"], ["both"]),
        helper.make_node("Mul", ["sums32", "both"], ["p"]),
    ]
    return OrtLinear(DYNAMIC, _model(nodes, constants, bias, n, k), n)


def _model(nodes: list[Any], constants: dict[str, Any], bias: Tensor | None, n: int, k: int) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    if bias is not None:
        constants["bias"] = bias.detach().float().numpy()
    last = helper.make_node("Identity", ["p"], ["y"]) if bias is None else helper.make_node("Add", ["p", "bias"], ["y"])
    graph = helper.make_graph(
        [*nodes, last], "linear", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["m", k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["m", n])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def _check_dynamic(n: int, k: int, group: int) -> str:
    return ""


@cache
def _installed() -> str:
    missing = [name for name in ("onnxruntime", "onnx") if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed; pip install 'ridgepoint[ort]'" if missing else ""


LADDER = (
    LinearKernel(NBITS, "int4", RUNG, ("fp32",), "cpu", _pack_nbits, check_groups, _installed),
    LinearKernel(DYNAMIC, "int8:dyn", RUNG, ("fp32",), "cpu", _pack_dynamic, _check_dynamic, _installed),
)
