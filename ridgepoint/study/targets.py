"""What is known of each target: its figures in one line, and how far predictions for it were ever checked."""

from dataclasses import dataclass

from ridgepoint.errors import RidgeError
from ridgepoint.hardware import Target, arch_names, load_arch, load_target, target_names

__all__ = ["TargetLine", "checked_words", "target_lines"]


@dataclass(frozen=True, slots=True)
class TargetLine:
    """One target of the list; absent figures are None."""

    name: str
    kind: str
    arch: str
    release: str
    sm_count: float | None
    memory_bytes: float | None
    dram_bytes_per_s: float | None
    flops_per_s: float | None
    """Of the half-precision matrix units, dense."""
    tdp_w: float | None
    checked: str


def target_lines() -> list[TargetLine]:
    """All targets, calibrated machines of the user first, then by class and name; unreadable files are left to
    `ridge targets NAME` to refuse."""
    lines = []
    for name in target_names():
        try:
            lines.append(_line(name, load_target(name)))
        except RidgeError:
            lines.append(TargetLine(name, "", "", "", None, None, None, None, None, "its file cannot be read"))
    return sorted(lines, key=lambda x: (x.arch != "", x.kind, x.arch, x.name))


def _line(name: str, target: Target) -> TargetLine:
    dram = next((x for x in target.levels if x.name == "DRAM" and x.read_bytes_per_s is not None), None)
    peaks = {(p.dtype, p.unit): p.flops_per_s for p in target.peaks if not p.sparse}
    half = (peaks.get((d, u)) for d in ("bf16", "fp16") for u in ("tensor", "", "vector"))
    return TargetLine(
        name, target.kind, target.arch, next((f.text for f in target.facts if f.name == "release"), ""),
        target.figure("sm_count") or target.cores, target.memory_bytes, dram.read_bytes_per_s if dram else None,
        next((x for x in half if x is not None), None), target.figure("tdp_w"), checked_words(target),
    )  # fmt: skip


def checked_words(target: Target) -> str:
    """How far predictions for the target were checked: calibrated here, measured tables of it, of its class, or never."""
    if not target.arch:
        return "calibrated"
    arch = load_arch(target.arch) if target.arch in arch_names() else None
    if arch is None or not arch.fits:
        return "datasheet, never validated"
    of_it = sorted({fit.operator for fit in arch.fits if target.name in fit.gpus})
    if of_it:
        return f"measured: {', '.join(of_it)}"
    others = sorted({gpu for fit in arch.fits for gpu in fit.gpus})
    return f"never validated; its class was, on {', '.join(others)}"
