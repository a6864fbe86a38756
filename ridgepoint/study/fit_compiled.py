"""Laws of compiled steps from the smallest graphs that show what guards, kept calls and fused kernels take."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ridgepoint.hardware import Target
from ridgepoint.hardware.law_compiled import CompiledLaw
from ridgepoint.hardware.nonnegative import fit_nonnegative
from ridgepoint.workload import Pointwise
from ridgepoint.workload.fused import Fused

__all__ = ["chain_fused", "with_compiled"]

Sample = Mapping[str, Any]
_SIGMA_FLOOR = 0.1


def with_compiled(target: Target, samples: Sequence[Sample], source: str) -> Target:
    """The target with a law per dtype; as it is where the compile stage was not measured or found no compiler."""
    first = next((s for s in samples if s["probe"] == "compile first"), None)
    if first is None:
        return target
    acts = dict.fromkeys(s["act"] for s in samples if s["probe"] == "compile chain")
    laws = [_law(act, first, [s for s in samples if s.get("act") == act], source) for act in acts]
    return msgspec.structs.replace(target, compiled=tuple(law for law in laws if law is not None))


def _law(act: str, first: Sample, mine: Sequence[Sample], source: str) -> CompiledLaw | None:
    """The guards are the smallest step; a kept call is what a plain stack takes beyond them and its layers in eager mode, a
    kernel's start what a stack with relus takes more; bytes and arithmetic come from chains."""
    stacks = {bool(s["fused"]): s for s in mine if s["probe"] == "compile stack"}
    chains = [s for s in mine if s["probe"] == "compile chain"]
    if len(stacks) < 2 or not chains:
        return None
    guard_s, layers = float(first["seconds"]), stacks[False]["layers"]
    kept = (stacks[False]["seconds"] - stacks[False]["linear_s"] - guard_s) / layers
    start = max(0.0, (stacks[True]["seconds"] - stacks[True]["linear_s"] - guard_s) / layers - kept)
    byte, flop, sigma = _kernels(chains)
    return CompiledLaw(
        dtype=act, guard_s=guard_s, kept_call_s=float(kept), fused_call_s=float(start), byte_s=byte, flop_s=flop,
        compile_s=float(first["compile_s"]), compile_call_s=_compile_call_s(stacks),
        sigma=max(_SIGMA_FLOOR, sigma), source=source,
    )  # fmt: skip


def _kernels(chains: Sequence[Sample]) -> tuple[float, float, float]:
    """Seconds per byte and per FLOP, and their relative error on the largest tensors. Each chain has guards of its own, which
    grow with its inputs: what its sizes differ by is the kernel."""
    names = list(dict.fromkeys(s["chain"] for s in chains))
    ops = [chain_fused(s) for s in chains]
    seconds = np.array([float(s["seconds"]) for s in chains])
    guards = np.array([[float(s["chain"] == name) for name in names] for s in chains])
    terms = np.array([[float(op.bytes), float(op.flops)] for op in ops])
    found = fit_nonnegative(np.hstack([guards, terms]), seconds)
    kernel = terms @ found[-2:]
    large = kernel >= np.median(kernel)
    apart = seconds - np.hstack([guards, terms]) @ found
    return float(found[-2]), float(found[-1]), float(np.sqrt(np.mean((apart[large] / kernel[large]) ** 2)))


def _compile_call_s(stacks: Mapping[bool, Sample]) -> float:
    """Of the larger stack, whose process has compiled before."""
    s = stacks[True]
    return float(s["compile_s"]) / (s["layers"] + s["fused"])


def chain_fused(s: Sample) -> Fused:
    """The operator of a chain."""
    rows, cols, act = s["rows"], s["cols"], s["act"]
    kinds: dict[str, tuple[tuple[str, str], ...]] = {
        "residual": (("add", "residual"), ("rms_norm", "norm")), "gated": (("silu_mul", "mlp.act"),),
        "softmax": (("softmax", "other"),), "scale": (("scale", "other"),),
    }  # fmt: skip
    return Fused(tuple(Pointwise(kind, role, kind, rows, cols, act) for kind, role in kinds[s["chain"]]))  # type: ignore[arg-type]
