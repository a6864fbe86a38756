"""What is particular to a GPU's target: its facts, its levels, and the host's launch times, from the same samples."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import LaunchLaw, Target
from ridgepoint.prediction import step_time
from ridgepoint.prediction.launch import BETWEEN, launch_seconds
from ridgepoint.quantity import show, show_time
from ridgepoint.study.fit import robust_spread
from ridgepoint.study.net import net_plan

__all__ = ["gpu_checks", "gpu_target", "is_gpu", "usable"]

Sample = Mapping[str, Any]
_SIGMA_FLOOR = 0.05
_FACTS = ("probe", "round", "gpu_memory_bytes")


def is_gpu(samples: Sequence[Sample]) -> bool:
    """Whether these are the samples of a GPU's calibration."""
    return any(s["probe"] == "device" for s in samples)


def usable(samples: Sequence[Sample]) -> list[Sample]:
    """Without the kernels of which a stage cut short left too little for a law: a law needs two m, or both phases."""
    rows: dict[tuple[str, ...], set[Any]] = defaultdict(set)
    for s in samples:
        if s["probe"] in _KEYS:
            rows[_key(s)].add(s["m"] if s["probe"] == "linear" else s["phase"])
    # a kernel whose hot points outlived its cold ones has no row to fit either
    cold = {(*_key(s), s["m"]) for s in samples if s["probe"] == "linear" and not s["hot"]}
    kept = []
    for s in samples:
        if s["probe"] in _KEYS and len(rows[_key(s)]) < 2:
            continue
        if s["probe"] == "linear" and (*_key(s), s["m"]) not in cold:
            continue
        kept.append(s)
    return kept


_KEYS = {"linear": ("kernel", "rung", "format", "act"), "attention": ("kernel", "act")}


def _key(s: Sample) -> tuple[str, ...]:
    return (s["probe"], *(s[name] for name in _KEYS[s["probe"]]))


def gpu_target(target: Target, samples: Sequence[Sample], source: str) -> Target:
    """The target as the GPU that it is, with launch laws; rates are of the device."""
    facts = next(s for s in samples if s["probe"] == "device")
    size = {"L2": facts.get("gpu_l2_bytes") or None, "DRAM": facts.get("gpu_memory_bytes")}
    target = msgspec.structs.replace(
        target,
        kind="gpu",
        cores=None,
        memory_bytes=facts.get("gpu_memory_bytes"),
        machine={**target.machine, **{k: str(v) for k, v in facts.items() if k not in _FACTS}},
        peaks=tuple(msgspec.structs.replace(p, scope="attained, whole device, dense") for p in target.peaks),
        levels=tuple(msgspec.structs.replace(x, bytes=size.get(x.name)) for x in target.levels),
        launch=_launch_laws(samples, source),
    )
    return msgspec.structs.replace(target, launch=(*target.launch, *_between(target, samples, source)))


def _launch_laws(samples: Sequence[Sample], source: str) -> tuple[LaunchLaw, ...]:
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for s in samples:
        if s["probe"] == "launch" and s["act"]:
            groups[s["subject"], s["act"]].append(s["host_s"])
    return tuple(
        LaunchLaw(
            subject=subject, dtype=act, seconds=float(np.median(values)),
            sigma=max(_SIGMA_FLOOR, float(np.std(np.log(values)))), source=source,
        )
        for (subject, act), values in groups.items()
    )  # fmt: skip


def _between(target: Target, samples: Sequence[Sample], source: str) -> tuple[LaunchLaw, ...]:
    """What a network's host time holds beyond its operators' launches, per operator call; the median over nets."""
    cells = []
    for s in samples:
        if s["probe"] != "composed_host":
            continue
        try:
            times = step_time(net_plan(s), target).ops
        except NotSupported:  # a kernel of this net has no law: its stage was cut short
            continue
        launches = sum(float(t.op.count * launch_seconds(t, target)) for t in times)
        cells.append((s["host_s"], launches, sum(t.op.count for t in times)))
    if not cells:
        return ()
    host, launches, calls = (np.array(column) for column in zip(*cells, strict=True))
    extra = max(0.0, float(np.median((host - launches) / calls)))
    errors = np.log(host / (launches + extra * calls))
    sigma = max(_SIGMA_FLOOR, robust_spread(errors))
    return (LaunchLaw(subject=BETWEEN, dtype="", seconds=extra, sigma=sigma, source=source),)


def gpu_checks(samples: Sequence[Sample]) -> dict[str, str]:
    """Launch costs, clocks and what is absent, in words."""
    checks = {}
    eager = next((s["host_s"] for s in samples if s["probe"] == "launch" and not s["act"]), None)
    node = next((s["seconds"] for s in samples if s["probe"] == "graph_node"), None)
    if eager and node:
        checks["a tiny kernel"] = f"takes {show_time(eager)} to launch eagerly, {show_time(node)} inside a CUDA graph"
    for s in samples:
        if s["probe"] == "gpu_state" and "sm_clock_hz" in s:
            power = f", {s['power_w']:.0f} W" if "power_w" in s else ""
            checks[f"SM clock {s['when']}"] = f"{show(s['sm_clock_hz'], 'Hz')}{power}"
    absent = list(dict.fromkeys(f"{s['of']}: {s['absent']}" for s in samples if s["probe"] == "absent"))
    if absent:
        more = f"; and {len(absent) - 6} more" if len(absent) > 6 else ""
        checks["absent"] = "; ".join(absent[:6]) + more
    return checks
