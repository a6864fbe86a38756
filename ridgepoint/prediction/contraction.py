"""Time of convolutions and of products of activations, by the law of the kernels that torch takes."""

import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target
from ridgepoint.hardware.law_contraction import ContractionLaw, matmul_terms
from ridgepoint.prediction.convolution import form_shares, passes_of, terms_of
from ridgepoint.prediction.used import GUESSED_SIGMA, Used, far_share, scaling_of
from ridgepoint.quantity import Array
from ridgepoint.workload import DTYPE_BYTES, Conv, Matmul

__all__ = ["contraction_time", "far_of_matmul"]


def contraction_time(op: Conv | Matmul, target: Target, threads: int) -> tuple[Array, tuple[Used, ...]]:
    """Seconds of one call, and the laws in use. NotSupported where the target has none for it."""
    if isinstance(op, Matmul):
        shared = op.shared and not op.guessed
        law = _law(op, target, "shared" if shared else "", "")
        elements, far = far_of_matmul(op, target)
        seconds = law.seconds(matmul_terms(op.batch, op.elements, op.batch * op.m * op.n * op.k), elements, far)
        kernel = (
            "guessed as products" if op.guessed else "torch.matmul, one matrix for all" if shared else "torch.matmul"
        )
        sigma = GUESSED_SIGMA if op.guessed else law.sigma
        return seconds / scaling_of(target, "matmul", op.batch, threads), (
            Used(kernel, sigma, 1.0, law.sigma_composed),
        )
    far = far_share(op.activation_bytes, target)
    total: Array = 0.0
    used = []
    for form, share in form_shares(op, threads).items():
        law = _law(op, target, form, op.layout)
        total = total + share * law.seconds(terms_of(op, form), passes_of(op, form) * (op.inputs + op.outputs), far)
        kernel = f"conv {form}{' channels last' if op.layout else ''}"
        used.append(Used(kernel, law.sigma, share, law.sigma_composed))
    return total / scaling_of(target, "conv", np.asarray(op.batch), threads), tuple(used)


def far_of_matmul(op: Matmul, target: Target) -> tuple[Array, Array]:
    """(elements, share of them) that come from far: a shared matrix is read again for each of the batch, from beyond the
    second-level cache where it does not fit there; of other products all that the last-level cache does not hold."""
    if not op.shared:
        return op.elements, far_share(op.activation_bytes, target)
    sizes = [level.bytes for level in target.levels if level.name == "L2" and level.bytes]
    matrix_bytes = op.k * op.n * DTYPE_BYTES[op.dtype]
    return op.batch * op.k * op.n, np.clip(matrix_bytes / sizes[0] - 0.5, 0.0, 1.0) if sizes else 0.0


def _law(op: Conv | Matmul, target: Target, form: str, layout: str) -> ContractionLaw:
    for law in target.contraction:
        if (law.kind, law.form, law.dtype, law.layout) == (op.kind, form, op.dtype, layout):
            return law
    what = f"{op.kind} {form} in {op.dtype}".replace("  ", " ")
    if not target.contraction:
        raise NotSupported(
            f"{target.name} knows decoders only, and {op.name} is a {op.kind}; `ridge calibrate --modules` adds it"
        )
    raise NotSupported(
        f"{target.name} has no law for {what}{' in channels last' if layout else ''}, which {op.name} needs"
    )
