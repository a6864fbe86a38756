"""Time of attention, prefill, decode and both at once: known answers, the rules of physics, and what published tables say."""

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.attention_decode import DecodeParameters, decode_time
from ridgepoint.prediction.physics.attention_mixed import mixed_time
from ridgepoint.prediction.physics.attention_prefill import PrefillParameters, prefill_time
from ridgepoint.prediction.physics.attention_rates import AttentionWork, exponentials_per_clock
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.parameters import Parameters, parameters_of
from ridgepoint.study.published.attention_chunked import ATTENTION_CHUNKED, ChunkedParameters
from ridgepoint.study.published.attention_decode import ATTENTION_DECODE
from ridgepoint.study.published.attention_encoder import ATTENTION_ENCODER
from ridgepoint.study.published.attention_prefill import ATTENTION_PREFILL
from ridgepoint.study.published.table import read_table
from ridgepoint.workload import Group

H100 = Device(
    "h100-sxm", "hopper", 132, 1.98e9, 3.35e12, 50 * 2**20, 700.0, {"bf16": 989e12, "fp8": 1979e12}, {"fp32": 67e12}
)
FREE = PrefillParameters(
    launch_s=5e-7, tensor_share=1.0, exp_share=1.0, overlap=8.0, step_clocks=10, tile_clocks=50,
    row_bytes_per_clock=1e3, key_bytes_per_clock=500, wide=0.01, packed=0.001, slots=8, tail=0.001, dram_share=0.97,
    key_passes=0.01, sequence_s=1e-12, sharpness=8.0,
)  # fmt: skip
STREAM = DecodeParameters(
    launch_s=5e-7, dram_share=0.8, sm_bytes_per_clock=200, step_clocks=5, block_clocks=50, slots=16, split_s=1e-9,
    sequence_s=1e-12, row_clocks=1, group_clocks=1, tensor_share=1.0, sharpness=8.0,
)  # fmt: skip

P = TypeVar("P", bound=Parameters)
few, many = st.integers(1, 64), st.integers(1, 1 << 15)
dims = st.sampled_from([32, 64, 72, 128, 192, 256, 576])
windows = st.one_of(st.just(0), st.integers(1, 4096))


def draw_parameters(draw: st.DrawFn, model: type[P]) -> P:
    values = {}
    for p in parameters_of(model):
        values[p.name] = float(np.clip(np.exp(draw(st.floats(np.log(p.low), np.log(p.high)))), p.low, p.high))
    return model(**values)


@st.composite
def prefills(draw: st.DrawFn) -> PrefillParameters:
    return draw_parameters(draw, PrefillParameters)


@st.composite
def decodes(draw: st.DrawFn) -> DecodeParameters:
    return draw_parameters(draw, DecodeParameters)


@st.composite
def devices(draw: st.DrawFn) -> Device:
    return replace(
        H100, sm_count=draw(st.integers(8, 200)), clock_hz=draw(st.floats(8e8, 3e9)),
        dram_bytes_per_s=draw(st.floats(1e11, 1e13)), l2_bytes=draw(st.floats(1e6, 2e8)),
        tensor_flops_per_s={"bf16": draw(st.floats(2e13, 5e15))},
    )  # fmt: skip


def test_long_prefill_runs_at_the_tensor_peak() -> None:
    time = prefill_time(H100, FREE, "bf16", 1, 65536, 65536, 64, 8, 256)
    pairs = 65536 * 65537 / 2
    assert time.compute_s == pytest.approx(4 * 64 * 256 * pairs / 989e12)
    assert time.seconds == pytest.approx(float(time.compute_s), rel=0.03)
    assert time.bound() == "compute"


def test_exponentials_bound_a_small_head_and_not_a_large_one() -> None:
    quick = replace(H100, tensor_flops_per_s={"bf16": 1e17})
    pairs = 8 * 64 * 8192 * 8193 / 2
    exp_s = pairs / (16 * 132 * 1.98e9)
    assert prefill_time(quick, FREE, "bf16", 8, 8192, 8192, 64, 8, 64).seconds == pytest.approx(exp_s, rel=0.03)
    doubled = prefill_time(replace(quick, name="b300"), FREE, "bf16", 8, 8192, 8192, 64, 8, 64).seconds
    assert doubled == pytest.approx(exp_s / 2, rel=0.05)
    assert exponentials_per_clock(replace(H100, name="gb300")) == 2 * exponentials_per_clock(H100)


def test_a_window_and_no_cache_cut_the_pairs() -> None:
    work = AttentionWork.of(1, 4, 6, 1, 1, 64, window=3)
    assert work.pairs == 3 * 4  # tokens 3..6 of 6 see 3 keys each
    assert work.keys == 6
    assert AttentionWork.of(1, 4, 6, 1, 1, 64).pairs == 3 + 4 + 5 + 6
    assert AttentionWork.of(1, 4, 10, 1, 1, 64, window=3).keys == 6
    assert AttentionWork.of(1, 4, 6, 1, 1, 64, causal=False).pairs == 4 * 6


@given(few, many, st.integers(0, 1 << 15), windows, st.booleans())
def test_work_counts_what_an_operator_of_a_plan_counts(
    b: int, new: int, cached: int, window: int, causal: bool
) -> None:
    group = Group(b, new, cached)
    work = AttentionWork.of(b, new, new + cached, 8, 2, 128, window=window if causal else 0, causal=causal)
    assert b * work.pairs == pytest.approx(group.pairs(window if causal else 0, causal))
    assert work.keys == group.keys(window if causal else 0)


def test_long_decode_takes_its_keys_and_values_at_what_dram_reaches() -> None:
    time = decode_time(H100, STREAM, "bf16", 64, 32768, 32, 8, 128)
    assert time.memory_s == pytest.approx(64 * (32768 * 8 * 256 * 2 + 32 * 256 * 2) / 3.35e12)
    assert time.seconds == pytest.approx(float(time.memory_s) / 0.8, rel=0.05)
    assert time.bound() == "memory"
    eight = decode_time(H100, STREAM, "bf16", 64, 32768, 32, 8, 128, kv_bytes=1.0).seconds
    assert eight == pytest.approx(float(time.seconds) / 2, rel=0.05)


def test_one_long_sequence_is_split_over_the_machine() -> None:
    p = DecodeParameters(split=1.0, step_clocks=200, split_s=1e-6)
    alone = decode_time(H100, changed(p, split=0.001), "bf16", 1, 65536, 8, 1, 128).seconds
    assert decode_time(H100, p, "bf16", 1, 65536, 8, 1, 128).seconds < alone / 10


def test_keys_are_not_split_where_adding_up_costs_more() -> None:
    p = DecodeParameters(split=1.0, step_clocks=200, split_s=5e-5)
    once = decode_time(H100, p, "bf16", 1, 512, 8, 1, 128).seconds
    assert once == decode_time(H100, changed(p, split=0.001), "bf16", 1, 512, 8, 1, 128).seconds
    assert once < 5e-5


def test_latent_keys_are_read_once_for_all_heads() -> None:
    latent = decode_time(H100, STREAM, "bf16", 64, 8192, 128, 1, 576, 512, shared=True)
    assert latent.memory_s == pytest.approx(64 * (8192 * 576 * 2 + 128 * (576 + 512) * 2) / 3.35e12)
    assert latent.compute_s == pytest.approx(2 * 64 * 8192 * 128 * (576 + 512) / 989e12)


def test_a_window_bounds_what_decode_reads() -> None:
    short, long = (decode_time(H100, STREAM, "bf16", 64, keys, 32, 8, 128, window=1024) for keys in (1024, 131072))
    assert long.memory_s == short.memory_s
    assert long.seconds == pytest.approx(float(short.seconds), rel=0.05)


def test_what_the_call_before_left_in_the_cache_is_not_read_from_dram() -> None:
    sizes = (4, 1024, 32, 8, 128)
    p = changed(STREAM, resident=1.0)
    assert decode_time(H100, p, "bf16", *sizes, warm=True).seconds < 0.7 * decode_time(H100, p, "bf16", *sizes).seconds
    large = (256, 8192, 32, 8, 128)
    assert decode_time(H100, p, "bf16", *large, warm=True).seconds == decode_time(H100, p, "bf16", *large).seconds


def test_a_dtype_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(NotSupported, match="h100-sxm has no attention in fp4; it multiplies bf16, fp32, fp8"):
        prefill_time(H100, FREE, "fp4", 1, 8, 8, 1, 1, 64)


def test_decodes_beside_a_chunk_cost_more_than_the_chunk_and_no_less_than_nothing() -> None:
    p, d = PrefillParameters(), DecodeParameters()
    sizes = (32, 8, 128)
    chunk = (Group(1, 512, 2048),)
    alone = mixed_time(H100, p, d, "bf16", chunk, *sizes).seconds
    assert alone == prefill_time(H100, p, "bf16", 1, 512, 2560, *sizes).seconds
    none = mixed_time(H100, p, d, "bf16", (*chunk, Group(0, 1, 4095)), *sizes).seconds
    assert none == alone
    for fused in (True, False):
        assert mixed_time(H100, p, d, "bf16", (*chunk, Group(64, 1, 4095)), *sizes, fused=fused).seconds > alone
    only = mixed_time(H100, p, d, "bf16", (Group(0, 512, 0), Group(64, 1, 4095)), *sizes)
    assert only.seconds == pytest.approx(float(decode_time(H100, d, "bf16", 64, 4096, *sizes).seconds))
    two = mixed_time(H100, p, d, "bf16", (Group(32, 1, 4095), Group(32, 1, 4095)), *sizes).seconds
    assert two > 0.9 * only.seconds


@given(devices(), prefills(), few, many, many, few, few, dims, windows, st.booleans())
def test_prefill_is_never_faster_than_arithmetic_or_memory(
    device: Device, p: PrefillParameters, b: int, new: int, cached: int, kv_heads: int, group: int, dim: int,
    window: int, causal: bool,
) -> None:  # fmt: skip
    heads, peak = kv_heads * group, device.tensor_flops_per_s["bf16"]
    work = AttentionWork.of(b, new, new + cached, heads, kv_heads, dim, window=window, causal=causal)
    time = prefill_time(
        device, p, "bf16", b, new, new + cached, heads, kv_heads, dim, window=window, causal=causal
    )  # fmt: skip
    moved = 4.0 * b * (new * heads + float(work.keys) * kv_heads) * dim
    assert time.seconds >= 4.0 * b * heads * float(work.pairs) * dim / peak * (1 - 1e-12)
    assert time.seconds >= moved / device.dram_bytes_per_s * (1 - 1e-12)
    assert time.memory_s == pytest.approx(moved / device.dram_bytes_per_s)
    warm = prefill_time(
        device, p, "bf16", b, new, new + cached, heads, kv_heads, dim, window=window, causal=causal, warm=True
    )  # fmt: skip
    assert warm.seconds <= time.seconds


@given(devices(), decodes(), few, many, few, few, dims, windows)
def test_decode_is_never_faster_than_arithmetic_or_memory(
    device: Device, p: DecodeParameters, b: int, keys: int, kv_heads: int, group: int, dim: int, window: int
) -> None:
    heads, seen = kv_heads * group, min(keys, window or keys)
    time = decode_time(device, p, "bf16", b, keys, heads, kv_heads, dim, window=window)
    moved = 4.0 * b * (heads + seen * kv_heads) * dim
    assert time.seconds >= 4.0 * b * heads * seen * dim / device.tensor_flops_per_s["bf16"] * (1 - 1e-12)
    assert time.seconds >= moved / device.dram_bytes_per_s * (1 - 1e-12)
    assert time.memory_s == pytest.approx(moved / device.dram_bytes_per_s)
    assert (
        decode_time(device, p, "bf16", b, keys, heads, kv_heads, dim, window=window, warm=True).seconds <= time.seconds
    )


@given(devices(), prefills(), few, many, many, few, few, dims, windows, st.data())
def test_prefill_takes_no_less_for_more(
    device: Device, p: PrefillParameters, b: int, new: int, cached: int, kv_heads: int, group: int, dim: int,
    window: int, data: st.DataObject,
) -> None:  # fmt: skip
    def seconds(b: int, new: int, cached: int, kv_heads: int, dim: int) -> float:
        sizes = (b, new, new + cached, kv_heads * group, kv_heads, dim)
        return float(prefill_time(device, p, "bf16", *sizes, window=window).seconds)

    sizes = [b, new, cached, kv_heads, dim]
    which = data.draw(st.integers(0, 3))
    more = list(sizes)
    more[which] += data.draw(st.integers(1, 300))
    assert seconds(*more) >= seconds(*sizes) * (1 - 1e-12)


@given(devices(), decodes(), few, many, few, few, dims, windows, st.booleans(), st.data())
def test_decode_takes_no_less_for_more(
    device: Device, p: DecodeParameters, b: int, keys: int, kv_heads: int, group: int, dim: int, window: int,
    warm: bool, data: st.DataObject,
) -> None:  # fmt: skip
    def seconds(b: int, keys: int, kv_heads: int) -> float:
        sizes = (b, keys, kv_heads * group, kv_heads, dim)
        return float(decode_time(device, p, "bf16", *sizes, window=window, warm=warm).seconds)

    sizes = [b, keys, kv_heads]
    which = data.draw(st.integers(0, 2))
    more = list(sizes)
    more[which] += data.draw(st.integers(1, 300))
    assert seconds(*more) >= seconds(*sizes) * (1 - 1e-12)


shapes = st.lists(st.tuples(few, many, many, few, few, dims, windows), min_size=1, max_size=8)


@given(devices(), prefills(), decodes(), shapes, st.booleans(), st.booleans())
def test_a_number_and_the_same_number_in_an_array_agree_bit_for_bit(
    device: Device, p: PrefillParameters, d: DecodeParameters, rows: list[tuple[int, ...]], causal: bool, warm: bool
) -> None:
    b, new, cached, kv_heads, group, dim, window = (np.array(x, dtype=np.float64) for x in zip(*rows, strict=True))
    together = prefill_time(
        device,
        p,
        "bf16",
        b,
        new,
        new + cached,
        kv_heads * group,
        kv_heads,
        dim,
        window=window,
        causal=causal,
        warm=warm,
    ).seconds
    decoded = decode_time(
        device, d, "bf16", b, cached, kv_heads * group, kv_heads, dim, window=window, warm=warm
    ).seconds  # fmt: skip
    for i, (b1, new1, cached1, kv1, group1, dim1, window1) in enumerate(rows):
        alone = prefill_time(
            device,
            p,
            "bf16",
            b1,
            new1,
            new1 + cached1,
            kv1 * group1,
            kv1,
            dim1,
            window=window1,
            causal=causal,
            warm=warm,
        ).seconds
        assert np.asarray(together)[i] == alone
        single = decode_time(device, d, "bf16", b1, cached1, kv1 * group1, kv1, dim1, window=window1, warm=warm).seconds
        assert np.asarray(decoded)[i] == single


_HEADER = (
    "gpu,dtype,kv_dtype,batch,q_len,kv_len,q_heads,kv_heads,head_dim,window,latency_us,framework,version,kernel,suspect"
)


def table_of(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("\n".join((_HEADER, *rows)) + "\n", encoding="utf-8")
    return path


def test_a_prefill_table_is_read_with_its_window_cache_and_format(tmp_path: Path) -> None:
    rows = ("h100_sxm,bfloat16,fp8,4,512,2048,32,8,128,128,99,vllm,0.24.0,fa3,0",
            "h100_sxm,bfloat16,bfloat16,4,512,512,32,8,128,0,99,vllm,0.24.0,fa3,0")  # fmt: skip
    table = read_table(table_of(tmp_path, *rows))
    p = PrefillParameters()
    times = np.asarray(ATTENTION_PREFILL.seconds(H100, p, "bf16", table).seconds)
    windowed = prefill_time(H100, p, "bf16", 4, 512, 2048, 32, 8, 128, kv_bytes=1.0, window=128, warm=True)
    assert times[0] == windowed.seconds
    assert times[1] == prefill_time(H100, p, "bf16", 4, 512, 512, 32, 8, 128, warm=True).seconds
    assert list(ATTENTION_PREFILL.variant(table)) == ["fa3/fp8kv", "fa3"]
    assert list(ATTENTION_PREFILL.shape(table)) == ["4x512x2048x32x8x128x128", "4x512x512x32x8x128x0"]


def test_an_encoder_table_is_read_without_a_mask_and_a_mixed_one_with_its_decodes(tmp_path: Path) -> None:
    path = tmp_path / "encoder.csv"
    path.write_text("gpu,batch,q_len,q_heads,head_dim,latency_us\nl40s,4,576,16,72,9\n", encoding="utf-8")
    p = PrefillParameters()
    encoder = ATTENTION_ENCODER.seconds(H100, p, "bf16", read_table(path)).seconds
    assert encoder == prefill_time(H100, p, "bf16", 4, 576, 576, 16, 16, 72, causal=False, warm=True).seconds
    columns = "prefill_chunk,kv_prefill,n_decode,kv_decode,q_heads,kv_heads,head_dim,latency_us"
    path.write_text(f"{columns}\n512,1024,64,2048,32,8,128,9\n0,0,64,2048,32,8,128,9\n512,1024,0,0,32,8,128,9\n")
    c = ChunkedParameters()
    mixed = np.asarray(ATTENTION_CHUNKED.seconds(H100, c, "bf16", read_table(path)).seconds)
    chunk = prefill_time(H100, c, "bf16", 1, 512, 1536, 32, 8, 128, warm=True).seconds
    decode = decode_time(H100, c.decode(), "bf16", 64, 2048, 32, 8, 128, warm=True).seconds
    assert mixed[1:] == pytest.approx([float(decode), float(chunk)])
    assert mixed[0] > max(mixed[1:])


def test_rows_faster_than_memory_are_left_out(tmp_path: Path) -> None:
    rows = (
        "a100_sxm,bfloat16,bfloat16,1,1,64,8,1,128,0,9,trtllm,1.0.0,torch_flow,0",
        "b200_sxm,bfloat16,bfloat16,1,1,64,8,1,128,0,9,trtllm,1.3.0rc15,torch_flow,0",
        "b200_sxm,bfloat16,bfloat16,1,1,64,8,1,128,0,9,trtllm,1.3.0rc20,torch_flow,1",
        "b200_sxm,bfloat16,bfloat16,1,1,64,8,1,128,0,9,trtllm,1.3.0rc20,torch_flow,0",
    )
    table = read_table(table_of(tmp_path, *rows))
    assert list(ATTENTION_DECODE.usable(table)) == [False, False, False, True]
    assert list(ATTENTION_PREFILL.usable(table)) == [True, True, False, True]


def test_a_kernel_that_nobody_has_seen_is_a_variant_of_its_own(tmp_path: Path) -> None:
    table = read_table(table_of(tmp_path, "h200_sxm,bfloat16,fp8,1,1,64,8,1,128,0,9,vllm,9.9,new_kernel,0"))
    assert list(ATTENTION_DECODE.variant(table)) == ["new_kernel/fp8kv"]
    assert np.isfinite(ATTENTION_DECODE.seconds(H100, DecodeParameters(), "bf16", table).seconds).all()


def test_published_tables_are_read_in_full(shared: Path) -> None:
    measured = shared / "measurements"
    decode = read_table(measured / "attention_decode.csv")
    assert int(ATTENTION_DECODE.usable(decode).sum()) == 9078
    for kind, file, parameters in (
        (ATTENTION_PREFILL, "attention_prefill.csv", PrefillParameters()),
        (ATTENTION_DECODE, "attention_decode.csv", DecodeParameters()),
        (ATTENTION_ENCODER, "attention_encoder.csv", PrefillParameters()),
        (ATTENTION_CHUNKED, "attention_chunked_llmservingsim.csv", ChunkedParameters()),
    ):
        table = read_table(measured / file).take(slice(None, None, 37))  # type: ignore[arg-type]
        seconds = np.asarray(kind.seconds(H100, parameters, "bf16", table).seconds)
        ratio = seconds / (table.number("latency_us") * 1e-6)
        assert seconds.shape == (len(table),)
        assert 0.2 < np.median(ratio) < 5, file
