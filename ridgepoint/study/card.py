"""From the samples of a calibration to a target file: laws, levels, peaks, corrections and self-checks."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import Correction, Level, Peak, Target
from ridgepoint.hardware.target import SCHEMA
from ridgepoint.prediction import step_time
from ridgepoint.study.card_gpu import gpu_checks, gpu_target, is_gpu, usable
from ridgepoint.study.context import with_context
from ridgepoint.study.context_modules import with_module_context
from ridgepoint.study.fit import (
    cold_code,
    fit_attention,
    fit_linear,
    fit_pointwise,
    fit_residency,
    fit_scaling,
    merge_rounds,
    robust_spread,
)
from ridgepoint.study.fit_cache import fit_code_residency, with_displacement
from ridgepoint.study.fit_compiled import with_compiled
from ridgepoint.study.fit_modules import with_modules
from ridgepoint.study.fit_sparse import beside_dense, fit_sparse
from ridgepoint.study.fit_training import with_training
from ridgepoint.study.net import net_plan
from ridgepoint.study.repeats import repeat_sigma
from ridgepoint.workload import Linear, arithmetic_dtype

__all__ = ["build_target"]

Sample = Mapping[str, Any]
_COMPOSED_SIGMA_FLOOR = 0.02


def build_target(
    samples: Sequence[Sample], name: str, machine: Mapping[str, Any], machine_id: str, date: str, record: str
) -> Target:
    """The calibrated target that the samples describe; `record` is the id under which they are stored."""
    source = "calibration"
    raw = samples
    samples, repeats = merge_rounds(raw)
    gpu = is_gpu(samples)
    samples = usable(samples) if gpu else samples
    dense = fit_linear(samples, source)
    if any(s["probe"] == "sparse" for s in samples):
        samples, repeats = merge_rounds(beside_dense(raw, dense))
    target = Target(
        schema=SCHEMA,
        name=name,
        kind="cpu",
        date=date,
        machine={k: str(v) for k, v in machine.items() if isinstance(v, str | int | float)},
        machine_id=machine_id,
        cores=machine.get("cores_usable"),
        memory_bytes=machine.get("memory_total_bytes"),
        peaks=_peaks(samples, source),
        levels=_levels(samples, machine.get("caches_bytes") or {}, source),
        linear=with_displacement((*dense, *fit_sparse(samples, source)), samples),
        attention=fit_attention(samples, source),
        pointwise=fit_pointwise(samples, source),
        scaling=fit_scaling(samples, source),
        residency=fit_residency(samples, source),
        code_residency=fit_code_residency(samples, source),
        sources={source: f"ridge calibrate, record {record}, {date}"},
    )
    target = gpu_target(target, samples, source) if gpu else with_modules(target, samples, source)
    target = _with_cold_code(target, cold_code(samples))
    if gpu:
        target = _with_correction(target, samples, source)
    else:
        target = with_module_context(with_context(target, samples, source), samples)
        target = with_training(with_compiled(target, samples, source), samples, source)
    checks = {**_checks(target, samples, repeats), **gpu_checks(samples)}
    between = repeat_sigma(raw)
    if between is not None:
        checks["visits to a network"] = f"{100 * between:.0f} % apart (standard deviation of one)"
    return msgspec.structs.replace(target, checks=checks, repeat_sigma=between)


def _with_cold_code(target: Target, extra: Mapping[tuple[str, str], tuple[float, float]]) -> Target:
    change = msgspec.structs.replace

    def of(subject: str, act: str) -> tuple[float, float]:
        return extra.get((subject, act), (0.0, 0.0))

    return change(
        target,
        linear=tuple(change(x, cold_code_s=of(x.format, x.act)[0]) for x in target.linear),
        attention=tuple(change(x, cold_code_s=of("attention", x.dtype)[0]) for x in target.attention),
        pointwise=tuple(
            change(x, cold_code_s=call, cold_element_s=element)
            for x in target.pointwise
            for call, element in (of(x.kind, x.dtype),)
        ),
    )


def _peaks(samples: Sequence[Sample], source: str) -> tuple[Peak, ...]:
    return tuple(
        Peak(dtype=s["dtype"], flops_per_s=s["flops_per_s"], scope="attained, one thread, dense", source=source)
        for s in samples
        if s["probe"] == "peak"
    )


def _levels(samples: Sequence[Sample], cache_sizes: Mapping[str, float], source: str) -> tuple[Level, ...]:
    return tuple(
        Level(
            name=s["level"],
            bytes=cache_sizes.get(s["level"]),
            threads=s["threads"],
            read_bytes_per_s=s["read_bytes_per_s"],
            copy_bytes_per_s=s["copy_bytes_per_s"],
            source=source,
        )
        for s in samples
        if s["probe"] == "bandwidth" and "absent" not in s
    )


def _with_correction(target: Target, samples: Sequence[Sample], source: str) -> Target:
    """What networks add to the sum of their operators: a cost per call for all, a factor per kernel.

    measured = factor x linear layers + the rest + per_call x calls. The cost per call is shared by all sides and
    fitted first (as the median over sides of a two-parameter fit), then each kernel's factor with it held fixed.
    """
    cells = [c for s in samples if s["probe"] == "composed" and "absent" not in s and (c := _cell(target, s))]
    if not cells:
        return target
    sides = sorted({c["key"] for c in cells})
    slopes = [_per_call([c for c in cells if c["key"] == side]) for side in sides]
    per_call = max(0.0, float(np.median(slopes)))
    factors, residuals = {}, []
    for side in sides:
        mine = [c for c in cells if c["key"] == side]
        wanted = [(c["seconds"] - c["rest"] - per_call * c["calls"]) / c["linear"] for c in mine]
        factor = float(np.clip(np.median(wanted), 0.7, 1.6))
        errors = [np.log(c["seconds"] / (factor * c["linear"] + c["rest"] + per_call * c["calls"])) for c in mine]
        factors[side] = (factor, max(_COMPOSED_SIGMA_FLOOR, robust_spread(errors)))
        residuals.extend(errors)
    laws = tuple(
        msgspec.structs.replace(law, composed=factors[key][0], sigma_composed=factors[key][1])
        if (key := (law.format, law.act)) in factors
        else law
        for law in target.linear
    )
    correction = Correction(per_call_s=per_call, sigma=max(0.03, robust_spread(residuals)), source=source)
    return msgspec.structs.replace(target, linear=laws, correction=correction)


def _cell(target: Target, sample: Sample) -> dict[str, Any] | None:
    """What the net took beside what its operators add up to; None where one of them has no law (a stage cut short)."""
    plan = net_plan(sample)
    try:
        time = step_time(plan, target)
    except NotSupported:
        return None
    quantised = next((op for op in plan.ops if isinstance(op, Linear) and op.weight != op.dtype), None)
    key = (quantised.weight if quantised else plan.dtype, plan.dtype)
    linear = sum(float(t.seconds) for t in time.ops if isinstance(t.op, Linear) and t.op.weight == key[0])
    return {
        "key": key, "seconds": sample["seconds"], "linear": linear, "rest": float(time.device_s) - linear,
        "calls": sum(t.op.count for t in time.ops),
    }  # fmt: skip


def _per_call(cells: Sequence[Mapping[str, Any]]) -> float:
    """Seconds per call of the two-parameter fit (factor, per call) in relative error."""
    matrix = np.array([[c["linear"] / c["seconds"], c["calls"] / c["seconds"]] for c in cells])
    wanted = np.array([(c["seconds"] - c["rest"]) / c["seconds"] for c in cells])
    solution, *_ = np.linalg.lstsq(matrix, wanted, rcond=None)
    return float(solution[1])


def _checks(target: Target, samples: Sequence[Sample], repeats: Sequence[float]) -> dict[str, str]:
    """Self-checks in words: doubled work, nothing above the roof, agreement of repeated points, clocks."""
    doubled = [s["seconds_twice"] / s["seconds"] for s in samples if s["probe"] == "peak"]
    checks = {}
    if doubled:
        worst = max(doubled, key=lambda x: abs(x - 2))
        checks["twice the work"] = f"takes {worst:.2f}x the time at worst (2.00 expected)"
    above = _above_roof(target, samples)
    checks["nothing above the roof"] = (
        above or "no linear sample is faster than the attained peak of its dtype by more than 10 %"
    )
    if repeats:
        apart = float(np.median(np.abs(np.log(repeats))))
        checks["two runs agree"] = f"within {100 * apart:.1f} % at the median over {len(repeats)} points, 5 % wanted"
    late = sum(s["probe"] == "left out" for s in samples)
    if late:
        checks["rounds"] = f"{late} probes of later rounds were left out: they are slow here, or time was up"
    lost = [f"{s['of']} ({s['absent']})" for s in samples if s["probe"] == "absent" and not is_gpu(samples)]
    if lost:
        checks["left out"] = "; ".join(lost)
    if several := [s["absent"] for s in samples if s["probe"] in ("scaling", "bandwidth") and "absent" in s]:
        checks["threads"] = f"no figures for several: {several[0]}"
    for s in samples:
        if s["probe"] == "clock":
            checks[f"clock {s['clock']}"] = (
                f"resolves {s['resolution_s'] * 1e9:.0f} ns, a call costs {s['call_s'] * 1e9:.0f} ns"
            )
    return checks


def _above_roof(target: Target, samples: Sequence[Sample]) -> str:
    peaks = {p.dtype: p.flops_per_s for p in target.peaks}
    for s in samples:
        if s["probe"] != "linear" or "absent" in s:
            continue
        dtype = arithmetic_dtype(s["format"], s["act"])
        rate = 2.0 * s["m"] * s["n"] * s["k"] / s["seconds"]
        if dtype in peaks and rate > 1.1 * peaks[dtype]:
            return f"{s['kernel']} m={s['m']} n={s['n']} k={s['k']} reaches {rate / peaks[dtype]:.2f}x the attained {dtype} peak"
    return ""
