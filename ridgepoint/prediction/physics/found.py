"""Which fit answers for a machine, a format and a software stack, and how far away from them it was made."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Arch, Fit, load_arch

__all__ = ["OWN_VARIANTS", "Found", "Machine", "Stack", "class_chain", "find_fit", "operation_of"]


OWN_VARIANTS = ("pointwise", "collective")
"""Operators whose variants begin with an operation of its own: families of pointwise kernels, kinds of collectives."""


class Machine(Protocol):
    """What a fit is looked up by: a name, and the class; a `Device` has both."""

    @property
    def name(self) -> str: ...
    @property
    def arch(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Stack:
    """The software that runs the kernels; "" leaves the choice to what was measured."""

    framework: str = ""
    version: str = ""
    variant: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A fit, the steps that lie between it and the question, and the error that they add."""

    fit: Fit
    steps: tuple[str, ...]
    """Of `STEPS`; () where the fit was made on this very machine, format and stack."""
    sigma: float
    """Standard deviation of the log error of all steps together."""
    arch: str

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """The machines that the fit was made on, where the one asked about is not among them."""
        return self.fit.gpus if {"gpu", "class"} & set(self.steps) else ()

    @property
    def label(self) -> str:
        """In words: where the parameters come from."""
        fit = self.fit
        stack = " ".join(x for x in (fit.framework or "all frameworks", fit.version, fit.variant) if x)
        return f"{fit.operator} of {self.arch}, {fit.dtype}, {stack}, fitted on {', '.join(fit.gpus)}"


def find_fit(device: Machine, operator: str, dtypes: tuple[str, ...], stack: Stack) -> Found:
    """The nearest fit of an operator: of the class before other classes, of the first dtype before the next, then by stack.

    A variant that is an operator of its own (`OWN_VARIANTS`) is never taken for another; most of the time of such
    operators is the stack's launch, so the stack comes before the class. So it does for quantised formats, whose kernels
    differ between frameworks by more than between classes (blocked fp8 up to 16 times).

    Raises NotSupported naming the dtypes that the class has for the operator.
    """
    have: set[str] = set()
    own, later = operator in OWN_VARIANTS, []
    for arch in class_chain(device.arch):
        fits = [f for f in arch.of(operator) if not own or operation_of(f.variant) == operation_of(stack.variant)]
        have |= {fit.dtype for fit in fits}
        for dtype in dtypes:
            candidates = [_found(device, arch, fit, stack) for fit in fits if fit.dtype == dtype]
            if not candidates:
                continue
            nearest = min(candidates, key=_distance(stack, own))
            if _of_like_stack(operator, dtype, stack.framework, nearest.fit.framework):
                return nearest
            later.append(nearest)
    if later:
        return later[0]
    known = ", ".join(sorted(have)) or "nothing"
    known += " (a checkpoint in fp32 can be run in 16 bits)" if "fp32" in dtypes and "bf16" in have else ""
    formats = f" in {' or '.join(dtypes)}" if any(dtypes) else ""
    raise NotSupported(
        f"{device.name}: no {operator}{formats} was measured on its class ({device.arch or 'none'}) or a "
        f"like one; measured: {known}; `ridge calibrate --from FILE.csv` fits it from a sweep of your own"
    )


_WHOLE = ("bf16", "fp16", "fp32", "")
"""Formats that nobody had to write kernels for."""


def _of_like_stack(operator: str, dtype: str, wanted: str, have: str) -> bool:
    """Whether a fit of the stack `have` may answer before other classes are asked."""
    if operator in OWN_VARIANTS:
        return _launched_alike(wanted, have)
    return dtype in _WHOLE or operator == "power" or not wanted or _same_framework(wanted, have)


def class_chain(name: str) -> Iterator[Arch]:
    """The class, then those it is pooled from, breadth first, each once."""
    queue, seen = [name], set[str]()
    while queue:
        current = queue.pop(0)
        if current and current not in seen:
            seen.add(current)
            arch = load_arch(current)
            yield arch
            queue += arch.pooled_from


def _found(device: Machine, arch: Arch, fit: Fit, stack: Stack) -> Found:
    known = {t.step: t.sigma for t in arch.transfers if t.operator == fit.operator}
    steps = tuple(_steps(device, arch, fit, stack))
    return Found(fit, steps, float(np.sqrt(sum(known.get(step, 0.0) ** 2 for step in steps))), arch.name)


def _steps(device: Machine, arch: Arch, fit: Fit, stack: Stack) -> Iterator[str]:
    if arch.name != device.arch:
        yield "class"
    elif device.name not in fit.gpus:
        yield "gpu"
    if stack.framework and not _same_framework(stack.framework, fit.framework):
        alike = fit.operator in OWN_VARIANTS and _launched_alike(stack.framework, fit.framework)
        yield "version" if alike else "framework"
        return
    if stack.version and fit.version != stack.version:
        yield "version"
    if stack.variant and fit.variant != stack.variant:
        yield "variant"


def _distance(stack: Stack, own: bool):  # type: ignore[no-untyped-def]
    wanted = _number(stack.version)

    def distance(found: Found) -> tuple[float, ...]:
        fit = found.fit
        other_framework = bool(stack.framework) and not _same_framework(stack.framework, fit.framework)
        return (
            other_framework,
            other_framework and own and not _launched_alike(stack.framework, fit.framework),
            other_framework and bool(fit.framework),  # then what all frameworks share
            -_alike(stack.variant, fit.variant),
            fit.variant.count("/"),  # what nobody asked for, as a quantised cache
            bool(stack.version) and abs(_number(fit.version) - wanted),
            -_number(fit.version),  # nobody asked: the newest
            -fit.rows,
        )

    return distance


def _alike(wanted: str, have: str) -> float:
    """Share of the words of two variants that agree; 1 where they are equal."""
    if not wanted or wanted == have:
        return 1.0
    a, b = (set(re.split(r"[/_ ]+", x)) for x in (wanted, have))
    return len(a & b) / max(len(a | b), 1)


def _same_framework(wanted: str, have: str) -> bool:
    """Whether a table's framework is the one asked for, or runs its kernels, as "sarathi-serve/vLLM kernels" do vLLM's."""
    return wanted == have or wanted.lower() in re.split(r"[/ ]+", have.lower())


_GRAPHS = ("vllm", "sglang", "trtllm")
"""Stacks that launch the kernels of a step as a graph; beside them the floor of an eager launch is tens of microseconds."""


def _launched_alike(wanted: str, have: str) -> bool:
    """Whether a kernel's launch costs about the same: it is the same stack, or both launch graphs."""
    graphs = [any(_same_framework(x, name) for x in _GRAPHS) for name in (wanted, have)]
    return not wanted or _same_framework(wanted, have) or all(graphs)


def operation_of(variant: str) -> str:
    """What a variant does: its first word; kernels follow it."""
    return variant.partition(" ")[0]


def _number(version: str) -> float:
    """A version as a number that grows with it: 1.3.0rc20 -> 1.30020."""
    parts = [int(x) for x in re.findall(r"\d+", version)[:4]]
    return sum(part / 1000.0**i for i, part in enumerate(parts))
