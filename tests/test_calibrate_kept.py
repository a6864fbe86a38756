"""A calibration that is cut short keeps its finished probes and goes on; threads are not judged on a busy machine."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from ridgepoint.errors import BadInput, MachineBusy
from ridgepoint.measurement.busy import load_between, snapshot
from ridgepoint.measurement.calibrate import run, scaling
from ridgepoint.measurement.session import ChildDied, Session
from ridgepoint.store import Provenance, Store, new_record
from ridgepoint.study import calibrate as study
from ridgepoint.study import journal
from ridgepoint.study.provenance import provenance

HERE = Provenance({"machine_id": "0test0target"}, {"ridgepoint": "0"}, {})
PROBES = {"clock": [1], "residency, round 1 of 2": [2, 3], "linear, round 1 of 2": [4], "threads": [5, 6, 7]}


def told(probes: dict[str, list[int]], done: dict[str, float], probe: str = "test") -> list[dict]:
    """The messages of a child that measures `probes`."""
    messages: list[dict] = []
    for title, numbers in probes.items():
        if title not in done:
            samples = [{"kind": "sample", "title": title, "sample": {"probe": probe, "n": n}} for n in numbers]
            messages += [{"kind": "begin", "title": title}, *samples, {"kind": "end", "title": title}]
    return [*messages, {"kind": "done", "load": "idle"}]


class Yesterday(datetime):
    """A clock that was set back."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) - timedelta(days=1)


class Fitted(list):
    """Stands for the target: the numbers of the samples that it was fitted to."""

    name = "x"


class Child:
    """Stands for the measuring process: ends with `end` after `after` messages, once."""

    def __init__(self, after: int, end: type[BaseException]):
        self.after, self.end, self.asked = after, end, []

    def ask(self, request):
        self.asked.append(tuple(request.done))
        for number, message in enumerate(told(PROBES, request.done, request.stage or "test")):
            if len(self.asked) == 1 and number == self.after:
                raise self.end("cut")
            yield message


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("RIDGEPOINT_HOME", str(tmp_path))
    monkeypatch.setattr(study, "build_target", lambda samples, *rest: Fitted([s["n"] for s in samples if "n" in s]))
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


FINISHED = {0: 0, 2: 0, 3: 1, 6: 1, 7: 2, 10: 3, 14: 3, 15: 4}
"""Messages that arrive before the cut: probes whose end was among them."""


@pytest.mark.parametrize("child", [(after, KeyboardInterrupt) for after in FINISHED], indirect=True)
def test_the_same_command_goes_on_with_the_probes_that_are_not_finished(store, child):
    with pytest.raises(child.end):
        calibrated(store)
    kept = [p.title for p in journal.kept_probes(store, store.records(kind="calibration-run")[0].id)]
    finished = list(PROBES)[: FINISHED[child.after]]
    assert kept == finished, "each finished probe is a record, and no other"
    assert calibrated(store) == [1, 2, 3, 4, 5, 6, 7]
    assert child.asked == [(), tuple(finished)]
    (record,) = store.records(kind="calibration")
    assert record.body["flags"] == (["resumed"] if finished else [])


@pytest.mark.parametrize("child", [(7, ChildDied)], indirect=True)
def test_a_probe_that_kills_its_process_is_left_out_and_the_rest_goes_on(store, child):
    child.after = 4  # between the begin and the end of the second probe
    assert calibrated(store) == [1, 4, 5, 6, 7]
    assert child.asked == [(), ("clock", "residency, round 1 of 2")]
    (record,) = store.records(kind="calibration")
    absent = [s for s in journal.samples_of(store, record) if s.get("probe") == "absent"]
    assert absent == [{"probe": "absent", "of": "residency, round 1 of 2", "absent": "cut"}]


@pytest.mark.parametrize("child", [(0, ChildDied)], indirect=True)
def test_a_child_that_dies_before_its_first_probe_is_an_error(store, child):
    with pytest.raises(ChildDied):
        calibrated(store)


@pytest.mark.parametrize("child", [(7, KeyboardInterrupt)], indirect=True)
def test_an_abandoned_run_does_not_come_back_after_a_finished_one(store, child):
    with pytest.raises(KeyboardInterrupt):
        calibrated(store)
    calibrated(store, fresh=True)
    assert calibrated(store) == [1, 2, 3, 4, 5, 6, 7]
    assert child.asked == [(), (), ()]


@pytest.mark.parametrize("child", [(99, KeyboardInterrupt)], indirect=True)
def test_two_calibrations_do_not_share_a_machine(store, child):
    with journal.claimed(store), pytest.raises(MachineBusy, match="another calibration"):
        calibrated(store)
    assert calibrated(store) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("child", [(99, KeyboardInterrupt)], indirect=True)
def test_a_calibration_without_its_probes_is_not_fitted(store, child, tmp_path):
    calibrated(store)
    (record,) = store.records(kind="calibration")
    with Store(tmp_path / "other.db") as other:
        other.append(record)
        with pytest.raises(BadInput, match="probes are not all in this store"):
            study.refit(other, record, "x")


@pytest.mark.parametrize("child", [(7, KeyboardInterrupt)], indirect=True)
@pytest.mark.parametrize("change", ["fresh", "old", "future", "dirty", "versions", "machine", "device", "rehearse"])
def test_probes_of_another_time_machine_or_version_are_measured_again(store, child, change, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        calibrated(store)
    if change == "old":
        monkeypatch.setattr(journal, "FRESH", timedelta(0))
    if change == "future":
        monkeypatch.setattr(journal, "datetime", Yesterday)
    here = {
        "dirty": replace(HERE, versions={"ridgepoint": "0", "commit": "0123-dirty"}),
        "versions": replace(HERE, versions={"ridgepoint": "1"}), "machine": replace(HERE, machine={"machine_id": "other"}),
    }.get(change, HERE)  # fmt: skip
    device = "cuda" if change == "device" else "cpu"
    run = journal.open_run(store, here, device, rehearse=change == "rehearse", fresh=change == "fresh")
    assert journal.kept_probes(store, run.id) == []


@pytest.mark.parametrize("child", [(99, KeyboardInterrupt)], indirect=True)
def test_a_finished_calibration_is_not_gone_on_with(store, child):
    assert calibrated(store) == calibrated(store)
    assert child.asked == [(), ()]
    assert [r.body["flags"] for r in store.records(kind="calibration")] == [[], []]


def test_a_calibration_stored_with_its_samples_can_still_be_fitted(store):
    old = new_record("calibration", {"samples": [{"n": 8}], "load": "", "device": "cpu"}, HERE)
    store.append(old)
    assert study.refit(store, old, "x") == [8]


def test_done_probes_are_left_out_and_the_rest_is_the_same(monkeypatch):
    def probes(settings, linear, nets):
        for title in ("a", "b", "c"):
            yield title, 0, iter([{"probe": title, "n": i} for i in range(2)])

    monkeypatch.setattr(run, "_probes", probes)
    settings = run.Settings({}, 1)
    whole = [(title, list(samples)) for title, samples in run.probes(settings)]
    assert [title for title, _ in whole] == ["a", "b", "c"] and whole[0][1][1] == {"probe": "a", "n": 1, "round": 0}
    assert [(title, list(samples)) for title, samples in run.probes(settings, {"a": 0.1, "c": 0.1})] == whole[1:2]


def test_a_second_round_stops_at_its_limit_and_a_first_one_never(monkeypatch):
    def probes(settings, linear, nets):
        for number in range(2):
            for title in ("a", "b"):
                yield f"{title} {number}", number, iter([{"probe": title}])
        yield "threads", 0, iter([{"probe": "threads"}])

    monkeypatch.setattr(run, "_probes", probes)
    settings = run.Settings({}, 1, limit_s=-1.0, later_share=-2.0)
    found = [(title, [s["probe"] for s in samples]) for title, samples in run.probes(settings)]
    left_out = [("a 1", ["left out"]), ("b 1", ["left out"])]
    assert found == [("a 0", ["a"]), ("b 0", ["b"]), *left_out, ("threads", ["threads"])]


def test_probes_that_are_slow_on_this_machine_leave_later_rounds_to_the_others(monkeypatch):
    """The first round took 106 s: the others have 0.4 of it, and the probe that took 100 of them has no second round."""
    now, cost = [0.0], {"a": 100.0, "b": 6.0, "c": 0.0}

    def visit(title):
        now[0] += cost[title]
        yield {"probe": title}

    def probes(settings, linear, nets):
        for number in range(10):
            for title in cost:
                yield f"{title}, round {number + 1} of 10", number, visit(title)

    def kept(done=None, **settings):
        rounds = [(title, list(x)) for title, x in run.probes(run.Settings({}, 1, limit_s=76.0, **settings), done)]
        return [title[0] for title, samples in rounds if samples[0]["probe"] != "left out"]

    monkeypatch.setattr(run, "_probes", probes)
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    assert kept() == ["a", "b", "c", *"bc" * 7, "b"], "148.4 s are over after eight more visits"
    assert kept(stage="sparse") == ["a", "b", "c", "a"], "a stage has probes of its own, which are what it is for"
    first = {f"{title}, round 1 of 10": seconds for title, seconds in cost.items()}
    assert kept(first) == [*"bc" * 7, "b"], "a resumed one knows what was slow, and how long the first round took"


@pytest.mark.slow
def test_sigkill_of_a_real_calibration_loses_no_finished_probe(tmp_path):
    if str(provenance().versions.get("commit", "")).endswith("-dirty"):
        pytest.skip("a checkout with uncommitted changes begins every calibration anew")
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


def test_a_kernel_without_instructions_is_measured_at_few_rows(monkeypatch):
    pytest.importorskip("torch")
    from ridgepoint.measurement.calibrate import linear
    from ridgepoint.measurement.calibrate.grid import LinearProbe

    monkeypatch.setattr(linear, "LINEAR_SHAPES", ((320, 640), (640, 320)))
    bench = linear.LinearBench(LinearProbe("fp32", "dense", "fp32", (1, 16, 64)), 1e5)
    assert {s["m"] for s in bench.samples(1e-4)} == {1, 16, 64}
    monkeypatch.setattr(linear, "_SLOW_S", 0.0)
    for _ in range(2):
        assert {s["m"] for s in bench.samples(1e-4)} == {1, 16}, "and stays so in later rounds"


def test_a_step_that_would_take_too_long_is_left_out_of_a_network(monkeypatch):
    pytest.importorskip("torch")
    from ridgepoint.measurement.calibrate import composed

    net = composed.ComposedNet(64, 128, 1, 2, 1, 256, (1, 4), 16, prefills=((1, 3), (2, 8)))
    monkeypatch.setattr(composed, "COMPOSED", (net,))
    bench = composed.ComposedBench("fp32")

    def rows():
        return [(s["batch"], s["new"]) for s in bench.samples(1e-4, 512)]

    assert rows() == [(1, 1), (1, 3), (4, 1), (2, 8)]
    monkeypatch.setattr(composed, "_TOO_LONG_S", 0.0)
    assert rows() == [(1, 1)]


@pytest.mark.parametrize("child", [(99, KeyboardInterrupt)], indirect=True)
def test_a_stage_of_sparse_rows_names_those_before_it(store, child):
    ones = list(range(1, 8))
    assert calibrated(store, stage="sparse") == [*ones, *ones], "its base and itself"
    assert calibrated(store, stage="sparse") == [*ones, *ones, *ones], "and the one before"
    assert calibrated(store, stage="sparse", fresh=True) == [*ones, *ones]
    first, second, anew = (r for r in store.records(kind="calibration") if r.body.get("stage"))
    assert [r.body["earlier"] for r in (first, second, anew)] == [[], [first.id], []]


@pytest.mark.parametrize("child", [(10, KeyboardInterrupt)], indirect=True)
def test_a_resumed_calibration_is_told_how_long_its_probes_took(store, child, monkeypatch):
    told_s, ask = [], child.ask
    monkeypatch.setattr(Session, "ask", lambda _, request: told_s.append(dict(request.done)) or ask(request))
    now = iter(range(100))
    monkeypatch.setattr(study.time, "monotonic", lambda: float(next(now)))
    with pytest.raises(KeyboardInterrupt):
        calibrated(store)
    calibrated(store)
    assert told_s == [{}, dict.fromkeys(list(PROBES)[:3], 1.0)]


@pytest.mark.parametrize("child", [(4, ChildDied)], indirect=True)
def test_the_time_of_a_probe_that_killed_its_process_counts(store, child, monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(study.time, "monotonic", lambda: float(next(now)))
    calibrated(store)
    kept = journal.kept_probes(store, store.records(kind="calibration-run")[0].id)
    assert [p.seconds for p in kept] == [1.0] * 4


def test_probes_kept_by_a_version_that_did_not_time_them_count_as_none(store):
    run = journal.open_run(store, HERE, "cpu")
    store.append(new_record("probe", {"title": "a", "samples": []}, HERE, study=run.id))
    assert [p.seconds for p in journal.kept_probes(store, run.id)] == [0.0]


def test_stages_of_sparse_rows_at_other_hours_are_further_rounds(store):
    """Those of the same points and libraries, newest first; the base they were joined to does not matter."""

    def visit(seconds, k=64):
        return {"probe": "sparse", "m": 1, "n": 8, "k": k, "stored": 9, "hot": False, "round": 0, "seconds": seconds}

    def earlier():
        run = new_record("calibration-run", {"device": "cpu"}, HERE)
        return journal.earlier(store, run, [visit(0.0), {"probe": "composed"}])

    def stage(seconds, k=64, provenance=HERE, **more):
        rows, other = visit(seconds, k), {"probe": "composed", "round": 0, "seconds": 1.0}
        record = new_record(
            "calibration",
            {"samples": [rows, other], "stage": "sparse", "device": "cpu", "load": "", **more},
            provenance,
        )
        store.append(record)
        return record

    before = new_record("calibration-run", {"device": "cpu"}, HERE)
    torch_of_old = replace(HERE, versions={**HERE.versions, "torch": "0.1"})
    first, second = stage(1.0), stage(2.0)
    stage(3.0, k=32), stage(4.0, provenance=torch_of_old), stage(5.0, device="cuda")
    assert earlier() == [second.id, first.id]
    assert journal.earlier(store, before, [visit(0.0)]) == [], "what came later is not earlier"
    store.append(new_record("calibration", {"probes": ["gone"], "stage": "sparse", "device": "cpu", "load": ""}, HERE))
    for seconds in (6.0, 7.0, 8.0, 9.0, 10.0):
        stage(seconds)
    assert len(earlier()) == 5
    anew = stage(12.0, earlier=[])
    after = stage(13.0, earlier=[anew.id])
    assert earlier() == [after.id, anew.id], "nothing from before one that was begun anew"
    lost = stage(15.0, earlier=["gone", first.id])
    assert [s["seconds"] for s in journal.samples_of(store, lost) if s["probe"] == "sparse"] == [15.0, 1.0]
    now = stage(11.0, earlier=[second.id, first.id])
    found = [(s["seconds"], s["round"]) for s in journal.samples_of(store, now) if s["probe"] == "sparse"]
    assert found == [(11.0, 0), (2.0, 1000), (1.0, 2000)]
    other = new_record("calibration", {"samples": [], "stage": "kv", "base": first.id, "beside": [now.id]}, HERE)
    rounds = [s["round"] for s in journal.samples_of(store, other) if s["probe"] == "sparse"]
    assert rounds == [0, 0, 1000, 2000], "a stage that is joined later keeps them"
    assert sum(s["probe"] == "composed" for s in journal.samples_of(store, now)) == 1, "networks are of their own base"
