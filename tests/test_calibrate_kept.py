"""A calibration that is cut short keeps its finished probes and goes on; threads are not judged on a busy machine."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from ridgepoint.measurement.busy import load_between, snapshot
from ridgepoint.measurement.calibrate import run, scaling
from ridgepoint.measurement.session import ChildDied, Session
from ridgepoint.store import Provenance, Store
from ridgepoint.study import calibrate as study
from ridgepoint.study import journal

HERE = Provenance({"machine_id": "0test0target"}, {"ridgepoint": "0"}, {})
PROBES = {"clock": [1], "residency, round 1 of 2": [2, 3], "linear, round 1 of 2": [4], "threads": [5, 6, 7]}


def told(probes: dict[str, list[int]], done: tuple[str, ...]) -> list[dict]:
    """The messages of a child that measures `probes`."""
    samples = [(title, n) for title, numbers in probes.items() if title not in done for n in numbers]
    messages = [{"kind": "sample", "title": title, "sample": {"probe": "test", "n": n}} for title, n in samples]
    return [*messages, {"kind": "done", "load": "idle"}]


class Fitted(list):
    """Stands for the target: the numbers of the samples that it was fitted to."""

    name = "x"


class Child:
    """Stands for the measuring process: ends with `end` after `after` messages, once."""

    def __init__(self, after: int, end: type[BaseException]):
        self.after, self.end, self.asked = after, end, []

    def ask(self, request):
        self.asked.append(request.done)
        for number, message in enumerate(told(PROBES, request.done)):
            if len(self.asked) == 1 and number == self.after:
                raise self.end("cut")
            yield message


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RIDGEPOINT_HOME", str(tmp_path))
    monkeypatch.setattr(study, "build_target", lambda samples, *rest: Fitted([s["n"] for s in samples]))
    monkeypatch.setattr(study, "save_target", lambda target, name: Path(name))
    with Store(tmp_path / "ridge.db") as store:
        yield store


def calibrated(store: Store, **options: object) -> list[int]:
    seen: list[str] = []
    target, _ = study.calibrate(store, HERE, lambda title, done: seen.append(title), name="x", **options)
    return target


@pytest.fixture
def child(request, monkeypatch):
    child = Child(*request.param)
    monkeypatch.setattr(Session, "ask", child.ask)
    return child


CUTS = [(after, end) for after in (1, 2, 4, 6) for end in (KeyboardInterrupt, ChildDied)]


@pytest.mark.parametrize("child", CUTS, indirect=True)
def test_the_same_command_goes_on_with_the_probes_that_are_not_finished(store, child):
    with pytest.raises(child.end):
        calibrated(store)
    kept = [p.title for p in journal.kept_probes(store, store.records(kind="calibration-run")[0].id)]
    starts = [sum(len(numbers) for numbers in list(PROBES.values())[:i]) for i in range(len(PROBES))]
    finished = [t for t, start in zip(PROBES, starts, strict=True) if start + len(PROBES[t]) < child.after]
    assert kept == finished, "each finished probe is a record, and no other"
    assert calibrated(store) == [1, 2, 3, 4, 5, 6, 7]
    assert child.asked == [(), tuple(finished)]
    (record,) = store.records(kind="calibration")
    assert record.body["flags"] == (["resumed"] if finished else [])


@pytest.mark.parametrize("child", [(4, KeyboardInterrupt)], indirect=True)
@pytest.mark.parametrize("change", ["fresh", "old", "versions", "machine", "device"])
def test_probes_of_another_time_machine_or_version_are_measured_again(store, child, change, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        calibrated(store)
    if change == "old":
        monkeypatch.setattr(journal, "FRESH", timedelta(0))
    here = {
        "versions": replace(HERE, versions={"ridgepoint": "1"}), "machine": replace(HERE, machine={"machine_id": "other"}),
    }.get(change, HERE)  # fmt: skip
    run = journal.open_run(store, here, "cuda" if change == "device" else "cpu", fresh=change == "fresh")
    assert journal.kept_probes(store, run.id) == []


@pytest.mark.parametrize("child", [(99, KeyboardInterrupt)], indirect=True)
def test_a_finished_calibration_is_not_gone_on_with(store, child):
    assert calibrated(store) == calibrated(store)
    assert child.asked == [(), ()]
    assert [r.body["flags"] for r in store.records(kind="calibration")] == [[], []]


def test_a_calibration_stored_with_its_samples_can_still_be_fitted(store):
    from ridgepoint.store import new_record

    old = new_record("calibration", {"samples": [{"n": 8}], "load": "", "device": "cpu"}, HERE)
    store.append(old)
    assert study.refit(store, old, "x") == [8]


def test_done_probes_are_left_out_and_the_rest_is_the_same(monkeypatch):
    def probes(settings, linear, nets):
        for title in ("a", "b", "c"):
            yield title, 0, iter([{"probe": title, "n": i} for i in range(2)])

    monkeypatch.setattr(run, "_probes", probes)
    settings = run.Settings({}, 1)
    whole = list(run.samples(settings))
    assert [title for title, _ in whole] == ["a", "a", "b", "b", "c", "c"]
    assert list(run.samples(settings, ("a", "c"))) == [pair for pair in whole if pair[0] == "b"]


def test_a_second_round_stops_at_its_limit_and_a_first_one_never(monkeypatch):
    def probes(settings, linear, nets):
        for number in range(2):
            for title in ("a", "b"):
                yield f"{title} {number}", number, iter([{"probe": title}])
        yield "threads", 0, iter([{"probe": "threads"}])

    monkeypatch.setattr(run, "_probes", probes)
    titles = [title for title, _ in run.samples(run.Settings({}, 1, limit_s=-1.0))]
    assert titles == ["a 0", "b 0", "threads"]


@pytest.mark.slow
def test_sigkill_of_a_real_calibration_loses_no_finished_probe(tmp_path):
    environment = {**os.environ, "RIDGEPOINT_HOME": str(tmp_path)}
    command = [sys.executable, "-c", "from ridgepoint.cli import main; main()", "calibrate", "--name", "killed"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as ridge:
        for _ in range(1200):
            time.sleep(0.1)
            if (tmp_path / "ridge.db").is_file() and len(titles(tmp_path)) >= 5:
                break
        ridge.send_signal(signal.SIGKILL)
    before = titles(tmp_path)
    assert len(before) >= 5 and not list(tmp_path.glob("**/*.toml"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    after = titles(tmp_path)
    assert after[: len(before)] == before and len(after) == len(set(after)), "nothing was measured twice"
    assert list(tmp_path.glob("**/killed*.toml"))


def titles(home: Path) -> list[str]:
    with Store(home / "ridge.db") as store:
        return [r.body["title"] for r in store.records(kind="probe")]


@pytest.mark.parametrize(("other_cores", "absent"), [(0.0, False), (1.2, True), (None, False)])
def test_thread_scaling_is_judged_by_the_load_of_the_whole_probe(other_cores, absent, monkeypatch):
    load = replace(load_between(snapshot(), snapshot()), other_cores=other_cores)
    monkeypatch.setattr(scaling, "load_between", lambda before, after: load)
    found = list(scaling.scaling_samples((), 2, 1e6, 0.001))
    assert {s["subject"] for s in found} == {"attention", "pointwise"}
    assert all(("absent" in s) == absent and s["speedup"] > 0 for s in found)
