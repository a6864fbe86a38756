"""Calibrate: measure this machine in a child process, keep every sample, write the target file that predictions read."""

import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ridgepoint.hardware import Target, save_target
from ridgepoint.measurement.request import CalibrationRequest
from ridgepoint.measurement.session import Session
from ridgepoint.store import Provenance, Record, Store, new_record
from ridgepoint.study.card import build_target

__all__ = ["EXPECTED_SAMPLES", "calibrate", "host_name", "refit"]

EXPECTED_SAMPLES = 2100
"""About how many samples a calibration yields: what a progress bar counts to."""


def calibrate(
    store: Store, provenance: Provenance, on_sample: Callable[[str, int], None], device: str = "cpu", name: str = ""
) -> tuple[Target, Path]:
    """Run all probes, store their samples as one record, fit, save `<host>.calibrated.toml`.

    Every sample is in the record: `refit` makes the same target from it again.
    """
    machine = provenance.machine
    request = CalibrationRequest(
        cache_sizes={k: float(v) for k, v in dict(machine.get("caches_bytes") or {}).items()},
        cores=int(machine.get("cores_usable") or 1),
        device=device,
    )
    samples: list[dict[str, Any]] = []
    load = ""
    with Session() as session:
        for message in session.ask(request):
            if message["kind"] == "sample":
                samples.append(message["sample"])
                on_sample(message["title"], len(samples))
            elif message["kind"] == "done":
                load = message["load"]
    record = new_record("calibration", {"samples": samples, "load": load, "device": device}, provenance)
    store.append(record)
    target = refit(record, name or host_name(device))
    return target, save_target(target, target.name)


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
