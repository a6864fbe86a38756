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


def test_what_a_kernel_displaces_is_found_again_and_grows_with_the_rows():
    (law, *others) = TARGET.linear
    samples = [*streams(), *displaced(law, {16: 3.0, 1: 1.5, 4: 2.0})]
    fitted, *untouched = with_displacement(TARGET.linear, samples)
    assert fitted.displaced_m == (1.0, 4.0, 16.0)
    assert fitted.displaced == pytest.approx((1.5, 2.0, 3.0), rel=1e-6)
    assert fitted.displacement(8) == pytest.approx(2.5) and fitted.displacement(500) == pytest.approx(3.0)
    assert untouched == others
    assert with_displacement(TARGET.linear, displaced(law, {1: 2.0})) == TARGET.linear, (
        "without streams nothing can be told"
    )


def test_displacement_is_at_least_the_weights_and_at_most_what_can_be_told():
    law = TARGET.linear[0]
    fitted, *_ = with_displacement(TARGET.linear, [*streams(), *displaced(law, {1: 0.3, 16: 30.0}, 4 * MIB)])
    assert fitted.displaced == (1.0, 4.0)


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
    assert working_set_bytes(plan, more) - working_set_bytes(plan, plain) == pytest.approx(2 * weights)
    before, after = code_miss_shares(plan, plain), code_miss_shares(plan, more)
    assert all(after[key] > before[key] for key in before)
    assert float(step_time(plan, more).seconds) > float(step_time(plan, plain).seconds)
    assert decode_target("again", encode_target(more)) == more
