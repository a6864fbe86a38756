"""Calibrate: measure this machine in a child process, keep every probe, write the target file that predictions read."""

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ridgepoint.hardware import Target, save_target
from ridgepoint.measurement.request import CalibrationRequest
from ridgepoint.measurement.session import ChildDied, Session
from ridgepoint.store import Provenance, Record, Store, new_record
from ridgepoint.study.calibrate_cuda import cuda_probes
from ridgepoint.study.card import build_target
from ridgepoint.study.journal import Probe, claimed, earlier, keep_probe, kept_probes, open_run, samples_of

__all__ = ["EXPECTED_SAMPLES", "calibrate", "host_name", "refit"]

EXPECTED_SAMPLES = 4600
"""About how many samples a calibration yields: what a progress bar counts to."""

OnSample = Callable[[str, int], None]


def calibrate(
    store: Store, provenance: Provenance, on_sample: OnSample, device: str = "cpu", name: str = "",
    limit_s: float = 260.0, rehearse: bool = False, fresh: bool = False, stage: str = "",
) -> tuple[Target, Path]:  # fmt: skip
    """Run all probes, each a record as soon as it is finished; fit; save `<host>.calibrated.toml`.

    A calibration that was killed or interrupted goes on with the probes that it has not finished, within an hour and
    unless `fresh`; MachineBusy if another one is running. `refit` makes the same target from the stored probes again.
    `limit_s` and `rehearse` are for a GPU: the longest time that its stages may take, and a run of their code on the
    CPU whose figures mean nothing. `stage` "modules" measures what modules beyond decoders are made of, "compile" what
    torch.compile costs; each is joined to the newest calibration of this machine, which is made first where there is none,
    and to the other stages that were joined to the same ("ort": ONNX Runtime's linear layers; "train": the
    operators of a training step; "kv": quantised KV caches; "sparse": sparse rows, to which the rounds of this machine's earlier
    ones are added unless `fresh`).
    """
    with claimed(store):
        base = None
        if stage:
            base = _newest(store, provenance, device)
            if base is None:
                _calibrate(store, provenance, on_sample, device, name, limit_s, rehearse, fresh)
                base = _newest(store, provenance, device)
        return _calibrate(store, provenance, on_sample, device, name, limit_s, rehearse, fresh, stage, base)


def _newest(store: Store, provenance: Provenance, device: str) -> Record | None:
    """The newest whole calibration of this machine and device."""
    mine = [
        r for r in store.records(kind="calibration")
        if r.body.get("device", "cpu") == device and not r.body.get("stage")
        and r.body["machine"].get("machine_id") == provenance.machine.get("machine_id")
    ]  # fmt: skip
    return mine[-1] if mine else None


def _beside(store: Store, base: Record, stage: str) -> list[str]:
    """The newest record of every other stage that was joined to `base`."""
    newest: dict[str, str] = {}
    for r in store.records(kind="calibration"):
        if r.body.get("base") == base.id and r.body["stage"] != stage:
            newest[r.body["stage"]] = r.id
    return list(newest.values())


def _calibrate(
    store: Store, provenance: Provenance, on_sample: OnSample, device: str, name: str,
    limit_s: float, rehearse: bool, fresh: bool, stage: str = "", base: Record | None = None,
) -> tuple[Target, Path]:  # fmt: skip
    run = open_run(store, provenance, device, rehearse, fresh, stage)
    kept = kept_probes(store, run.id)
    count = sum(len(p.samples) for p in kept)
    if kept:
        on_sample(f"going on after {len(kept)} kept probes", count)

    def sampled(title: str) -> None:
        nonlocal count
        count += 1
        on_sample(title, count)

    done, loads = {p.title: p.seconds for p in kept}, list[str]()
    with Session() as session:
        if device == "cuda":
            probes = cuda_probes(session, sampled, tuple(done), loads, limit_s, rehearse)
        else:
            probes = _cpu_probes(session, sampled, done, loads, provenance.machine, stage)
        for probe in probes:
            keep_probe(store, run, probe, provenance)
    flags = [*(["rehearsal"] if rehearse else []), *(["resumed"] if kept else [])]
    finished = store.records(kind="probe", study=run.id)
    content = {"load": "; ".join(loads), "device": device, "probes": [r.id for r in finished]}
    if base is not None:
        content |= {"stage": stage, "base": base.id, "beside": _beside(store, base, stage)}
    if stage == "sparse":
        samples = [s for r in finished for s in r.body["samples"]]
        content |= {"earlier": [] if fresh else earlier(store, run, samples)}
    record = new_record("calibration", content, provenance, study=run.id, flags=flags)
    store.append(record)
    target = refit(store, record, name or host_name(device))
    return target, save_target(target, target.name)


def _cpu_probes(
    session: Session, sampled: Callable[[str], None], done: Mapping[str, float], loads: list[str],
    machine: Mapping[str, Any], stage: str,
) -> Iterator[Probe]:  # fmt: skip
    """Each probe that is not done, as soon as it is finished; the load meanwhile is appended to `loads`.

    A probe that kills its process is an `absent` sample, and a new process goes on with the next.
    """
    sizes = {k: float(v) for k, v in dict(machine.get("caches_bytes") or {}).items()}
    took, title, begin = dict(done), "", 0.0
    while True:
        samples: list[dict[str, Any]] = []
        cores = int(machine.get("cores_usable") or 1)
        request = CalibrationRequest(cache_sizes=sizes, cores=cores, done=took, stage=stage)
        try:
            for message in session.ask(request):
                match message["kind"]:
                    case "begin":
                        title, samples, begin = message["title"], [], time.monotonic()
                    case "sample":
                        samples.append(message["sample"])
                        sampled(title)
                    case "end":
                        took[title] = time.monotonic() - begin
                        yield Probe(title, samples, took[title])
                        title = ""
                    case _:
                        loads.append(message["load"])
            return
        except ChildDied as error:
            if not title:
                raise
            took[title] = time.monotonic() - begin
            yield Probe(title, [{"probe": "absent", "of": title, "absent": str(error)}], took[title])
            title = ""


def refit(store: Store, record: Record, name: str) -> Target:
    """The target that a stored calibration gives with the laws of this version."""
    machine = dict(record.body["machine"])
    return build_target(
        samples_of(store, record), name, machine, str(machine.get("machine_id", "")), record.created[:10], record.id
    )


def host_name(device: str = "cpu") -> str:
    """Name of this machine's target file."""
    host = "".join(c if c.isalnum() or c in "-_" else "-" for c in socket.gethostname().lower())[:60] or "host"
    return host if device == "cpu" else f"{host}-{device}"
