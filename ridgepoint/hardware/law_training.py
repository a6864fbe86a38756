"""What the operators of a training step cost on a machine: forward with recording, gradients, update, by few physical terms."""

import msgspec
import numpy as np

from ridgepoint.hardware.law import prefill_terms
from ridgepoint.quantity import Array

__all__ = ["TRAINING_TERMS", "TrainingLaw", "TrainingNet", "pass_terms", "product_terms"]


def product_terms(m: Array, n: Array, k: Array, far_right: Array, far_out: Array) -> tuple[Array, ...]:
    """1 (call and its node of the graph), products m n k, results m n, left operand m k, right operand n k, of
    C[m, n] = A[m, k] B[k, n]; products whose right operand and results that the last-level cache does not hold (`far_right`,
    `far_out`: their shares): kernels that do not block read it again for each row."""
    m, n, k = np.asarray(m, float), np.asarray(n, float), np.asarray(k, float)
    ones = np.ones(np.broadcast(m, n, k).shape)
    return (
        ones, m * n * k, m * n * ones, m * k * ones, n * k * ones, far_right * (m * n * k), far_out * (m * n) * ones
    )  # fmt: skip


def pass_terms(rows: Array, cols: Array, far: Array) -> tuple[Array, ...]:
    """1 (call), rows, elements, and elements that do not fit the last-level cache."""
    rows, cols, far = np.asarray(rows, float), np.asarray(cols, float), np.asarray(far, float)
    ones = np.ones(np.broadcast(rows, cols, far).shape)
    return ones, rows * ones, rows * cols * ones, far * rows * cols


TRAINING_TERMS = {"product": 7, "attention": len(prefill_terms(1, 1, 1, 1)), "pass": 4}
"""Number of terms by form."""


class TrainingLaw(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds of one operator in one sweep and dtype, one thread: `terms` times those of its form.

    `subject`: "linear", with "thin" behind it of adapters and the weight format where it is quantised, "attention", or a
    pointwise kind.
    """

    subject: str
    sweep: str
    dtype: str
    form: str
    """"product", "attention" or "pass"."""
    terms: tuple[float, ...]
    sigma: float
    source: str


class TrainingNet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a whole training step takes over the sum of its operators, by dtype: a factor, from small nets, and its error."""

    dtype: str
    factor: float
    sigma: float
    source: str
