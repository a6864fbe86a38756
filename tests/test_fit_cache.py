"""What is said of the last-level cache is found again in samples of a machine whose cache is known."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from ridgepoint.choice import resolve
from ridgepoint.hardware import ResidencyLaw, decode_target, encode_target
from ridgepoint.measurement.calibrate.displacement import REFERENCE
from ridgepoint.prediction import step_time
from ridgepoint.prediction.residency import code_miss_shares, working_set_bytes
from ridgepoint.study.fit import merge_rounds
from ridgepoint.study.fit_cache import fit_code_residency, with_displacement
from ridgepoint.workload import decode, load_model

DATA = Path(__file__).parent / "data"
TARGET = decode_target("t", (DATA / "test-target.calibrated.toml").read_bytes())
TINY = load_model(str(DATA / "tiny-llama.json"))
MIB = 2.0**20
SIZES = (4, 8, 16, 24, 32, 48, 64)


def behind(bytes_: float) -> float:
    """A norm that takes 20 µs behind 4 MiB or less and 100 µs behind 64 MiB or more."""
    return 20e-6 + 80e-6 * float(np.clip((bytes_ / MIB - 4) / 60, 0, 1))


def streams(kind: str = REFERENCE[0], act: str = REFERENCE[1], factor: float = 1.0) -> list[dict]:
    return [
        {"probe": "code_residency", "subject": kind, "act": act, "bytes": n * MIB, "seconds": factor * behind(n * MIB)}
        for n in SIZES
    ]


def displaced(law, factors: dict[int, float], passed: float = 15 * MIB) -> list[dict]:
    which = {"probe": "displacement", "kernel": law.kernel, "format": law.format, "act": law.act, "rung": law.rung}
    return [{**which, "m": m, "passed_bytes": passed, "seconds": behind(f * passed)} for m, f in factors.items()]


def test_the_share_of_code_that_has_gone_is_of_all_probed_operators():
    law = fit_code_residency([*streams(), *streams("rope", factor=0.5)], "test")
    assert law is not None and law.working_set_bytes == tuple(n * MIB for n in SIZES)
    assert law.miss == pytest.approx([(n - 4) / 60 for n in SIZES])
    assert law.miss_share(40 * MIB) == pytest.approx(0.6, abs=0.02)
    assert fit_code_residency(streams()[:2], "test") is None


PLAIN = next(law for law in TARGET.linear if (law.format, law.act) == ("fp32", "fp32"))
OTHER = next(law for law in TARGET.linear if law.format == "int8" and law.rung == "packed")


def fitted_displacements(samples):
    return {(law.format, law.act, law.rung): law for law in with_displacement(TARGET.linear, samples)}


def test_what_a_kernel_displaces_is_told_in_multiples_of_the_plain_one():
    samples = [*streams(), *displaced(PLAIN, {16: 3.0, 1: 1.5, 4: 2.0}), *displaced(OTHER, {1: 1.5, 4: 1.2, 16: 3.6})]
    laws = fitted_displacements(samples)
    plain, other = laws["fp32", "fp32", "dense"], laws["int8", "bf16", "packed"]
    assert plain.displaced_m == other.displaced_m == (1.0, 4.0, 16.0)
    assert plain.displaced == pytest.approx((1.0, 2.0 / 1.5, 2.0), rel=1e-6)
    assert other.displaced == pytest.approx((1.0, 1.0, 2.4), rel=1e-6), "more rows never displace less"
    assert plain.displacement(8) == pytest.approx((2.0 / 1.5 + 2.0) / 2) and plain.displacement(500) == pytest.approx(
        2.0
    )
    untouched = [law for law in TARGET.linear if law not in (PLAIN, OTHER)]
    assert all(law in laws.values() for law in untouched)


def test_without_streams_or_without_the_plain_kernel_nothing_can_be_told():
    assert with_displacement(TARGET.linear, displaced(PLAIN, {1: 2.0})) == TARGET.linear
    assert with_displacement(TARGET.linear, [*streams(), *displaced(OTHER, {1: 2.0})]) == TARGET.linear


def test_where_the_reference_takes_no_longer_the_shortest_stream_counts():
    flat = [{**s, "seconds": min(s["seconds"], behind(32 * MIB))} for s in streams()]
    samples = [*flat, *displaced(PLAIN, {1: 1.0}, 16 * MIB), *displaced(OTHER, {1: 3.0}, 16 * MIB)]
    factors = fitted_displacements(samples)["int8", "bf16", "packed"].displaced
    assert factors == pytest.approx((2.0,)), "beyond 32 MiB the curve says nothing more"


def test_displacement_is_at_least_the_weights_and_at_most_four_times_them():
    samples = [*streams(), *displaced(PLAIN, {1: 1.0}, 8 * MIB), *displaced(OTHER, {1: 0.6, 16: 30.0}, 8 * MIB)]
    assert fitted_displacements(samples)["int8", "bf16", "packed"].displaced == (1.0, 4.0)


@pytest.mark.parametrize("spec", ["fp32", "int8"])
def test_the_probes_of_displacement_run_and_pass_the_bytes_they_say(spec):
    pytest.importorskip("torch")
    from ridgepoint.measurement.calibrate.displacement import code_residency_samples, displacement_samples
    from ridgepoint.measurement.calibrate.grid import PROBES
    from ridgepoint.measurement.calibrate.linear import LinearBench

    cache = 32.0 * MIB
    bench = LinearBench(next(p for p in PROBES if p.format == spec and p.rung != "naive"), cache)
    assert sum(size for _, _, size in bench.cold) >= cache, "weights come round after a whole cache of others at least"
    found = list(displacement_samples(bench, cache, 2))
    assert [s["m"] for s in found] == [1, 4, 16]
    assert all(s["seconds"] > 0 and cache / 2 <= s["passed_bytes"] < cache / 2 + 16 * MIB for s in found)
    streamed = [s for s in code_residency_samples(cache, 2) if (s["subject"], s["act"]) == REFERENCE]
    assert [s["bytes"] for s in streamed] == sorted({s["bytes"] for s in streamed}) and streamed[-1][
        "bytes"
    ] == 2 * cache


def test_rounds_of_a_displacement_are_one_point_though_they_passed_other_weights():
    law = TARGET.linear[0]
    first, second = displaced(law, {1: 2.0}), displaced(law, {1: 2.0}, 14 * MIB)
    merged, ratios = merge_rounds([{**first[0], "round": 0}, {**second[0], "round": 1}])
    assert len(merged) == 1 and merged[0]["passed_bytes"] == 14 * MIB and len(ratios) == 1


def test_more_displacement_means_colder_code():
    curve = ResidencyLaw(working_set_bytes=(1e4, 1e7), miss=(0.0, 1.0), source="test-run")
    packed = tuple(msgspec.structs.replace(x, displaced=(3.0,)) for x in TARGET.linear)
    source = {"sources": {**TARGET.sources, "test-run": "x"}}
    plain = msgspec.structs.replace(TARGET, code_residency=curve, residency=curve, **source)
    more = msgspec.structs.replace(plain, linear=packed)
    plan = resolve("int8", "bf16").plan(TINY, decode(1, 64))
    weights = sum(op.count * op.weight_bytes for op in plan.ops if op.kind == "linear")
    little, much = working_set_bytes(plan.ops, plain), working_set_bytes(plan.ops, more)
    assert much - little == pytest.approx(2 * weights)
    before, after = code_miss_shares(plan.ops, plain, little), code_miss_shares(plan.ops, more, much)
    assert all(after[key] > before[key] for key in before)
    assert float(step_time(plan, more).seconds) > float(step_time(plan, plain).seconds)
    assert decode_target("again", encode_target(more)) == more
