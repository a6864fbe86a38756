"""Time of convolutions and of products of activations, by the law of the kernels that torch takes."""

import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Target
from ridgepoint.hardware.law_contraction import ContractionLaw, matmul_terms
from ridgepoint.prediction.convolution import form_shares, terms_of
from ridgepoint.prediction.used import Used, far_share, scaling_of
from ridgepoint.quantity import Array
from ridgepoint.workload import Conv, Matmul

__all__ = ["contraction_time"]


def contraction_time(op: Conv | Matmul, target: Target, threads: int) -> tuple[Array, tuple[Used, ...]]:
    """Seconds of one call, and the laws in use. NotSupported where the target has none for it."""
    far = far_share(op.activation_bytes, target)
    if isinstance(op, Matmul):
        law = _law(op, target, "shared" if op.shared else "", "")
        terms = matmul_terms(op.batch, op.elements, op.batch * op.m * op.n * op.k)
        return law.seconds(terms, op.elements, far) / scaling_of(target, "matmul", op.batch, threads), (
            Used("torch.matmul, one matrix for all" if op.shared else "torch.matmul", law.sigma),
        )
    total: Array = 0.0
    used = []
    for form, share in form_shares(op, threads).items():
        law = _law(op, target, form, op.layout)
        total = total + share * law.seconds(terms_of(op, form), op.inputs + op.outputs, far)
        used.append(Used(f"conv {form}", law.sigma, share))
    return total / scaling_of(target, "conv", np.asarray(op.batch), threads), tuple(used)


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
