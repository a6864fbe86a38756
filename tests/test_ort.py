"""ONNX Runtime's kernels and what torch records: their words, what they refuse, and that nobody gets them unasked."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from ridgepoint.choice import parse_choices, resolve
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.hardware import decode_target
from ridgepoint.prediction.autograd import kept_bytes
from ridgepoint.prediction.latency import step_time
from ridgepoint.workload import Call, Linear, Traced, decode, forward, load_model

TARGET = decode_target("t", (Path(__file__).parent / "data" / "test-target.calibrated.toml").read_bytes())
MODEL = load_model("smollm2-135m")
FBGEMM = next(law for law in TARGET.linear if law.format == "int8:dyn")
ORT = msgspec.structs.replace(
    FBGEMM, kernel="onnxruntime.MatMulInteger", rung="ort",
    cold=tuple(tuple(x / 2 for x in row) for row in FBGEMM.cold), hot=tuple(tuple(x / 2 for x in row) for row in FBGEMM.hot),
)  # fmt: skip
WITH_ORT = msgspec.structs.replace(TARGET, linear=(*TARGET.linear, ORT))


def kernels(text: str, target=WITH_ORT) -> set[str]:
    time = step_time(resolve(text, "fp32").plan(MODEL, decode(1, 64)), target)
    return {t.kernel for t in time.ops if isinstance(t.op, Linear) and t.op.weight != t.op.dtype}


def test_a_kernel_of_another_framework_is_taken_only_by_name() -> None:
    assert kernels("int8:dyn") == {FBGEMM.kernel}, "though the other is twice as fast"
    assert kernels("int8:dyn:ort") == {ORT.kernel}
    with pytest.raises(NotSupported, match="int8:dyn:ort"):
        kernels("int8:dyn:ort", TARGET)


@pytest.mark.parametrize(
    ("text", "spec"),
    [("int4:ort", "int4:g32:ort"), ("int4:g128:ort:head", "int4:g128:ort:head"), ("int8:ort:dyn", "int8:dyn:ort")],
)
def test_words(text: str, spec: str) -> None:
    (choice,) = parse_choices(text)
    assert choice.spelled == spec and choice.acts("cpu") == ("fp32",)


@pytest.mark.parametrize("text", ["int4:ort:naive", "int8:ort", "int8:dyn:token:ort", "nf4:ort"])
def test_words_that_mean_nothing(text: str) -> None:
    with pytest.raises(BadInput):
        parse_choices(text)


def test_one_thread_of_a_cpu() -> None:
    with pytest.raises(NotSupported, match="2 threads"):
        resolve("int4:ort+threads:2", "fp32").plan(MODEL, decode(1, 8))
    with pytest.raises(NotSupported, match="cuda"):
        resolve("int4:ort", "fp32", "cuda").plan(MODEL, decode(1, 8))


def test_blocks_are_what_the_runtime_multiplies_by() -> None:
    torch = pytest.importorskip("torch")
    from ridgepoint.kernels.ort import quantise_blocks

    weight = torch.randn(24, 96) * torch.logspace(-2, 1, 24)[:, None]
    weight[3] = weight[3].abs() + 5.0  # a block that does not take in 0 by itself
    codes, scale, zero = quantise_blocks(weight, 32)
    assert codes.max() <= 15 and zero.max() <= 15
    back = (codes.float() - zero.float()[..., None]) * scale[..., None]
    step = scale.repeat_interleave(32, 1)
    assert ((back.view(24, 96) - weight).abs() <= 0.5001 * step).all()
    assert (quantise_blocks(torch.zeros(2, 32), 32)[0] == quantise_blocks(torch.zeros(2, 32), 32)[2][..., None]).all()


# What torch records

CALLS = (
    Call(row="a", kind="linear", dtype="fp32", sizes={"m": (0, 5), "n": (30, 0), "k": (20, 0)}, modules=("a",)),
    Call(row="r", kind="silu_mul", dtype="fp32", count=2, sizes={"rows": (0, 5), "cols": (30, 0)}),
    Call(row="v", kind="view", dtype="fp32", sizes={"rows": (0, 0), "cols": (0, 0)}),
)
MODULE = Traced("m.py:build", "fp32", 600, 600, {"fp32": CALLS}, live_bytes={"fp32": (0.0, 1000.0)})
RECORDS = msgspec.structs.replace(
    TARGET,
    autograd_call_s={"no-grad": 1e-6, "grad": 3e-6, "no-grad product": 2e-6, "grad product": 7e-6},
    module_call_s=0.0,
)


def test_recording_costs_each_call_and_keeps_each_result() -> None:
    def side(text: str):
        return resolve(text, "fp32").plan(MODULE, forward(2, 1))

    plain = MODULE, replace(side("fp32"), rewrites=())
    assert kept_bytes(plain[1]) == 0.0
    assert kept_bytes(side("grad")) == 4 * (10 * 30 + 2 * 10 * 30)
    ops = tuple(c for c in CALLS if c.kind != "view")  # views have no law in a target that knows decoders only
    module = replace(MODULE, calls={"fp32": ops})
    times = {t: float(step_time(resolve(t, "fp32").plan(module, forward(2, 1)), RECORDS).seconds)
             for t in ("inference", "no-grad", "grad")}  # fmt: skip
    assert times["no-grad"] - times["inference"] == pytest.approx(2e-6 + 2 * 1e-6)
    assert times["grad"] - times["inference"] == pytest.approx(7e-6 + 2 * 3e-6)
    with pytest.raises(NotSupported, match="--modules"):
        step_time(resolve("grad", "fp32").plan(module, forward(2, 1)), TARGET)
    with pytest.raises(NotSupported, match="modules of your own"):
        resolve("grad", "fp32").plan(MODEL, decode(1, 8))
