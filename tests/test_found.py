"""Which fit answers for a machine and a stack: the nearest one, with what separates it named and its error added."""

from datetime import date

import numpy as np
import pytest

from ridgepoint.errors import BadInput, NotSupported, UnknownName
from ridgepoint.hardware import Arch, Fit, Transfer, data_folder, decode_arch, encode_arch, load_arch, save_arch
from ridgepoint.hardware.arch import ARCH_SCHEMA
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.found import Stack, find_fit

TODAY = date(2026, 1, 1).isoformat()


def fit(framework="", version="", variant="", dtype="bf16", gpus=("card-a",), operator="op", rows=100, mark=0.0):
    return Fit(
        operator=operator, dtype=dtype, framework=framework, version=version, variant=variant, values={"mark": mark},
        spread=(0.0,) * 5, files=("x.csv",), gpus=gpus, rows=rows, date=TODAY,
    )  # fmt: skip


def transfer(step, sigma, operator="op"):
    return Transfer(operator=operator, step=step, sigma=sigma, pairs=1)


def written(name, fits, pooled=(), transfers=()):
    arch = Arch(schema=ARCH_SCHEMA, name=name, meaning="m", pooled_from=pooled, fits=fits, transfers=transfers)
    save_arch(arch, data_folder() / "arch")


def card(arch, name="card-a"):
    return Device(name, arch, 1, 1e9, 1e12, 1e6, 100.0, {}, {})


def test_the_same_machine_and_stack_adds_no_error():
    written(
        "own", (fit("vllm", "1.0", mark=1.0), fit("sglang", "1.0", mark=2.0)), transfers=(transfer("framework", 0.3),)
    )
    found = find_fit(card("own"), "op", ("bf16",), Stack("sglang", "1.0"))
    assert (found.fit.values["mark"], found.steps, found.sigma) == (2.0, (), 0.0)


def test_each_step_away_is_named_and_adds_its_error():
    steps = (transfer("version", 0.1), transfer("framework", 0.3), transfer("gpu", 0.4), transfer("class", 0.5))
    written("near", (fit("vllm", "1.0"),), transfers=steps)
    written("far", (), pooled=("near",))
    same = find_fit(card("near"), "op", ("bf16",), Stack("vllm", "2.0"))
    assert (same.steps, same.sigma) == (("version",), 0.1)
    other = find_fit(card("near", "card-b"), "op", ("bf16",), Stack("trtllm", "2.0"))
    assert other.steps == ("gpu", "framework")
    assert other.sigma == pytest.approx(0.5)
    assert find_fit(card("far"), "op", ("bf16",), Stack("vllm", "1.0")).steps == ("class",)


@pytest.mark.parametrize(
    ("asked", "taken"), [("0.9", "1.0"), ("1.4", "1.0"), ("1.6", "1.0"), ("9", "2.0"), ("", "2.0")]
)
def test_the_nearest_version_answers_and_the_newest_where_nobody_asks(asked, taken):
    written("versions", (fit("vllm", "1.0"), fit("vllm", "2.0")))
    assert find_fit(card("versions"), "op", ("bf16",), Stack("vllm", asked)).fit.version == taken


def test_release_candidates_are_ordered_as_numbers():
    written("rcs", (fit("trtllm", "1.3.0rc9"), fit("trtllm", "1.3.0rc20"), fit("trtllm", "1.3.0rc100")))
    assert find_fit(card("rcs"), "op", ("bf16",), Stack("trtllm", "1.3.0rc23")).fit.version == "1.3.0rc20"


def test_a_framework_that_nobody_measured_takes_what_all_share():
    written("shared", (fit("vllm", "1.0", rows=900), fit("sglang", "1.0"), fit("", rows=10, mark=7.0)))
    found = find_fit(card("shared"), "op", ("bf16",), Stack("tensorflow", "3"))
    assert found.fit.values["mark"] == 7.0 and found.steps == ("framework",)


def test_a_kernel_that_nobody_measured_takes_the_one_most_alike():
    written(
        "kernels",
        (fit("vllm", "1", "flash_attn_fa3/fp8kv"), fit("vllm", "1", "triton/fp8kv"), fit("vllm", "1", "triton/bf16kv")),
    )
    found = find_fit(card("kernels"), "op", ("bf16",), Stack("vllm", "1", "flash_attn_fa4/fp8kv"))
    assert found.fit.variant == "flash_attn_fa3/fp8kv" and found.steps == ("variant",)


def test_a_variant_that_is_an_operator_is_never_taken_for_another():
    written("strict", (fit("pytorch", "2", "norm", operator="pointwise"),))
    assert find_fit(card("strict"), "pointwise", ("bf16",), Stack("pytorch", "2", "norm")).steps == ()
    with pytest.raises(NotSupported, match="no pointwise in bf16"):
        find_fit(card("strict"), "pointwise", ("bf16",), Stack("pytorch", "2", "softmax"))


def test_the_class_itself_comes_before_those_it_is_pooled_from_and_each_is_asked_once():
    written("first", (fit("sglang", "1", mark=1.0),), pooled=("second",))
    written("second", (fit("vllm", "1", mark=2.0), fit("vllm", "1", dtype="fp8", mark=3.0)), pooled=("first",))
    assert find_fit(card("first"), "op", ("bf16",), Stack("vllm", "1")).fit.values["mark"] == 1.0
    assert find_fit(card("first"), "op", ("fp8",), Stack("vllm", "1")).fit.values["mark"] == 3.0
    with pytest.raises(NotSupported, match="int4_wo was measured .*measured: bf16, fp8; `ridge calibrate --from"):
        find_fit(card("first"), "op", ("int4_wo",), Stack("vllm", "1"))


def test_a_class_comes_back_unchanged_and_malformed_ones_are_refused():
    arch = Arch(schema=ARCH_SCHEMA, name="x", meaning="m", fits=(fit("vllm"),), transfers=(transfer("gpu", 0.1),))
    assert decode_arch("x", encode_arch(arch)) == arch
    with pytest.raises(BadInput, match="schema 99"):
        decode_arch("x", encode_arch(arch).replace(b"schema = 1", b"schema = 99"))
    with pytest.raises(BadInput, match="no step 'moon'"):
        decode_arch("x", encode_arch(arch).replace(b'step = "gpu"', b'step = "moon"'))
    with pytest.raises(BadInput, match="architecture class x"):
        decode_arch("x", b"schema = [")
    with pytest.raises(UnknownName, match="no architecture class named 'hoper'"):
        load_arch("hoper")


def test_a_users_class_wins_over_the_packages():
    written("hopper", (fit("mine", "1", mark=5.0),))
    found = find_fit(card("hopper"), "op", ("bf16",), Stack("mine", "1"))
    assert found.fit.values["mark"] == 5.0
    assert np.isfinite(found.sigma)


def test_a_quantised_format_asks_other_classes_for_its_framework_first_and_a_plain_one_does_not():
    written("far", (fit("sglang", "1.0", dtype="fp8_block", mark=2.0), fit("sglang", "1.0", mark=4.0)))
    written("near", (fit("vllm", "1.0", dtype="fp8_block", mark=1.0), fit("vllm", "1.0", mark=3.0)), pooled=("far",))
    for dtype, framework, taken in (
        ("fp8_block", "sglang", 2.0), ("fp8_block", "vllm", 1.0), ("fp8_block", "trtllm", 1.0), ("fp8_block", "", 1.0),
        ("bf16", "sglang", 3.0),
    ):  # fmt: skip
        assert find_fit(card("near"), "op", (dtype,), Stack(framework)).fit.values["mark"] == taken
