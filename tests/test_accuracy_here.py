"""The loss of a bet on a machine that is not at hand: measured here, emulated where the CPU has no kernel, and labelled."""

import json
from pathlib import Path

import pytest

from ridgepoint.choice import resolve
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.hardware import load_target
from ridgepoint.prediction import step_time
from ridgepoint.study.accuracy import Text
from ridgepoint.study.accuracy_here import check_here, on_this_cpu
from ridgepoint.study.question import ask
from ridgepoint.workload import decode, load_model

torch = pytest.importorskip("torch")
HOST = Path(__file__).parent / "data" / "test-target.calibrated.toml"


def asked(bet, model="pocket", on="h100-sxm"):
    return ask(model, bet, on=on, batches=(1, 8))


def test_sides_become_those_of_a_cpu_and_what_it_lacks_is_named():
    moved, emulated = on_this_cpu(asked("bf16..fp8,int8+graph,2:4"))
    assert moved.device == "cpu" and emulated == ("fp8",)
    assert [side.spec for side in moved.b] == [
        "bf16+fp8:emulated+threads:1", "bf16+int8+threads:1", "bf16+2:4+threads:1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("bet", "model", "error", "says"),
    [
        ("bf16..nvfp4", "pocket", NotSupported, "no kernel on a CPU"), ("bf16..fp8:block", "pocket", NotSupported, "no kernel"),
        ("bf16..fp8", "smollm2-135m", BadInput, "random weights"), ("bf16..int4:gptq", "pocket", NotSupported, "without --on"),
    ],
)  # fmt: skip
def test_what_has_no_loss_here_is_refused_before_anything_runs(bet, model, error, says):
    on = "b200" if "nvfp4" in bet else "h100-sxm"
    with pytest.raises(error, match=says):
        check_here(asked(bet, model, on), Text())


def test_one_side_that_has_no_loss_leaves_the_others_theirs(ridge):
    words = (
        "why",
        "pocket",
        "bf16..fp8,fp8:block",
        "--on",
        "h100-sxm,l40s",
        "--batch",
        "1",
        "--tol",
        "1%",
        "--windows",
        "8",
    )
    ran = ridge(*words, "--json")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert [b["accuracy"]["measured"] for b in found["bets"]] == [True, True]
    assert found["bets"][0]["accuracy"]["sides"] == found["bets"][1]["accuracy"]["sides"], "measured once"
    assert all("no kernel on a CPU" in said for said in found["refused"])


@pytest.mark.parametrize("more", [("--calib", "x"), ("--curve", "5"), ("--predict-only", "--tol", "1%")])
def test_what_a_machine_elsewhere_cannot_do_is_refused(ridge, more):
    ran = ridge("why", "pocket", "bf16..fp8", "--on", "h100-sxm", *more)
    assert ran.code == 2 and "leave --calib and --curve out" in ran.complaint


def test_an_emulation_is_never_timed():
    target = load_target(str(HOST))
    with pytest.raises(NotSupported, match="fp8 itself"):
        resolve("fp8:emulated", "bf16", "cuda").plan(load_model("pocket"), decode(1, 8))
    plan = resolve("fp8:emulated", "bf16").plan(load_model("pocket"), decode(1, 8))
    with pytest.raises(NotSupported, match="its time means nothing"):
        step_time(plan, target)


def test_time_of_an_emulation_is_refused_by_name(ridge, isolated_home):
    refused = ridge("why", "pocket", "bf16..fp8:emulated", "--on", HOST)
    assert refused.code == 2 and "its time means nothing" in refused.complaint


def test_the_emulation_rounds_as_the_gpu_s_kernel_does():
    from ridgepoint.kernels.fp8 import Fp8EmulatedLinear, Fp8Linear

    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(32, 64, generator=generator), torch.randn(5, 64, generator=generator)
    ours, theirs = Fp8EmulatedLinear(weight, None), Fp8Linear(weight, None)
    assert torch.equal(ours.dequantised(), theirs.dequantised())
    scale = x.abs().amax(-1, keepdim=True) / 448
    rounded = (x / scale).to(torch.float8_e4m3fn).float() * scale
    assert torch.allclose(ours(x), rounded @ ours.dequantised().t(), rtol=1e-5, atol=1e-5)
    assert 0.001 < float((ours(x) - x @ weight.t()).norm() / (x @ weight.t()).norm()) < 0.06


def test_speed_is_the_target_s_and_loss_is_measured_here(ridge):
    ran = ridge(
        "why",
        "pocket",
        "bf16..fp8,int8",
        "--on",
        "h100-sxm",
        "--batch",
        "1,8",
        "--tol",
        "1%",
        "--windows",
        "16",
        "--json",
    )
    assert ran.code == 0, ran.err
    (found,) = json.loads(ran.out)["bets"]
    accuracy = found["accuracy"]
    assert accuracy["measured"] and accuracy["emulated"] == ["fp8"] and "fp8 emulated" in accuracy["note"]
    assert abs(accuracy["sides"]["fp8"]["difference"]) < 0.02
    rows = {r["side"]: r for r in found["sufficiency"]["sides"]}
    assert (
        not rows["fp8"]["speed"]["8"]["measured"]
        and rows["fp8"]["speed"]["8"]["speedup"] == found["bet"]["curves"][0]["speedup"][1]
    )
