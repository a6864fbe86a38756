"""Products that are no linear layer: convolutions, and batched products of two activations."""

from dataclasses import dataclass

from ridgepoint.quantity import Array
from ridgepoint.workload.format import DTYPE_BYTES
from ridgepoint.workload.op import Compulsory, Role, Sweep

__all__ = ["Conv", "Matmul"]


@dataclass(frozen=True, slots=True)
class Conv(Compulsory):
    """y[b, n, pixels_out] = w[n, k] over windows of x[b, channels_in, pixels_in], in 1 to 3 dimensions.

    k = channels_in / groups x `window`, window = the product of the kernel's sizes; `spread`: strided or dilated.
    `layout`: "" is the framework's own (channels first), "last" is channels last. A transposed convolution is counted with
    x and y exchanged in FLOPs, as it does the same products.
    """

    name: str
    batch: Array
    channels_in: int
    n: int
    window: int
    groups: int
    pixels_in: Array
    pixels_out: Array
    dtype: str
    spread: bool = False
    transposed: bool = False
    bias: bool = False
    layout: str = ""
    count: int = 1
    role: Role = "other"
    sweep: Sweep = "forward"
    kind: str = "conv"

    @property
    def k(self) -> int:
        """Products that are added up in one output (of one input, where transposed)."""
        channels = self.n if self.transposed else self.channels_in
        return channels // self.groups * self.window

    @property
    def form(self) -> str:
        """Which kernel family computes it: "depthwise", "1x1", "grouped", "transposed" or "window"."""
        if self.transposed:
            return "transposed"
        if self.groups > 1:
            return "depthwise" if self.groups == self.channels_in else "grouped"
        return "1x1" if self.window == 1 else "window"

    @property
    def flops(self) -> Array:
        channels, pixels = (self.channels_in, self.pixels_in) if self.transposed else (self.n, self.pixels_out)
        return 2.0 * self.batch * pixels * channels * self.k

    @property
    def inputs(self) -> Array:
        """Elements read."""
        return self.batch * self.channels_in * self.pixels_in

    @property
    def outputs(self) -> Array:
        """Elements written."""
        return self.batch * self.n * self.pixels_out

    @property
    def weights(self) -> int:
        """Elements of w."""
        return self.channels_in * self.n // self.groups * self.window

    @property
    def weight_bytes(self) -> Array:
        return DTYPE_BYTES[self.dtype] * (self.weights + (self.n if self.bias else 0))

    @property
    def activation_bytes(self) -> Array:
        return DTYPE_BYTES[self.dtype] * (self.inputs + self.outputs)


@dataclass(frozen=True, slots=True)
class Matmul(Compulsory):
    """y[b, m, n] = x[b, m, k] z[b, k, n]: no weight format applies.

    `shared`: z is one matrix for all b, laid out once but read and repacked b times: what torch makes of a linear layer
    whose input cannot be seen as a matrix (a transposed one). `guessed`: a recurrent layer's steps or a
    bilinear layer, of which no calibration knows how the framework makes them.
    """

    name: str
    batch: Array
    m: Array
    n: Array
    k: Array
    dtype: str
    shared: bool = False
    guessed: bool = False
    count: int = 1
    role: Role = "other"
    sweep: Sweep = "forward"
    kind: str = "matmul"

    @property
    def flops(self) -> Array:
        return 2.0 * self.batch * self.m * self.n * self.k

    @property
    def elements(self) -> Array:
        """Elements that the kernel reads and writes."""
        return self.batch * (self.m * self.k + self.k * self.n + self.m * self.n)

    @property
    def activation_bytes(self) -> Array:
        rows = self.batch * self.m
        matrices = self.k * self.n * (1.0 if self.shared else self.batch)
        return DTYPE_BYTES[self.dtype] * (rows * (self.k + self.n) + matrices)
