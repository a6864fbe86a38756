"""The reason of a verdict argues for the side that won, from the operators that make the difference, or is absent."""

import pytest

from ridgepoint.result import OpRow
from ridgepoint.study.reason import reason


def row(kind: str, time_s: float, bytes_: float = 1e6, flops: float = 1e9, bound: str = "memory") -> OpRow:
    return OpRow(
        name=kind, kind=kind, role="", kernel="", count=1, time_s=time_s, low_s=time_s, high_s=time_s, bound=bound,
        flops=flops, bytes=bytes_,
    )  # fmt: skip


SLIM, WIDE = (row("linear", 1e-3), row("attention", 1e-3)), (row("linear", 3e-3, 3e6), row("attention", 1e-3))


def test_fewer_bytes_explain_a_gain_of_a_side_that_waits_for_memory():
    assert reason({1: 2.0}, {1: (WIDE, SLIM)}, "fp32", "int4") == (
        "the linear layers wait for weights and int4 moves 3.0x fewer bytes"
    )
    assert "fp32 moves 3.0x fewer bytes" in reason({1: 0.5}, {1: (SLIM, WIDE)}, "fp32", "int4")


def test_rates_explain_a_side_that_computes():
    fast, slow = (row("linear", 1e-3, bound="compute"),), (row("linear", 4e-3, bound="compute"),)
    said = reason({64: 0.25}, {64: (fast, slow)}, "bf16", "int4")
    assert said == "int4's kernels compute at 250 GFLOP/s against 1 TFLOP/s of bf16"


def test_the_same_kernels_differ_by_their_calls_only():
    from dataclasses import replace

    fast, slow = (replace(row("linear", s, bound="dispatch"), kernel="F.linear:fp32") for s in (1e-3, 2e-3))
    said = reason({1: 2.0}, {1: ((slow,), (fast,))}, "grad", "inference")
    assert said == "the same linear layers, calls included, take 1 ms in inference and 2 ms in grad"


def test_attention_or_the_operators_between_explain_what_layers_do_not():
    a, b = (row("linear", 1e-3), row("attention", 1e-3)), (row("linear", 1e-3), row("attention", 5e-3))
    assert reason({1: 0.3}, {1: (a, b)}, "fp32", "bf16") == "attention takes 5 ms in bf16 and 1 ms in fp32"
    b = (row("linear", 1e-3), row("rms_norm", 2e-3), row("attention", 1e-3))
    assert "operators between the layers take 2 ms in bf16" in reason({1: 0.3}, {1: (a, b)}, "fp32", "bf16")


@pytest.mark.parametrize("measured", [1.0, 1.02, 0.5])
def test_no_reason_for_a_tie_or_against_what_was_measured(measured):
    assert reason({1: measured}, {1: (WIDE, SLIM)}, "fp32", "int4") == ""


def test_ends_with_different_reasons_are_told_apart():
    fast, slow = (row("linear", 1e-3, bound="compute"),), (row("linear", 4e-3, bound="compute"),)
    said = reason({1: 2.0, 64: 0.25}, {1: (WIDE, SLIM), 64: (fast, slow)}, "bf16", "int4")
    assert said.startswith("at batch 1 the linear layers wait") and ", at batch 64 int4's kernels compute" in said
    assert reason({1: 2.0, 64: 1.0}, {1: (WIDE, SLIM), 64: (fast, slow)}, "bf16", "int4").startswith("at batch 1 ")


def test_a_quantised_cache_is_named_with_what_it_costs():
    plain = (row("linear", 1e-3), row("kv_write", 1e-5))
    int8 = (row("linear", 1e-3), row("kv_write_int8", 1e-4), row("kv_read_int8", 1e-3))
    assert reason({1: 0.5}, {1: (plain, int8)}, "bf16", "kv:int8") == (
        "writing and reading the KV cache takes 1.1 ms in kv:int8 and 10 µs in bf16: no kernel here reads kv:int8, so all of it "
        "is dequantised at each step"
    )
