"""Calibrate: measure this machine in a child process, keep every sample, write the target file that predictions read."""

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ridgepoint.errors import RidgeError
from ridgepoint.hardware import Target, save_target
from ridgepoint.measurement.request import CalibrationRequest
from ridgepoint.measurement.session import Session
from ridgepoint.store import Provenance, Record, Store, new_record
from ridgepoint.study.calibrate_cuda import cuda_samples
from ridgepoint.study.card import build_target

__all__ = ["EXPECTED_SAMPLES", "calibrate", "host_name", "refit"]

EXPECTED_SAMPLES = 2600
"""About how many samples a calibration yields: what a progress bar counts to."""


def calibrate(
    store: Store, provenance: Provenance, on_sample: Callable[[str, int], None], device: str = "cpu", name: str = "",
    limit_s: float = 260.0, rehearse: bool = False,
) -> tuple[Target, Path]:  # fmt: skip
    """Run all probes, store their samples as one record, fit, save `<host>.calibrated.toml`.

    Every sample is in the record: `refit` makes the same target from it again. Samples of a calibration that Ctrl-C or
    the child's death cut short (on the CPU) are kept in a record flagged "interrupted"; no target is made of them.
    `limit_s` and `rehearse` are for a GPU: the longest time that its stages may take, and a run of their code on the
    CPU whose figures mean nothing.
    """
    samples: list[dict[str, Any]] = []
    try:
        with Session() as session:
            if device == "cuda":
                samples, load = cuda_samples(on_sample, limit_s, rehearse, session)
            else:
                load = _cpu_samples(provenance.machine, on_sample, session, samples)
    except (KeyboardInterrupt, RidgeError):
        if samples:
            cut = {"samples": samples, "load": "", "device": device}
            store.append(new_record("calibration", cut, provenance, flags=("interrupted",)))
        raise
    content = {"samples": samples, "load": load, "device": device}
    record = new_record("calibration", content, provenance, flags=("rehearsal",) if rehearse else ())
    store.append(record)
    target = refit(record, name or host_name(device))
    return target, save_target(target, target.name)


def _cpu_samples(
    machine: Mapping[str, Any], on_sample: Callable[[str, int], None], session: Session, samples: list[dict[str, Any]]
) -> str:
    """Fills `samples` as they come; returns the load meanwhile."""
    request = CalibrationRequest(
        cache_sizes={k: float(v) for k, v in dict(machine.get("caches_bytes") or {}).items()},
        cores=int(machine.get("cores_usable") or 1),
    )
    load = ""
    for message in session.ask(request):
        if message["kind"] == "sample":
            samples.append(message["sample"])
            on_sample(message["title"], len(samples))
        elif message["kind"] == "done":
            load = message["load"]
    return load


def refit(record: Record, name: str) -> Target:
    """The target that a stored calibration gives with the laws of this version."""
    body: Mapping[str, Any] = record.body
    machine = dict(body["machine"])
    return build_target(
        body["samples"], name, machine, str(machine.get("machine_id", "")), record.created[:10], record.id
    )


def host_name(device: str = "cpu") -> str:
    """Name of this machine's target file."""
    host = "".join(c if c.isalnum() or c in "-_" else "-" for c in socket.gethostname().lower())[:60] or "host"
    return host if device == "cpu" else f"{host}-{device}"
