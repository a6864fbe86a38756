"""A sliding window as a choice: what a step reads on paper, and what the model computes."""

import pytest

from ridgepoint.choice import Metal, resolve
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload import Attention, decode, forward, load_model, prefill

SMOL = load_model("smollm2-135m")


def attention(text, step):
    return next(op for op in resolve(text, "bf16").plan(SMOL, step).ops if isinstance(op, Attention))


def test_a_decoding_step_reads_the_window_only():
    whole, narrow = attention("bf16", decode(2, 1000)), attention("window:64", decode(2, 1000))
    assert narrow.kv_bytes == pytest.approx(whole.kv_bytes * 64 / 1001) and narrow.flops < 0.07 * whole.flops
    assert attention("window:4096", decode(2, 1000)).kv_bytes == whole.kv_bytes
    plans = [resolve(t, "bf16").plan(SMOL, decode(2, 1000)) for t in ("bf16", "window:64")]
    assert plans[0].kv_cache_bytes == plans[1].kv_cache_bytes, "the cache holds all keys all the same"


def test_a_prompt_longer_than_the_window_costs_more_on_a_cpu_and_less_elsewhere():
    """As a mask it hides pairs that are multiplied all the same, twice as many as causality leaves."""
    whole, masked = attention("bf16", prefill(1, 512)), attention("window:64", prefill(1, 512))
    assert masked.flops == pytest.approx(whole.flops * 512 / 256.5)
    assert attention("window:512", prefill(1, 512)).flops == whole.flops
    gpu = next(
        op for op in resolve("window:64", "bf16", "cuda").plan(SMOL, prefill(1, 512)).ops if isinstance(op, Attention)
    )
    assert gpu.flops < 0.25 * whole.flops


@pytest.mark.parametrize("text", ["window", "window:0", "window:x", "window:8:9"])
def test_what_is_no_window_is_refused(text):
    with pytest.raises(BadInput):
        resolve(text, "bf16")


def test_only_language_models_have_one():
    with pytest.raises(NotSupported, match="for language models"):
        resolve("window:8", "bf16").plan(load_model("linear:64x64"), decode(1, 1))


def test_the_model_sees_no_further_than_the_window():
    """Changing a token that lies before the window of the last one changes nothing in what the last one says, in one layer."""
    torch = pytest.importorskip("torch")
    from dataclasses import replace

    from ridgepoint.engine.build import build_random
    from ridgepoint.engine.cache import KvCache

    one = replace(load_model("pocket"), blocks=(replace(load_model("pocket").blocks[0], count=1),))
    side = resolve("fp32+window:4", "bf16")
    plan = side.plan(one, forward(1, 12))
    model = build_random(one, "fp32", convert=lambda m, layer: side.on_metal(m, plan, Metal({}, layer)))
    tokens = torch.arange(12)[None]
    other = tokens.clone()
    other[0, 7] = 99
    near = tokens.clone()
    near[0, 8] = 99

    def said(ids):
        return model(ids, KvCache(one, 1, 12, "fp32"), 0, "all")[0, -1]

    assert torch.equal(said(tokens), said(other)) and not torch.equal(said(tokens), said(near))


def test_three_bits_are_for_memory_alone():
    with pytest.raises(NotSupported, match="no kernel; `ridge fit`"):
        resolve("int3", "bf16").plan(SMOL, decode(1, 8))
    sizes = {
        t: float(resolve(t, "bf16", "cuda").plan(SMOL, decode(1, 8)).weight_bytes) for t in ("int3", "int4", "bf16")
    }
    assert sizes["int4"] - sizes["int3"] == pytest.approx((sizes["bf16"] - sizes["int4"]) / 11)  # 1 bit of 11 saved
    assert resolve("int3:g64:layers=0-3", "bf16", "cuda").spec == "bf16+int3:g64:layers=0-3+threads:1"
