"""A calibration that is cut short keeps its samples, and threads are not judged on a busy machine."""

from dataclasses import replace

import pytest

from ridgepoint.measurement.busy import load_between, snapshot
from ridgepoint.measurement.calibrate import scaling
from ridgepoint.measurement.session import ChildDied
from ridgepoint.store import Provenance, Store
from ridgepoint.study import calibrate as study

HERE = Provenance({"machine_id": "0test0target"}, {"ridgepoint": "0"}, {})


@pytest.mark.parametrize("end", [KeyboardInterrupt, ChildDied])
def test_samples_of_a_calibration_cut_short_are_kept(end, tmp_path, monkeypatch):
    def cut(machine, on_sample, session, samples):
        samples += [{"probe": "linear", "m": 1}, {"probe": "linear", "m": 2}]
        raise end("cut")

    monkeypatch.setattr(study, "_cpu_samples", cut)
    with Store(tmp_path / "ridge.db") as store:
        with pytest.raises(end):
            study.calibrate(store, HERE, lambda title, done: None)
        (record,) = store.records(kind="calibration")
    assert [s["m"] for s in record.body["samples"]] == [1, 2] and "interrupted" in record.body["flags"]


def test_nothing_measured_leaves_no_record(tmp_path, monkeypatch):
    def cut(machine, on_sample, session, samples):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "_cpu_samples", cut)
    with Store(tmp_path / "ridge.db") as store:
        with pytest.raises(KeyboardInterrupt):
            study.calibrate(store, HERE, lambda title, done: None)
        assert not list(store.records(kind="calibration"))


@pytest.mark.parametrize(("other_cores", "absent"), [(0.0, False), (1.2, True), (None, False)])
def test_thread_scaling_is_judged_by_the_load_of_the_whole_probe(other_cores, absent, monkeypatch):
    load = replace(load_between(snapshot(), snapshot()), other_cores=other_cores)
    monkeypatch.setattr(scaling, "load_between", lambda before, after: load)
    found = list(scaling.scaling_samples((), 2, 1e6, 0.001))
    assert {s["subject"] for s in found} == {"attention", "pointwise"}
    assert all(("absent" in s) == absent and s["speedup"] > 0 for s in found)
