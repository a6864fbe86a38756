"""A KV cache in int8, fp8 and int4: its bytes as predicted, its errors within what the format gives, its steps as planned."""

import copy
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgepoint.choice import parse_choices, resolve
from ridgepoint.engine.build import build_random
from ridgepoint.engine.cache import KvCache, quantise_cache
from ridgepoint.errors import NotSupported, RidgeError, UnknownName
from ridgepoint.hardware import load_target
from ridgepoint.kernels.kv_cache import CACHE_FORMATS, KvRead, KvStore, KvWriteQuantised
from ridgepoint.measurement.runnable import build_weights, runnable
from ridgepoint.prediction import predict, predict_memory, step_time
from ridgepoint.workload import Attention, LinearLayer, Pointwise, decode, forward, load_model, prefill, train
from ridgepoint.workload.families import from_config

TARGET = load_target(str(Path(__file__).parent / "data" / "test-target.calibrated.toml"))
CONFIG = {
    "model_type": "llama", "vocab_size": 256, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16",
}  # fmt: skip
MODEL = from_config("small", CONFIG)
WINDOWED = from_config("windowed", {**CONFIG, "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8,
                                    "max_window_layers": 1})  # fmt: skip
many = settings(max_examples=60, deadline=None)


def tokens(seed: int, size: float = 1.0, shape: tuple[int, ...] = (2, 3, 5, 32)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size


def through(x: torch.Tensor, format: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    store = KvStore.zeros(x.shape, format)
    store.write(x, 0)
    return store.read(dtype)


@many
@given(st.integers(0, 2**20), st.floats(-6, 4))
def test_error_of_each_format(seed: int, power: float) -> None:
    """int8: half a scale of the token and head, its largest / 127. int4: half a step, a fifteenth of its range, and the
    rounding of scale and smallest value to bf16. fp8: a sixteenth of the number, or half the smallest subnormal."""
    x = tokens(seed, 10.0**power)
    largest = x.abs().amax(-1, keepdim=True)
    assert ((through(x, "int8") - x).abs() <= 0.5001 * largest / 127 + 1e-9).all()
    spread = x.amax(-1, keepdim=True) - x.amin(-1, keepdim=True)
    # rounded low moves the grid by 2^-9 of itself, a scale rounded down cuts 15 steps short
    bound = 0.5 * spread / 15 * 1.01 + 2**-8 * largest + 2**-8 * spread
    assert ((through(x, "int4") - x).abs() <= bound + 1e-8).all()
    small = x.clamp(-448, 448)
    assert ((through(x, "fp8") - small).abs() <= torch.maximum(small.abs() / 16, torch.tensor(2.0**-10))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_number_of_e4m3_is_read_exactly(dtype: torch.dtype) -> None:
    """Against torch's own cast, for all bit patterns but the two that are no number."""
    bits = torch.arange(256, dtype=torch.uint8)
    numbers = bits[(bits & 0x7F) != 0x7F].view(torch.float8_e4m3fn)
    store = KvStore("fp8", numbers.view(1, 1, 1, -1), None)
    assert torch.equal(store.read(dtype).flatten(), numbers.to(dtype))


@pytest.mark.parametrize("format", CACHE_FORMATS)
def test_tokens_are_written_where_they_belong_and_inputs_are_left_alone(format: str) -> None:
    x, store = tokens(1), KvStore.zeros((2, 3, 9, 32), format)
    kept = x.clone()
    for at in (0, 4, 8):
        store.write(x[:, :, :1], at)
    store.write(x[:, :, :3], 1)
    assert torch.equal(x, kept)
    assert torch.equal(store.span(1, 4).read(torch.float32), through(x[:, :, :3], format))
    assert torch.equal(store.span(8, 9).read(torch.float32), through(x[:, :, :1], format))
    assert not store.span(5, 8).read(torch.float32).any()


def test_int4_keeps_sixteen_values_exactly() -> None:
    """Numbers that the grid holds come back as they were, in any order: the halves of a byte are not mixed up."""
    order = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(i)) for i in range(6)])
    x = (order.float() - 8).repeat(1, 2).view(1, 2, 3, 32)
    assert torch.equal(through(x, "int4"), x)


@pytest.mark.parametrize("format", CACHE_FORMATS)
@pytest.mark.parametrize("batch", [1, 3])
def test_bytes_on_metal_are_those_on_paper(format: str, batch: int) -> None:
    plan = resolve(f"kv:{format}", "bf16").plan(MODEL, decode(batch, 99))
    cache = KvCache(MODEL, batch, 100, "bf16", format=format)
    assert cache.bytes == plan.kv_cache_bytes == predict_memory(plan).kv_cache_bytes
    width, scale = {"int8": (1, 4), "fp8": (1, 0), "int4": (0.5, 4)}[format]
    assert cache.bytes == batch * 100 * 3 * 2 * 2 * (32 * width + scale)
    plain = KvCache(MODEL, batch, 100, "bf16").bytes
    assert cache.bytes < {"int8": 0.57, "fp8": 0.51, "int4": 0.38}[format] * plain


def stepped(
    model, decoder, format: str, dtype: str = "fp32", chunks: tuple[int, ...] = (6, 1, 1, 3, 1)
) -> torch.Tensor:
    """Logits of the last token, after the prompt has come in chunks."""
    cache = KvCache(decoder, 2, 16, dtype, format=format)
    tokens_BT = torch.arange(2 * sum(chunks)).view(2, -1) % 251
    at = 0
    for new in chunks:
        y = model(tokens_BT[:, at : at + new], cache, at)
        at += new
    return y


@pytest.mark.parametrize("decoder", [MODEL, WINDOWED], ids=lambda d: d.name)
@pytest.mark.parametrize("format", CACHE_FORMATS)
def test_a_model_sees_what_its_cache_holds(format: str, decoder) -> None:
    """The oracle: the same model with a plain cache whose tokens are rounded as the format rounds them, as they are written."""
    model = build_random(decoder, "fp32")
    for layer in model.layers:
        layer.q_proj.weight.mul_(20)  # so that attention is not the same everywhere
        layer.v_proj.weight.mul_(20)
    rounding = copy.deepcopy(model)
    for layer in rounding.layers:
        plain = layer.kv_write
        layer.kv_write.forward = lambda k, v, *rest, plain=plain: type(plain).forward(
            plain, through(k, format), through(v, format), *rest
        )
    exact = stepped(model, decoder, "")
    wanted = stepped(rounding, decoder, "")
    found = stepped(quantise_cache(model, "fp32"), decoder, format)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, exact, rtol=1e-5, atol=1e-6)


def test_a_plain_cache_is_plain_in_a_rewritten_model() -> None:
    """The walk that shows layers a calibration text keeps no cache; formats have no part in it."""
    model = build_random(MODEL, "fp32")
    before = stepped(model, MODEL, "")
    assert torch.equal(stepped(quantise_cache(model, "fp32"), MODEL, ""), before)


@pytest.mark.parametrize("format", CACHE_FORMATS)
@pytest.mark.parametrize("decoder", [MODEL, WINDOWED], ids=lambda d: d.name)
def test_rows_of_the_plan_are_modules_of_the_model(format: str, decoder) -> None:
    side = resolve(f"bf16+kv:{format}", "bf16")
    for step in (decode(2, 20), prefill(2, 12)):
        plan = side.plan(decoder, step)
        rows = {op.name: op for op in plan.ops}
        run = runnable(decoder, side, step, build_weights(decoder, side, step, {}))
        run.call()
        modules = {
            run.row_of(path) for path, m in run.model.named_modules() if isinstance(m, KvRead | KvWriteQuantised)
        }
        assert modules == {n for n, op in rows.items() if isinstance(op, Pointwise) and op.role == "cache"}
        assert run.cache_bytes == plan.kv_cache_bytes


def test_what_is_read_is_what_attention_sees() -> None:
    """A window of 8 keys dequantises 8 tokens, however long the cache is."""
    plan = resolve("kv:int8", "bf16").plan(WINDOWED, decode(3, 100))
    reads = {op.name: float(op.rows) for op in plan.ops if op.kind == "kv_read_int8"}
    assert reads == {"kv_read": 3 * 101, "kv_read#2": 3 * 8}
    store = KvStore.zeros((1, 2, 40, 32), "int8")
    assert KvRead(torch.float32)(store, store, 8)[0].shape[2] == 8


@pytest.mark.parametrize("new", [1, 12])
def test_the_model_reads_a_window_alone_where_one_token_is_new(new: int) -> None:
    model = quantise_cache(build_random(WINDOWED, "fp32"), "fp32")
    lengths = []
    for layer in model.layers:
        layer.kv_read.register_forward_hook(lambda _, args, out: lengths.append(out[0].shape[2]))
    cache = KvCache(WINDOWED, 1, 40, "fp32", format="int8")
    model(torch.arange(20)[None], cache, 0)
    lengths.clear()
    model(torch.arange(new)[None], cache, 20)
    assert lengths == ([21, 8, 8] if new == 1 else [32, 32, 32])


def test_laws_of_the_stage_take_the_place_of_counted_passes() -> None:
    """`ridge calibrate --kv` yields samples whose fit is a law of its own kind; a prediction then names and uses it."""
    from ridgepoint.measurement.calibrate.kv_cache import kv_cache_samples
    from ridgepoint.study.fit import fit_pointwise

    samples = list(kv_cache_samples("int8", "bf16", 1e-4, 1e6))
    assert {s["kind"] for s in samples} == {"kv_read_int8", "kv_write_int8"}
    assert all(s["seconds"] > 0 for s in samples)
    doubled = [{**s, "seconds": 1e-6 + 2e-9 * s["rows"] * s["cols"]} for s in samples]
    laws = fit_pointwise(doubled, "x")
    read = next(law for law in laws if law.kind == "kv_read_int8")
    assert read.terms == pytest.approx((1e-6, 0, 2e-9), rel=1e-3, abs=1e-12)
    target = msgspec.structs.replace(TARGET, pointwise=(*TARGET.pointwise, *laws))
    plan = resolve("kv:int8", "bf16").plan(MODEL, decode(4, 999))
    (row,) = [row for row in predict(plan, target).ops if row.name == "kv_read"]
    assert row.kernel == "kv_read_int8"
    assert row.time_s == pytest.approx(3 * (1e-6 + 2e-9 * 4000 * 128), rel=0.2)  # and what a network adds per call


def test_memory_moves_from_the_cache_to_the_codes() -> None:
    """Attention reads a copy, which is an activation; codes are what is left of the cache."""
    plain, int8 = (resolve(t, "bf16").plan(MODEL, decode(4, 99)) for t in ("bf16", "kv:int8"))
    (before,), (after,) = ([op for op in p.ops if isinstance(op, Attention)] for p in (plain, int8))
    assert after.kv_bytes == 0 and after.bytes == before.bytes and after.flops == before.flops
    (read,) = [op for op in int8.ops if op.kind == "kv_read_int8"]
    elements = 4 * 100 * 2 * 2 * 32
    assert read.bytes == elements * 3  # a byte in, two out
    long = resolve("kv:int8", "bf16").plan(MODEL, decode(64, 500))
    assert predict_memory(long).activations_bytes == 64 * 501 * 2 * 2 * 32 * 2


@pytest.mark.parametrize("format", CACHE_FORMATS)
def test_a_quantised_cache_is_predicted_slower_on_a_cpu(format: str) -> None:
    """No kernel reads it, so that the work is added to the step; more of it the longer the cache."""

    def ratio(context: int) -> float:
        a, b = (
            resolve(t, "bf16").plan(load_model("smollm2-135m"), decode(4, context)) for t in ("bf16", f"kv:{format}")
        )
        return float(step_time(a, TARGET).seconds / step_time(b, TARGET).seconds)

    assert ratio(1000) < ratio(64) < 1
    kernels = {row.kernel for row in predict(resolve(f"kv:{format}", "bf16").plan(MODEL, decode(1, 8)), TARGET).ops}
    assert f"kv_read_{format} by its passes" in kernels


def test_sweeps_give_arrays() -> None:
    plan = resolve("kv:int4", "bf16").plan(MODEL, decode(np.array([1, 4, 16]), 99))
    assert np.shape(plan.kv_cache_bytes) == (3,) and np.shape(step_time(plan, TARGET).seconds) == (3,)


def test_serving_stacks_read_fp8_themselves() -> None:
    """On a datasheet target fp8 halves what attention reads, and int8 and int4 are refused by name."""
    h100, model = load_target("h100-sxm", "cuda"), load_model("llama-3.1-8b")
    plans = {t: resolve(t, "bf16", "cuda").plan(model, decode(64, 8000)) for t in ("bf16", "kv:fp8", "kv:int8")}
    seconds = {
        t: {row.name: row.time_s for row in predict(plans[t], h100).ops} for t in ("bf16", "kv:fp8")
    }  # fmt: skip
    assert "kv_read" not in seconds["kv:fp8"]
    assert 0.4 < seconds["kv:fp8"]["attention"] / seconds["bf16"]["attention"] < 0.75
    assert seconds["kv:fp8"]["kv_write"] == seconds["bf16"]["kv_write"]
    with pytest.raises(NotSupported, match="int8.*kv:fp8 of vllm"):
        predict(plans["kv:int8"], h100)
    with pytest.raises(NotSupported, match="of pytorch"):
        predict(replace(plans["kv:fp8"], stack="pytorch"), load_target("h100-sxm", "cuda"))


@pytest.mark.parametrize(
    ("text", "error"),
    [("kv", UnknownName), ("kv:int2", UnknownName), ("kv:int8:x", RidgeError), ("kv:f=int8", RidgeError)],
)
def test_other_formats_are_refused(text: str, error: type[RidgeError]) -> None:
    with pytest.raises(error):
        parse_choices(text)


def test_what_caches_nothing_is_refused() -> None:
    side = resolve("kv:int8", "bf16")
    for workload, step in (
        (LinearLayer(64, 64), decode(1, 0)),
        (MODEL, train(1, 8)),
        (load_model("bert-base-uncased"), forward(1, 8)),
    ):
        with pytest.raises(NotSupported, match="caches no keys"):
            side.plan(workload, step)
    with pytest.raises(NotSupported, match="compile"):
        resolve("kv:int8+compile", "bf16").plan(MODEL, decode(1, 8))
