"""The journal of a calibration: each finished probe is a record, so that a killed calibration goes on where it stopped."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ridgepoint.store import Provenance, Record, Store, digest, new_record

__all__ = ["FRESH", "Probe", "keep_probe", "kept_probes", "open_run", "samples_of"]

FRESH = timedelta(hours=1)
"""Probes older than this are measured again: a machine changes."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One finished probe of a calibration: its title and what it measured."""

    title: str
    samples: Sequence[dict[str, Any]]


def open_run(store: Store, provenance: Provenance, device: str, fresh: bool = False) -> Record:
    """The unfinished calibration of this machine, these versions and this device, if it began within the last hour,
    else a new one. `fresh`: a new one in any case."""
    key = digest({"machine": str(provenance.machine.get("machine_id", "")), "versions": dict(provenance.versions)})
    for run in () if fresh else reversed(store.records(kind="calibration-run")):
        if not _recent(run):
            break
        mine = run.body.get("key") == key and run.body.get("device") == device
        if mine and not store.records(kind="calibration", study=run.id, limit=1):
            return run
    run = new_record("calibration-run", {"key": key, "device": device}, provenance)
    store.append(run)
    return run


def _recent(run: Record) -> bool:
    return datetime.now(UTC) - datetime.fromisoformat(run.created) < FRESH


def keep_probe(store: Store, run: Record, probe: Probe, provenance: Provenance) -> None:
    """Write a finished probe; when this returns, no kill can lose it."""
    content = {"title": probe.title, "samples": list(probe.samples)}
    store.append(new_record("probe", content, provenance, study=run.id))


def kept_probes(store: Store, run_id: str) -> list[Probe]:
    """The finished probes of a calibration, oldest first."""
    return [Probe(r.body["title"], r.body["samples"]) for r in store.records(kind="probe", study=run_id)]


def samples_of(store: Store, calibration: Record) -> list[dict[str, Any]]:
    """Every sample of a finished calibration."""
    if "samples" in calibration.body:  # written before probes had records of their own
        return list(calibration.body["samples"])
    return [s for probe in kept_probes(store, calibration.study) for s in probe.samples]
