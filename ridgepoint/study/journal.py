"""The journal of a calibration: each finished probe is a record, so that a killed calibration goes on where it stopped."""

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from ridgepoint.errors import BadInput, MachineBusy, UnknownName
from ridgepoint.store import Provenance, Record, Store, digest, new_record

__all__ = ["FRESH", "Probe", "claimed", "earlier", "keep_probe", "kept_probes", "open_run", "samples_of"]

FRESH = timedelta(hours=1)
"""Probes older than this are measured again: a machine changes."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One finished probe of a calibration: its title, what it measured and the seconds that it took."""

    title: str
    samples: Sequence[dict[str, Any]]
    seconds: float = 0.0


@contextmanager
def claimed(store: Store) -> Iterator[None]:
    """One calibration at a time by the processes that share a store; a second one gets MachineBusy at once."""
    path = store.path.with_name("calibrating.lock")
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise MachineBusy("another calibration is running with this data folder; wait until it has ended") from None
        yield


def open_run(
    store: Store, provenance: Provenance, device: str, rehearse: bool = False, fresh: bool = False, stage: str = ""
) -> Record:
    """The newest calibration of this machine, these versions and this device, if it is unfinished and began within the
    last hour, else a new one. `fresh`, and a checkout with uncommitted changes: a new one in any case."""
    what = {"device": device, "rehearse": rehearse, "stage": stage, "versions": dict(provenance.versions)}
    key = digest({**what, "machine": str(provenance.machine.get("machine_id", ""))})
    if not fresh and not str(provenance.versions.get("commit", "")).endswith("-dirty"):
        mine = [run for run in store.records(kind="calibration-run") if run.body.get("key") == key]
        if mine and _recent(mine[-1]) and not store.records(kind="calibration", study=mine[-1].id, limit=1):
            return mine[-1]
    run = new_record("calibration-run", {"key": key, "device": device}, provenance)
    store.append(run)
    return run


def _recent(run: Record) -> bool:
    return timedelta(0) <= datetime.now(UTC) - datetime.fromisoformat(run.created) < FRESH


def keep_probe(store: Store, run: Record, probe: Probe, provenance: Provenance) -> None:
    """Write a finished probe; when this returns, no kill can lose it."""
    content = {"title": probe.title, "samples": list(probe.samples), "seconds": round(probe.seconds, 3)}
    store.append(new_record("probe", content, provenance, study=run.id))


def kept_probes(store: Store, run_id: str) -> list[Probe]:
    """The finished probes of a calibration, oldest first."""
    kept = store.records(kind="probe", study=run_id)
    return [Probe(r.body["title"], r.body["samples"], r.body.get("seconds", 0.0)) for r in kept]


def samples_of(store: Store, calibration: Record) -> list[dict[str, Any]]:
    """Every sample of a finished calibration, of a stage with those of what it was joined to, and of `earlier` stages of sparse
    rows theirs as further rounds; BadInput if its probes are not in this store."""
    joined = [calibration.body.get("base"), *(calibration.body.get("beside") or [])]
    records = [*(store.get(str(id), kind="calibration") for id in joined if id), calibration]
    found = [sample for record in records for sample in _own_samples(store, record)]
    further = [id for record in records for id in record.body.get("earlier") or []]
    for turn, id in enumerate(further, 1):
        try:
            more = _own_samples(store, store.get(str(id), kind="calibration"))
        except (BadInput, UnknownName):  # further rounds are welcome, not needed
            continue
        found += [{**s, "round": s.get("round", 0) + _MANY * turn} for s in more if s["probe"] in _GATHERED]
    return found


def earlier(store: Store, run: Record, samples: Sequence[dict[str, Any]]) -> list[str]:
    """Stages of sparse rows that this machine went through in the week before `run` with the points of its `samples` and the
    same libraries, newest first.

    Gathers depend on who else uses the core, for minutes at a time, which no single stage averages: those of other hours count
    as further rounds. Each brings its own dense reference, so that they need no common base.
    """
    mine = [
        r for r in store.records(kind="calibration")
        if r.body.get("stage") == "sparse" and _like(r, run)
        and timedelta(0) <= datetime.fromisoformat(run.created) - datetime.fromisoformat(r.created) < _WEEK
    ]  # fmt: skip
    found: list[str] = []
    points = _points(samples)
    for r in reversed(mine):
        if points and _kept_points(store, r) == points and "rehearsal" not in r.body["flags"]:
            found.append(r.id)
        if r.body.get("earlier") == [] or len(found) == _MOST_EARLIER:  # it was the first, or asked to be
            break
    return found


def _like(one: Record, other: Record) -> bool:
    def what(record: Record) -> list[object]:
        versions = record.body["versions"]
        return [record.body["machine"].get("machine_id"), record.body.get("device"), versions.get("torch")]

    return what(one) == what(other)


def _kept_points(store: Store, calibration: Record) -> set[tuple[Any, ...]]:
    try:
        return _points(_own_samples(store, calibration))
    except BadInput:  # imported without its probes
        return set()


def _points(samples: Sequence[dict[str, Any]]) -> set[tuple[Any, ...]]:
    names = ("kernel", "rung", "act", "m", "n", "k", "stored", "hot", "near_bytes", "first_bytes")
    return {tuple(s.get(name) for name in names) for s in samples if s["probe"] == "sparse" and "absent" not in s}


_GATHERED = ("sparse", "sparse reference")
_WEEK = timedelta(days=7)
_MOST_EARLIER, _MANY = 5, 1000


def _own_samples(store: Store, calibration: Record) -> list[dict[str, Any]]:
    if "samples" in calibration.body:  # written before probes had records of their own
        return list(calibration.body["samples"])
    wanted = calibration.body.get("probes") or []
    here = {r.id: r.body["samples"] for r in store.records(kind="probe", study=calibration.study)} if wanted else {}
    if not wanted or not here.keys() >= set(wanted):
        raise BadInput(f"calibration {calibration.id}: its probes are not all in this store; import them with it")
    return [sample for id in wanted for sample in here[id]]
