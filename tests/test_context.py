"""What networks add to operators: factors and the cost per call are found again, and noise of one kernel stays its own."""

from dataclasses import asdict
from pathlib import Path

import msgspec
import pytest

from ridgepoint.hardware import Correction, decode_target
from ridgepoint.measurement.calibrate.grid import (
    ATTENTION_DECODE,
    ATTENTION_PREFILL,
    COMPOSED,
    LINEAR_SHAPES,
    ComposedNet,
)
from ridgepoint.prediction import step_time
from ridgepoint.study.context import with_context
from ridgepoint.study.fit import cold_code, merge_rounds
from ridgepoint.study.net import net_plan
from ridgepoint.workload import Attention, Decoder, Linear, catalogue_names, decode, load_model

DATA = Path(__file__).parent / "data" / "test-target.calibrated.toml"
TARGET = decode_target(DATA.name, DATA.read_bytes())
PLAIN = msgspec.structs.replace(
    TARGET, correction=None,
    linear=tuple(msgspec.structs.replace(law, composed=1.0) for law in TARGET.linear if law.rung != "naive"),
)  # fmt: skip
TRUE = {"linear": 1.2, "rms_norm": 1.6, "attention": 0.9}
PER_CALL_S = 3e-6


def pretended(side: str, factors: dict[str, float], per_call_s: float = PER_CALL_S) -> list[dict]:
    """Composed samples of a machine whose operators take `factors` times their laws inside a network."""
    samples = []
    for net in COMPOSED:
        for batch, new in net.steps:
            sample = {"probe": "composed", "net": asdict(net), "batch": batch, "new": new, "side": side}
            times = step_time(net_plan(sample), PLAIN).ops
            ops = {t.op.name: float(t.seconds) * factors.get(t.op.kind, 1.0) for t in times}
            whole = sum(ops.values()) + per_call_s * sum(t.op.count for t in times)
            samples.append({**sample, "ops": ops, "seconds": whole})
    return samples


def law_of(laws, **fields):
    return next(law for law in laws if all(getattr(law, k) == v for k, v in fields.items()))


def test_factors_and_the_cost_per_call_are_found_again():
    target = with_context(PLAIN, pretended("bf16+threads:1", TRUE), "test")
    assert target.correction.per_call_s == pytest.approx(PER_CALL_S, rel=1e-6)
    found = {
        "linear": law_of(target.linear, format="bf16").composed,
        "rms_norm": law_of(target.pointwise, kind="rms_norm", dtype="bf16").composed,
        "attention": law_of(target.attention, kernel="flash", dtype="bf16").composed,
    }
    cells = sum(len(net.steps) for net in COMPOSED)
    for kind, factor in TRUE.items():
        assert found[kind] == pytest.approx(factor ** (cells / (cells + 1)), rel=1e-6), kind
    assert law_of(target.linear, format="fp32").composed == 1.0, "another kernel's factor is not touched"
    assert law_of(target.pointwise, kind="rms_norm", dtype="fp32").composed == 1.0


def test_the_corrected_target_predicts_the_networks():
    samples = pretended("bf16+threads:1", TRUE)
    target = with_context(PLAIN, samples, "test")
    for sample in samples:
        assert float(step_time(net_plan(sample), target).seconds) == pytest.approx(sample["seconds"], rel=0.04)
    assert target.correction.sigma == pytest.approx(0.03, abs=0.01)


def test_the_head_of_a_quantised_net_does_not_speak_for_the_dense_kernel():
    samples = pretended("bf16+int8+threads:1", {})
    for sample in samples:
        sample["ops"]["lm_head"] *= 3.0
    target = with_context(PLAIN, samples, "test")
    assert law_of(target.linear, format="bf16").composed == 1.0
    assert law_of(target.linear, format="int8", rung="packed").composed == pytest.approx(1.0, rel=1e-9)


def test_a_net_without_operators_or_laws_changes_nothing():
    whole = [{k: v for k, v in s.items() if k != "ops"} for s in pretended("bf16+threads:1", TRUE)]
    assert with_context(PLAIN, whole, "test") == PLAIN
    bare = msgspec.structs.replace(PLAIN, attention=())
    assert with_context(bare, pretended("bf16+threads:1", TRUE), "test") == bare


def test_correction_is_used_by_every_prediction():
    bare = msgspec.structs.replace(PLAIN, correction=Correction(per_call_s=0.0, sigma=0.03, source="calibration"))
    plan = net_plan({"net": asdict(COMPOSED[0]), "batch": 2, "side": "fp32+threads:1"})
    costly = msgspec.structs.replace(bare, correction=Correction(per_call_s=1e-5, sigma=0.03, source="calibration"))
    calls = sum(op.count for op in plan.ops)
    assert float(step_time(plan, costly).seconds - step_time(plan, bare).seconds) == pytest.approx(1e-5 * calls)


# Samples


def test_rounds_merge_to_the_faster_but_residency_to_the_mean():
    linear = {"probe": "linear", "m": 1, "n": 2, "k": 3}
    cache = {"probe": "residency", "working_set_bytes": 1e7}
    net = {"probe": "composed", "batch": 1, "net": {}, "side": "x"}
    merged, ratios = merge_rounds([
        {**linear, "seconds": 2.0, "round": 0}, {**cache, "seconds": 1.0, "round": 0},
        {**net, "seconds": 5.0, "ops": {"a": 1.0, "b": 4.0}, "round": 0},
        {**linear, "seconds": 3.0, "round": 1}, {**cache, "seconds": 2.0, "round": 1},
        {**net, "seconds": 4.0, "ops": {"a": 2.0, "b": 2.0}, "round": 1},
    ])  # fmt: skip
    by = {s["probe"]: s for s in merged}
    assert by["linear"]["seconds"] == 2.0 and by["residency"]["seconds"] == 1.5
    assert by["composed"]["seconds"] == 4.0 and by["composed"]["ops"] == {"a": 1.0, "b": 2.0}
    assert ratios == [1.5, 0.8]


def test_cold_code_is_a_line_through_two_sizes():
    def sample(rows, near, far):
        return {"probe": "cold_code", "subject": "add", "act": "fp32", "rows": rows, "cols": 100, "seconds_near": near,
                "seconds": far}  # fmt: skip

    assert cold_code([sample(1, 1.0, 3.0), sample(11, 1.0, 13.0)])["add", "fp32"] == pytest.approx((1.0, 0.01))
    assert cold_code([sample(1, 1.0, 3.0), sample(11, 1.0, 2.0)])["add", "fp32"] == pytest.approx((2.0, 0.0))


# Shapes


def shapes_of(decoder: Decoder) -> tuple[set, set]:
    """(n, k) of its linear layers and (heads, kv heads, head dim) of its attention."""
    ops = decoder.forward_ops(decode(1, 1), "bf16")
    linear = {(int(o.n), int(o.k)) for o in ops if isinstance(o, Linear)}
    return linear, {(o.heads, o.kv_heads, o.head_dim) for o in ops if isinstance(o, Attention)}


def scored() -> list[Decoder]:
    """The catalogue and the models of the truth benchmark, which is on the path."""
    import tempfile

    import truth

    with tempfile.TemporaryDirectory() as folder:
        models = [load_model(str(truth.config_file(name, Path(folder)))) for name in truth.MODELS]
    return [*models, *(load_model(name) for name in catalogue_names())]


def calibrated(net: ComposedNet) -> tuple[set, set]:
    from ridgepoint.measurement.calibrate.composed import composed_decoder

    return shapes_of(composed_decoder(net))


def test_no_scored_shape_is_calibrated(monkeypatch):
    """Else a prediction could be a look-up."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    linear, attention = set(LINEAR_SHAPES), {shape[1:4] for shape in (*ATTENTION_DECODE, *ATTENTION_PREFILL)}
    for net in COMPOSED:
        more_linear, more_attention = calibrated(net)
        linear, attention = linear | more_linear, attention | more_attention
    assert (4096, 4096) not in linear
    seen_linear, seen_attention = (set().union(*sets) for sets in zip(*map(shapes_of, scored()), strict=True))
    assert (576, 576) in seen_linear and (9, 3, 64) in seen_attention
    assert not linear & seen_linear
    assert not attention & seen_attention


def test_sparse_rows_take_what_a_network_adds_to_the_dense_kernel_whose_speed_they_were_scaled_to():
    from ridgepoint.study.context import _with_factors

    dense = next(law for law in TARGET.linear if (law.format, law.act, law.rung) == ("fp32", "fp32", "dense"))
    rows = msgspec.structs.replace(dense, kernel="rows", format="csr", rung="packed", near_bytes=2.0**19)
    target = msgspec.structs.replace(TARGET, linear=(*TARGET.linear, rows))
    found = _with_factors(target, {("linear", dense.kernel, "fp32"): (1.2, 0.1)}).linear
    assert {law.composed for law in found if law.kernel in (dense.kernel, "rows") and law.act == "fp32"} == {1.2}
    assert found[-1].sigma_composed == 0.1
