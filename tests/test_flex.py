"""FlexAttention as a choice: what it changes on paper, what it computes, and where it is refused."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgepoint.choice import Metal, resolve
from ridgepoint.errors import NotSupported
from ridgepoint.hardware import load_target
from ridgepoint.hardware.law import block_pairs
from ridgepoint.prediction import step_time
from ridgepoint.workload import Attention, decode, load_model, prefill, train

POCKET = load_model("pocket")
TARGET = load_target(str(Path(__file__).parent / "data" / "test-target.calibrated.toml"))


def attention(text, step):
    return next(op for op in resolve(text, "fp32").plan(POCKET, step).ops if isinstance(op, Attention))


def test_a_window_on_a_prompt_is_skipped_by_flex_and_masked_by_others():
    masked, skipped = (attention(t, prefill(1, 400)) for t in ("window:64", "flex+window:64"))
    assert (masked.causal, masked.window) == (False, 0) and (skipped.causal, skipped.window) == (True, 64)
    assert skipped.flops < 0.2 * masked.flops


def test_prompts_have_a_law_of_their_own_and_single_tokens_are_those_of_flash():
    plans = {t: resolve(t, "fp32").plan(POCKET, decode(4, 100)) for t in ("fp32", "flex")}
    assert float(step_time(plans["fp32"], TARGET).seconds) == float(step_time(plans["flex"], TARGET).seconds)
    prompt = resolve("flex", "fp32").plan(POCKET, prefill(1, 100))
    with pytest.raises(NotSupported, match="ridge calibrate --compile"):
        step_time(prompt, TARGET)
    law = next(a for a in TARGET.attention if a.kernel == "flash" and a.dtype == "fp32")
    slow = msgspec.structs.replace(law, kernel="flex", prefill=tuple(2 * c for c in law.prefill))
    known = msgspec.structs.replace(TARGET, attention=(*TARGET.attention, slow))
    flash = resolve("flash", "fp32").plan(POCKET, prefill(1, 100))
    assert float(step_time(prompt, known).seconds) > float(step_time(flash, known).seconds)


@pytest.mark.parametrize(
    ("text", "step", "model", "says"),
    [
        ("flex", train(1, 8), POCKET, "no gradient"), ("flex+compile", decode(1, 8), POCKET, "compiled by itself"),
        ("flex", decode(1, 1), load_model("linear:64x64"), "calls no attention"),
    ],
)  # fmt: skip
def test_refused_where_it_cannot(text, step, model, says):
    with pytest.raises(NotSupported, match=says):
        resolve(text, "fp32").plan(model, step)


@given(st.integers(1, 700), st.integers(0, 500), st.integers(0, 400))
def test_blocks_are_counted_as_a_mask_would(new, cached, window):
    keys = new + cached
    rows, columns = np.arange(cached, keys)[:, None], np.arange(keys)[None]
    seen = (columns <= rows) & (columns > rows - (window or keys))
    blocks = sum(bool(seen[i : i + 128, j : j + 128].any()) for i in range(0, new, 128) for j in range(0, keys, 128))
    assert float(block_pairs(new, keys, window)) == blocks * 128 * 128


def test_a_kernel_with_few_shapes_is_fitted_by_few_terms():
    from ridgepoint.measurement.calibrate.attention import FLEX_PREFILL
    from ridgepoint.study.fit import fit_attention

    samples = []
    for b, heads, kv_heads, d, length, window in FLEX_PREFILL:
        pairs = b * heads * float(block_pairs(length, length, window))
        samples.append({"probe": "attention", "kernel": "flex", "act": "fp32", "phase": "prefill", "batch": b, "heads": heads,
                        "kv_heads": kv_heads, "head_dim": d, "length": length, "window": window,
                        "seconds": 2e-5 + 1e-10 * pairs * d + 3e-9 * b * heads * length * d})  # fmt: skip
    (law,) = fit_attention(samples, "test")
    assert (
        law.prefill[1] == law.prefill[3] == 0.0
        and law.prefill[4] == pytest.approx(1e-10, rel=1e-3)
        and law.sigma < 0.05
    )


def test_no_gpu_has_a_law_of_it():
    step = prefill(1, 64)
    with pytest.raises(NotSupported, match="measured on no GPU"):
        step_time(resolve("flex", "bf16", "cuda").plan(POCKET, step), load_target("h100-sxm"))


def test_laws_of_prompts_alone_are_fitted_by_the_pairs_that_are_seen():
    from ridgepoint.study.fit import fit_attention

    samples = []
    for heads, d, length, window in ((4, 64, 100, 0), (8, 64, 300, 50), (2, 32, 500, 0), (6, 128, 200, 20), (3, 64, 700, 0),
                                     (5, 32, 60, 10), (9, 128, 90, 0)):  # fmt: skip
        pairs = heads * float(block_pairs(length, length, window))
        samples.append({"probe": "attention", "kernel": "flex", "act": "fp32", "phase": "prefill", "batch": 1, "heads": heads,
                        "kv_heads": heads, "head_dim": d, "length": length, "window": window,
                        "seconds": 1e-5 + 2e-10 * pairs * d})  # fmt: skip
    (law,) = fit_attention(samples, "test")
    assert law.prefill[-1] == pytest.approx(2e-10, rel=1e-3) and set(law.decode) == {0.0}


@pytest.mark.slow
@pytest.mark.parametrize(("new", "keys", "window"), [(70, 70, 0), (200, 300, 40)])
def test_it_computes_what_a_mask_does(new, keys, window):
    torch = pytest.importorskip("torch")
    from ridgepoint.kernels.flex import flex_attention

    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, t, 32, generator=generator) for h, t in ((4, new), (2, keys), (2, keys)))
    rows, columns = torch.arange(keys - new, keys)[:, None], torch.arange(keys)[None]
    mask = (columns <= rows) & (columns > rows - (window or keys))
    with torch.inference_mode():
        ours = flex_attention(q, k, v, window)
        theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_a_model_says_the_same_with_it():
    torch = pytest.importorskip("torch")
    from ridgepoint.engine.build import build_random
    from ridgepoint.engine.cache import KvCache

    tokens = torch.arange(90)[None]
    said = []
    for text in ("fp32+window:16", "fp32+flex+window:16"):
        side = resolve(text, "fp32")
        plan = side.plan(POCKET, prefill(1, 90))
        model = build_random(POCKET, "fp32", convert=lambda m, n, s=side, p=plan: s.on_metal(m, p, Metal({}, n)))
        said.append(model(tokens, KvCache(POCKET, 1, 90, "fp32"), 0, "all"))
    assert torch.allclose(*said, atol=1e-3)
