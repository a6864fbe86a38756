"""Formats of a matrix product: bytes of weights, activations and results, and the unit that multiplies."""

from dataclasses import dataclass

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.device import Device

__all__ = ["FORMATS", "GemmFormat"]

Tiles = tuple[tuple[int, int], ...]

_TENSOR_TILES: Tiles = (
    (16, 64), (64, 64), (64, 128), (128, 64), (128, 128), (64, 256), (256, 64), (128, 256), (256, 128), (256, 256),
)  # fmt: skip
"""Smaller and more ones change held-out errors by less than their noise."""
_VECTOR_TILES: Tiles = ((32, 32), (32, 128), (128, 32), (64, 64), (64, 128), (128, 64), (128, 128))
"""Those in the kernels' names of `gemm_neusight.csv`: sgemm_32x128, sgemm_128x64…"""


@dataclass(frozen=True, slots=True)
class GemmFormat:
    """One format; bytes are per element, scales included."""

    name: str
    weight_bytes: float
    act_bytes: float
    out_bytes: float
    unit: tuple[str, ...]
    """Dtypes of the peak that multiplies; the first that a device has counts."""
    quantises: bool = False
    """Activations are quantised by a pass before the product."""
    unpacks: bool = False
    """Weights are unpacked to the dtype of the activations inside the product."""
    products: float = 1.0
    """Share of the multiplications that the unit does: with 2:4 zeros it skips half."""
    tiles: Tiles = _TENSOR_TILES
    """Rows and columns of a thread block's tile, of all the kernels there are."""

    def peak(self, device: Device) -> float:
        """Dense peak of the unit on this device; raises NotSupported where it has none."""
        for peaks in (device.tensor_flops_per_s, device.vector_flops_per_s):
            for dtype in self.unit:
                if dtype in peaks:
                    return peaks[dtype]
        have = ", ".join(sorted({*device.tensor_flops_per_s, *device.vector_flops_per_s})) or "none"
        raise NotSupported(f"{device.name} multiplies no {' or '.join(self.unit)}; it has {have}")


_HALF = ("bf16", "fp16")

FORMATS = {
    form.name: form
    for form in (
        GemmFormat("fp32", 4, 4, 4, ("fp32",), tiles=_VECTOR_TILES),
        GemmFormat("fp16", 2, 2, 2, ("fp16", "bf16")),
        GemmFormat("bf16", 2, 2, 2, _HALF),
        GemmFormat("fp8", 1, 1, 2, ("fp8",), quantises=True),
        GemmFormat("fp8_block", 1 + 4 / 128**2, 1 + 4 / 128, 2, ("fp8",), quantises=True),
        GemmFormat("nvfp4", 0.5 + 1 / 16, 0.5 + 1 / 16, 2, ("fp4",), quantises=True),
        GemmFormat("sq", 1, 1, 2, ("int8",), quantises=True),
        GemmFormat("int8_wo", 1, 2, 2, _HALF, unpacks=True),
        GemmFormat("int4_wo", 0.5 + 2 / 128, 2, 2, _HALF, unpacks=True),
    )
}
"""By the names of published tables: fp8 has one scale a tensor, fp8_block one for 128 x 128 weights (DeepSeek-V3, arXiv
2412.19437, section 3.3), nvfp4 one of 8 bits for 16 values, int4_wo one of 16 bits for 128 weights, sq is SmoothQuant's
W8A8 (arXiv 2211.10438)."""
