"""Laws of time of convolutions and of products of activations: a short sum of physical terms per kernel family."""

import msgspec
import numpy as np

from ridgepoint.quantity import Array

__all__ = ["CONV_TERMS", "MATMUL_TERMS", "ContractionLaw", "conv_terms", "matmul_terms"]

CONV_TERMS, MATMUL_TERMS = 5, 4


def conv_terms(batch: Array, elements: Array, weights: Array, products: Array) -> tuple[Array, ...]:
    """1 (call), items, elements read and written (reordering into the kernel's layout and back), weights (reordering), and
    products, counted with channels padded to the kernel's blocks."""
    one = np.ones(np.shape(batch))
    return (one, batch * one, elements * one, weights * one, products * one)


def matmul_terms(batch: Array, elements: Array, products: Array) -> tuple[Array, ...]:
    """1 (call), matrices in the batch, elements read and written, products."""
    one = np.ones(np.broadcast(batch, elements, products).shape)
    return (one, batch * one, elements * one, products * one)


class ContractionLaw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of one call: sum of `terms` x `conv_terms` or `matmul_terms`, and what far memory adds.

    `form`: family of kernels (of convolutions, see `prediction.convolution`; "" of products). `layout` as in
    `workload.contraction.Conv`. `far_element_s`: added per element read or written that is not in the last-level cache.
    """

    kind: str
    form: str
    dtype: str
    layout: str = ""
    threads: int
    terms: tuple[float, ...]
    far_element_s: float
    sigma: float
    source: str
    composed: float = 1.0
    sigma_composed: float = 0.0
    """As in `LinearLaw`."""

    def seconds(self, terms: tuple[Array, ...], elements: Array, far: Array) -> Array:
        """Time of one call; `far`: the share of its elements that comes from or goes to memory."""
        near = sum((c * t for c, t in zip(self.terms, terms, strict=True)), start=0.0)
        return self.composed * (near + self.far_element_s * elements * far)
