"""The GPU side without a GPU: its script rehearsed on the CPU, its stopwatch on a make-believe device, its formulas."""

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from ridgepoint.choice import resolve
from ridgepoint.errors import NotSupported, UnknownName
from ridgepoint.hardware import LaunchLaw, decode_target, encode_target, load_target, save_target
from ridgepoint.measurement.calibrate.cuda_grid import FULL, stages
from ridgepoint.measurement.joules import energy_per_step
from ridgepoint.prediction import predict, step_time
from ridgepoint.study.card import build_target
from ridgepoint.study.card_gpu import usable
from ridgepoint.workload import Linear, catalogue_names, decode, load_model

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "benchmarks" / "gpu.py"


# The script


@pytest.mark.slow
def test_the_script_writes_records_target_and_summary(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--rehearse"],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    kinds = {record["kind"] for record in records}
    assert {"calibration", "bet", "point", "answer"} <= kinds
    assert "rehearsal" in next(r for r in records if r["kind"] == "calibration")["body"]["flags"]
    target = load_target(str(tmp_path / "rehearsal.calibrated.toml"))
    assert {"F.linear:bf16", "torch._weight_int4pack_mm_for_cpu"} <= {law.kernel for law in target.linear}
    assert "between" in {law.subject for law in target.launch}
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "rehearsal" in text and "| decode step, eager |" in text


@pytest.mark.slow
def test_the_script_keeps_what_it_has_when_time_is_up(tmp_path):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(tmp_path), "--rehearse", "--limit", "4"],
        capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert (tmp_path / "summary.md").is_file()
    assert (tmp_path / "records.jsonl").is_file()


# Shapes


def scored_shapes() -> set[tuple[int, int]]:
    """(n, k) of every linear layer of the catalogue and of the script's bets."""
    found = set()
    for name in catalogue_names():
        model = load_model(name)
        found |= {(int(o.n), int(o.k)) for o in model.forward_ops(decode(1, 1), "bf16") if isinstance(o, Linear)}
    layers = SCRIPT.read_text(encoding="utf-8").partition("LAYERS = (")[2].partition(")")[0]
    found |= {tuple(map(int, word.strip('" ').removeprefix("linear:").split("x"))) for word in layers.split(",")}
    return found


def test_calibrated_and_scored_shapes_are_disjoint():
    scored = scored_shapes()
    assert (4096, 14336) in scored and (128256, 4096) in scored
    assert not scored & set(FULL.linear)
    for net in FULL.composed:
        d, q, kv = net.hidden, net.hidden, net.hidden // net.heads * net.kv_heads
        own = {(q, d), (kv, d), (d, q), (net.intermediate, d), (d, net.intermediate), (net.vocab, d)}
        assert not scored & own


def test_every_kernel_takes_every_calibrated_shape():
    from ridgepoint.kernels.linear import find

    for probe in FULL.probes:
        rungs = find(probe.format.partition(":g")[0], "cuda", rung=probe.rung)
        assert rungs, f"{probe.format} {probe.rung} has no rung on cuda"
        assert probe.act in rungs[-1].acts
        assert not [reason for n, k in FULL.linear if (reason := rungs[-1].check(n, k, probe.group))]


def test_composed_nets_can_be_built_for_every_side():
    from ridgepoint.measurement.calibrate.composed import composed_decoder

    for net in FULL.composed:
        for spec in FULL.sides:
            plan = resolve(f"{spec}+graph", "bf16", "cuda").plan(composed_decoder(net), decode(1, net.context))
            assert plan.launch == "graph" and plan.ops


# Paper


def rehearsed() -> "tuple[list[dict], object]":
    from ridgepoint.measurement.calibrate.cuda import samples

    pytest.importorskip("torch")
    found = [sample for stage in stages(True) for _, sample in samples(stage.name, 30.0, True)]
    return found, build_target(found, "pretend-gpu", {"machine_id": "x"}, "x", "2026-01-01", "r")


def test_a_gpu_step_is_the_slower_of_device_and_launches():
    found, target = rehearsed()
    assert target.kind == "gpu"
    assert decode_target("pretend", encode_target(target)) == target
    model = load_model("smollm2-135m")
    plan = resolve("bf16", "bf16", "cuda").plan(model, decode(np.array([1, 4, 16]), 64))
    assert not [s for s in found if s["probe"] == "linear" and s["seconds"] <= 0]

    def at(seconds: float):
        laws = [msgspec.structs.replace(law, seconds=0.0) for law in target.launch if law.subject != "between"]
        between = LaunchLaw(subject="between", dtype="", seconds=seconds, sigma=0.05, source="calibration")
        return step_time(plan, msgspec.structs.replace(target, launch=(*laws, between)))

    free, calls = at(0.0), sum(op.count for op in plan.ops)
    np.testing.assert_allclose(free.seconds, free.device_s)
    slow = at(1.0)
    np.testing.assert_allclose(slow.seconds, calls)
    assert np.all(slow.sigma >= 0.05)
    middle = float(np.mean(free.device_s)) / calls
    np.testing.assert_allclose(at(middle).seconds, np.maximum(free.device_s, middle * calls))
    graph = resolve("bf16+graph", "bf16", "cuda").plan(model, decode(1, 64))
    assert float(step_time(graph, target).seconds) == pytest.approx(float(step_time(graph, target).device_s))
    eager = predict(resolve("bf16", "bf16", "cuda").plan(model, decode(1, 64)), target)
    assert eager.latency_s == pytest.approx(max(eager.provenance["device_s"], eager.provenance["host_s"]))


def test_a_kernel_cut_short_is_left_out_and_the_others_stay():
    found, _ = rehearsed()
    rest = [s for s in found if not (s["probe"] == "linear" and s["format"] == "bf16" and s["m"] > 1)]
    rest = [s for s in rest if not (s["probe"] == "attention" and s["kernel"] == "math" and s["phase"] == "prefill")]
    target = build_target(rest, "cut", {}, "x", "2026-01-01", "r")
    assert {law.format for law in target.linear} == {"int4:g128", "int8:dyn:token"}
    assert {law.kernel for law in target.attention} == {"flash"}
    assert len(usable(found)) == len(found)


def test_graph_is_a_choice_for_cuda_only():
    model = load_model("smollm2-135m")
    side = resolve("int4+graph", "bf16", "cuda")
    assert side.spec == "bf16+int4:g32+graph+threads:1"
    assert side.plan(model, decode(1, 8)).launch == "graph"
    assert resolve("eager", "bf16", "cuda").plan(model, decode(1, 8)).launch == "eager"
    with pytest.raises(NotSupported, match="graph is a choice for CUDA"):
        resolve("graph", "bf16", "cpu").plan(model, decode(1, 8))


def test_host_is_the_target_of_the_device(isolated_home):
    _, gpu = rehearsed()
    with pytest.raises(UnknownName, match="ridge calibrate --device cuda"):
        load_target("host", "cuda")
    save_target(msgspec.structs.replace(gpu, name="a-cuda"), "a-cuda")
    cpu = save_target(msgspec.structs.replace(gpu, name="a", kind="cpu"), "a")
    os.utime(cpu, (time.time() + 60, time.time() + 60))
    assert load_target("host", "cuda").name == "a-cuda"
    assert load_target("host", "cpu").name == "a"


# Metal


def test_a_failing_kernel_is_an_absent_sample(monkeypatch):
    pytest.importorskip("torch")
    from ridgepoint.measurement.calibrate import cuda

    def broken(*_):
        yield {"probe": "linear"}
        raise TypeError("no such argument")

    monkeypatch.setattr(cuda, "linear", broken)
    found = [sample for _, sample in cuda.samples("linear 0", 5.0, True)]
    assert found[-1] == {"probe": "absent", "of": "linear 0", "absent": "TypeError: no such argument"}


class PretendCuda:
    """What `torch.cuda` gives the stopwatch: events on the host's clock, graphs that call what they captured."""

    def __init__(self, torch, refuses: bool = False):
        self.captured, self.refuses = [], refuses
        stream = SimpleNamespace(wait_stream=lambda other: None)
        owner = self

        class Graph:
            def capture_begin(self):
                owner.captured.append(self)
                if owner.refuses:
                    raise RuntimeError("operation not permitted when stream is capturing\nmore")

            def capture_end(self): ...
            def replay(self):
                time.sleep(0.001)

        class Event:
            def __init__(self, enable_timing=False): ...
            def record(self, stream):
                self.at = time.perf_counter()

            def synchronize(self): ...
            def elapsed_time(self, stop):
                return 1e3 * (stop.at - self.at)

        properties = SimpleNamespace(L2_cache_size=2**20, name="pretend")
        self.names = {
            "is_available": lambda: True, "CUDAGraph": Graph, "Event": Event, "Stream": lambda: stream,
            "current_stream": lambda *_: stream, "stream": lambda _: nullcontext(), "synchronize": lambda *_: None,
            "get_device_properties": lambda *_: properties, "current_device": lambda: 0,
        }  # fmt: skip


@pytest.fixture
def pretend(monkeypatch):
    torch = pytest.importorskip("torch")
    from ridgepoint.measurement import clock, graph

    fake = PretendCuda(torch)
    for name, value in fake.names.items():
        monkeypatch.setattr(torch.cuda, name, value)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **{**k, "device": "cpu"}))
    monkeypatch.setattr(torch, "device", lambda *_: "cpu")
    graph._stream.cache_clear()
    yield fake
    graph._stream.cache_clear()
    assert clock


def test_stopwatch_divides_a_replay_by_its_calls(pretend):
    from ridgepoint.measurement.calibrate.cuda_watch import CudaWatch

    watch, calls = CudaWatch(), []
    steps = [lambda i=i: calls.append(i) for i in range(5)]
    span = watch.span(steps)
    assert not span.flag and len(pretend.captured) == 1
    assert set(calls) == set(range(5))
    assert 0.001 / 400 <= span.seconds < 0.01 / 395  # 1 ms a replay of some 400 calls
    assert watch.host_s(steps) > 0
    assert 0 < watch.whole(lambda: time.sleep(0.002)).seconds < 0.02


def test_stopwatch_times_eagerly_what_cannot_be_captured(pretend):
    from ridgepoint.measurement.calibrate.cuda_watch import CudaWatch

    pretend.refuses = True
    span = CudaWatch().span([lambda: time.sleep(0.001)])
    assert span.flag == "no CUDA graph, timed eagerly: operation not permitted when stream is capturing"
    assert 0.001 <= span.seconds < 0.01


def test_a_long_step_is_not_repeated_hundreds_of_times(pretend):
    from ridgepoint.measurement.calibrate.cuda_watch import CudaWatch

    watch = CudaWatch()
    assert watch._calls(10, 50e-6) == 80
    assert watch._calls(142, 2e-6) == 284
    assert watch._calls(10, 3e-3) == 5
    assert watch._calls(1, 20e-3) == 1


def test_a_single_layer_in_a_graph_is_reported_per_call(pretend):
    from ridgepoint.measurement.request import PairRequest, SideRequest, step_request

    a, b = (SideRequest(spec=f"{spec}+threads:1", device="cpu") for spec in ("bf16", "bf16+int4:g32"))
    request = PairRequest(linear=(64, 64), a=a, b=b, step=step_request(decode(2, 0)), seconds=0.1, cache_bytes=1e4)
    from ridgepoint.measurement import runnable
    from ridgepoint.measurement.bench import Bench

    bench = Bench()
    plain = next(m for m in bench.pair(request) if m["kind"] == "done")
    assert not plain["flags"]
    build = runnable._as_graph
    run = build(bench._runnable(request, a), 64)
    assert run.calls == 64 and run.replay is not None and not run.flags
    assert plain["paired"]["a_s"] < 0.001


# Energy


class Ticker:
    """A counter of a constant power that moves every 20 ms."""

    method, resolution_j = "made up", None

    def __init__(self, watts: float):
        self._watts, self._start = watts, time.perf_counter()

    def read_j(self) -> float:
        return self._watts * ((time.perf_counter() - self._start) // 0.02) * 0.02


def test_energy_per_step_is_power_times_time():
    steps = {"a": lambda: time.sleep(0.002), "b": lambda: time.sleep(0.004)}
    found = energy_per_step(steps, Ticker(100.0), lambda: None, 1.0, window_s=0.2)
    for name, seconds in (("a", 0.002), ("b", 0.004)):
        joules = found[name]
        assert joules.windows == 3
        assert joules.low_j <= joules.step_j <= joules.high_j
        assert joules.watts == pytest.approx(100, rel=0.15)
        assert 0.9 * 100 * seconds < joules.step_j < 1.5 * 100 * seconds
    assert found["b"].step_j > 1.4 * found["a"].step_j


def test_a_counter_that_stands_still_ends_the_window():
    stuck = SimpleNamespace(method="stuck", resolution_j=None, read_j=lambda: 5.0)
    found = energy_per_step({"a": lambda: None}, stuck, lambda: None, 0.1, window_s=0.05)
    assert found["a"].step_j == 0.0
