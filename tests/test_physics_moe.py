"""Time of fused experts: routing against draws of its generator, the rules of physics, and what published tables say."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.physics.device import Device
from ridgepoint.prediction.physics.moe import MOE_FORMATS, MoeParameters, moe_time
from ridgepoint.prediction.physics.optime import PhysicalTime
from ridgepoint.prediction.physics.parameters import parameters_of
from ridgepoint.prediction.physics.routing import RankLoad, rank_load
from ridgepoint.study.fitting.held_out import out_of_sample
from ridgepoint.study.published.cells import cells, measured_seconds
from ridgepoint.study.published.moe import MOE
from ridgepoint.study.published.spelling import our_dtypes
from ridgepoint.study.published.table import Table, read_table

H100 = Device(
    "h100",
    "hopper",
    132,
    1.98e9,
    3.35e12,
    50 * 2**20,
    700.0,
    {"bf16": 989e12, "fp8": 1979e12, "fp4": 4e15},
    {"fp32": 67e12},
)
Draws = npt.NDArray[np.int64]


@st.composite
def devices(draw: st.DrawFn) -> Device:
    speed = draw(st.floats(0.05, 10.0))
    return replace(
        H100, sm_count=draw(st.integers(8, 300)), clock_hz=draw(st.floats(8e8, 3e9)),
        dram_bytes_per_s=draw(st.floats(1e11, 2e13)), l2_bytes=draw(st.floats(1e6, 3e8)),
        tensor_flops_per_s={name: peak * speed for name, peak in H100.tensor_flops_per_s.items()},
    )  # fmt: skip


@st.composite
def parameters(draw: st.DrawFn) -> MoeParameters:
    return MoeParameters(
        **{
            p.name: min(max(float(np.exp(draw(st.floats(np.log(p.low), np.log(p.high))))), p.low), p.high)
            for p in parameters_of(MoeParameters)
        }
    )


@st.composite
def layers(draw: st.DrawFn) -> dict[str, int]:
    ep = draw(st.sampled_from([1, 2, 8, 32]))
    experts = ep * draw(st.integers(1, 64))
    return {
        "tokens": draw(st.integers(1, 1 << 15)), "topk": draw(st.integers(1, min(experts, 22))), "experts": experts,
        "ep": ep, "hidden": draw(st.integers(16, 8192)), "inter": draw(st.integers(16, 16384)),
    }  # fmt: skip


formats = st.sampled_from(sorted(MOE_FORMATS))
exponents = st.sampled_from([0.0, 1.01, 1.2, 2.0])


def at(
    device: Device, p: MoeParameters, form: str, layer: dict[str, int], exponent: float = 0.0, warm: bool = False
) -> PhysicalTime:
    t, k, e, ep = (layer[name] for name in ("tokens", "topk", "experts", "ep"))
    load = rank_load(t, k, e, ep, exponent)
    return moe_time(device, p, MOE_FORMATS[form], load, t, k, layer["hidden"], layer["inter"], True, warm)


def drawn(rng: np.random.Generator, t: int, k: int, experts: int, ep: int, exponent: float) -> Draws:
    """Pairs of each expert of the fullest rank, as the docstring of `rank_load` states the generator."""
    low, high = (1.0, max(0.8 * t, 1.001)) if t * k > experts else (0.01, 2.0)
    rest = 1.0 - exponent
    x = (rng.random(experts) * (high**rest - low**rest) + low**rest) ** (1.0 / rest)
    share = x / x.sum() * t * k
    for _ in range(8):
        over = share > t
        if not over.any() or over.all():
            break
        spare, share[over] = (share[over] - t).sum(), t
        share[~over] *= 1.0 + spare / share[~over].sum()
    pairs = np.floor(share).astype(np.int64)
    pairs[np.argsort(pairs - share)[: t * k - pairs.sum()]] += 1
    ranks = pairs.reshape(ep, -1)
    fullest: Draws = ranks[ranks.sum(axis=1).argmax()]
    return fullest


def simulated(load: RankLoad, draws: list[Draws]) -> dict[str, float]:
    """What the closed form says over what draws say."""
    mean = {
        "pairs": np.mean([d.sum() for d in draws]), "touched": np.mean([(d > 0).sum() for d in draws]),
        **{f"blocks{b}": np.mean([np.ceil(d / b).sum() for d in draws]) for b in (16, 64, 128)},
    }  # fmt: skip
    said = {"pairs": load.pairs, "touched": load.touched, **{f"blocks{b}": load.blocks(b) for b in (16, 64, 128)}}
    return {name: float(said[name]) / float(value) for name, value in mean.items()}


class TestRouting:
    @pytest.mark.parametrize("exponent", [1.01, 1.2])
    @pytest.mark.parametrize("ep", [1, 4, 16])
    @pytest.mark.parametrize(("topk", "experts"), [(8, 256), (4, 128), (22, 512)])
    def test_expected_loads_are_those_of_draws(self, topk: int, experts: int, ep: int, exponent: float) -> None:
        rng = np.random.default_rng(7)
        ratios = []
        for tokens in (16, 64, 256, 1024, 8192):
            draws = [drawn(rng, tokens, topk, experts, ep, exponent) for _ in range(60)]
            ratios.append(simulated(rank_load(tokens, topk, experts, ep, exponent), draws))
        pairs, touched, blocks = {1: (1e-9, 0.07, 0.07), 4: (0.1, 0.14, 0.18), 16: (0.1, 0.18, 0.28)}[ep]
        limits = {"pairs": pairs, "touched": touched, "blocks16": blocks, "blocks64": blocks, "blocks128": blocks}
        for name, most in limits.items():
            misses = np.abs(np.log([ratio[name] for ratio in ratios]))
            assert misses.max() < most, (name, misses)

    def test_one_rank_gets_every_pair_whatever_the_distribution(self) -> None:
        for exponent in (0.0, 1.01, 1.2):
            load = rank_load(np.array([1, 16, 4096]), 8, 256, 1, exponent)
            assert load.pairs == pytest.approx([8, 128, 32768])
            assert load.tokens == pytest.approx([1, 16, 4096])

    def test_a_balanced_batch_touches_as_many_experts_as_it_has_pairs_and_then_all(self) -> None:
        load = rank_load(np.array([1, 16, 32, 4096]), 8, 256, 1, 0.0)
        assert load.touched == pytest.approx([8, 128, 256, 256])
        assert load.blocks(16) == pytest.approx([8, 128, 256, 256 * 8])
        assert load.blocks(128) == pytest.approx([8, 128, 256, 256])

    def test_ranks_share_a_balanced_batch(self) -> None:
        load = rank_load(4096, 8, 256, 32, 0.0)
        assert float(load.pairs) == 1024.0
        assert float(load.touched) == 8.0
        assert float(load.tokens) == 1024.0

    def test_the_heaviest_rank_has_more_than_an_even_one_and_no_more_than_all(self) -> None:
        for tokens in (1, 16, 64, 4096):
            load = rank_load(tokens, 8, 256, 8, 1.2)
            assert float(load.even) <= float(load.pairs) <= tokens * 8
            assert 1.0 <= float(load.touched) <= 32.0
        assert float(rank_load(4096, 8, 256, 8, 1.2).pairs) > 1.2 * 4096

    def test_a_packed_batch_reads_an_expert_for_each_pair_of_its_first_token(self) -> None:
        assert float(rank_load(1, 8, 128, 16, 1.2, packed=True).pairs) == 8.0
        assert float(rank_load(1, 8, 128, 16, 1.2, packed=True).touched) == 8.0
        assert float(rank_load(1, 8, 128, 16, 1.2).touched) < 3.0
        assert 30.0 < float(rank_load(16, 8, 128, 1, 1.2, packed=True).touched) < 80.0

    @given(layers(), exponents, st.booleans())
    def test_no_rank_touches_more_experts_than_it_has_or_has_pairs(
        self, layer: dict[str, int], exponent: float, packed: bool
    ) -> None:
        t, k, e, ep = (layer[name] for name in ("tokens", "topk", "experts", "ep"))
        load = rank_load(t, k, e, ep, exponent, packed)
        assert 1.0 <= float(load.touched) <= min(e / ep, float(load.pairs)) * (1 + 1e-9)
        assert float(load.pairs) <= max(t * k, 1) * (1 + 1e-9)
        assert 0.0 < float(load.tokens) <= t
        for rows in (16, 128):
            blocks = float(load.blocks(rows))
            assert blocks * rows >= 0.9 * float(load.pairs)
            assert blocks <= float(load.pairs) + float(load.touched)


class TestPhysics:
    @given(devices(), parameters(), formats, layers(), exponents)
    def test_cold_experts_are_never_faster_than_arithmetic_or_their_weights(
        self, device: Device, p: MoeParameters, form: str, layer: dict[str, int], exponent: float
    ) -> None:
        load = rank_load(*(layer[name] for name in ("tokens", "topk", "experts", "ep")), exponent)
        elements = 3.0 * layer["hidden"] * layer["inter"]
        time = at(device, p, form, layer, exponent)
        flops, bytes_ = (
            2.0 * float(load.pairs) * elements,
            float(load.touched) * elements * MOE_FORMATS[form].weight_bytes,
        )
        assert float(time.seconds) >= flops / MOE_FORMATS[form].peak(device) * (1 - 1e-12)
        assert float(time.seconds) >= bytes_ / device.dram_bytes_per_s * (1 - 1e-12)
        assert float(time.seconds) >= p.fixed_s

    @given(devices(), parameters(), formats, layers(), st.booleans())
    def test_a_larger_layer_or_batch_never_takes_less(
        self, device: Device, p: MoeParameters, form: str, layer: dict[str, int], warm: bool
    ) -> None:
        here = float(at(device, p, form, layer, warm=warm).seconds)
        for name in ("tokens", "hidden", "inter", "topk"):
            for grown in {layer[name] + 1, layer[name] * 2}:
                if name == "topk" and grown > layer["experts"]:
                    continue
                there = float(at(device, p, form, {**layer, name: grown}, warm=warm).seconds)
                assert there >= here * (1 - 1e-9), (name, grown)

    @given(devices(), parameters(), formats, st.lists(layers(), min_size=1, max_size=9), exponents, st.booleans())
    def test_one_layer_and_many_agree_bit_for_bit(
        self, device: Device, p: MoeParameters, form: str, several: list[dict[str, int]], exponent: float, warm: bool
    ) -> None:
        column = {name: np.array([layer[name] for layer in several]) for name in several[0]}
        load = rank_load(column["tokens"], column["topk"], column["experts"], column["ep"], exponent)
        many = moe_time(
            device,
            p,
            MOE_FORMATS[form],
            load,
            column["tokens"],
            column["topk"],
            column["hidden"],
            column["inter"],
            True,
            warm,
        )
        for index, layer in enumerate(several):
            one = at(device, p, form, layer, exponent, warm)
            for part in ("seconds", "compute_s", "memory_s", "fixed_s"):
                assert float(getattr(one, part)) == float(np.asarray(getattr(many, part))[index]), part

    @given(devices(), parameters(), formats, layers())
    def test_a_warm_cache_never_costs_time(
        self, device: Device, p: MoeParameters, form: str, layer: dict[str, int]
    ) -> None:
        warm, cold = at(device, p, form, layer, warm=True), at(device, p, form, layer)
        assert float(warm.seconds) <= float(cold.seconds)

    def test_a_warm_cache_helps_only_what_fits_in_it(self) -> None:
        small = {"tokens": 1, "topk": 2, "experts": 8, "ep": 1, "hidden": 1024, "inter": 512}
        large = {**small, "tokens": 4096, "hidden": 8192, "inter": 8192}
        p = MoeParameters(resident=1.0, fixed_s=1e-7, tile_clocks=20, step_clocks=20)
        assert float(at(H100, p, "bf16", small, warm=True).memory_s) < 0.1 * float(at(H100, p, "bf16", small).memory_s)
        assert float(at(H100, p, "bf16", large, warm=True).seconds) == float(at(H100, p, "bf16", large).seconds)

    def test_every_pair_at_one_rank_sets_the_rows_of_a_tile(self) -> None:
        p = MoeParameters(step_clocks=20, tile_clocks=20, fixed_s=1e-7, l2_bytes_per_clock=400, nominal=1.0)
        layer = {"tokens": 64, "topk": 8, "experts": 256, "ep": 32, "hidden": 8192, "inter": 8192}
        t, k = layer["tokens"], layer["topk"]
        load = rank_load(t, k, layer["experts"], layer["ep"], 0.0)
        alone = replace(load, experts=load.experts * 32)
        fp8, h, i = MOE_FORMATS["fp8"], layer["hidden"], layer["inter"]
        slow = replace(H100, tensor_flops_per_s={"fp8": 5e13})
        wide, narrow = (float(moe_time(slow, p, fp8, x, t, k, h, i, True).seconds) for x in (load, alone))
        assert wide > 2.0 * narrow

    def test_a_large_batch_takes_its_arithmetic_and_one_token_its_weights(self) -> None:
        p = MoeParameters(tensor_share=0.5, l2_bytes_per_clock=400, step_clocks=20, tile_clocks=20, row_passes=0.01,
                          token_passes=0.01, dram_share=0.8, wave_steps=0.01, sharpness=8.0)  # fmt: skip
        layer = {"tokens": 32768, "topk": 2, "experts": 8, "ep": 1, "hidden": 4096, "inter": 14336}
        busy = 2.0 * 65536 * 3 * 4096 * 14336 / 989e12
        assert float(at(H100, p, "bf16", layer).seconds) == pytest.approx(busy / 0.5, rel=0.4)
        assert at(H100, p, "bf16", layer).bound() == "compute"
        single = {**layer, "tokens": 1}
        stream = 2 * 3 * 4096 * 14336 * 2 / (0.8 * 3.35e12)
        assert float(at(H100, p, "bf16", single).seconds) == pytest.approx(stream, rel=0.25)
        assert at(H100, p, "bf16", single).bound() == "memory"

    def test_fewer_bits_of_weights_are_fewer_bytes(self) -> None:
        layer = {"tokens": 4, "topk": 8, "experts": 256, "ep": 1, "hidden": 7168, "inter": 2048}
        half, quarter = (float(at(H100, MoeParameters(), x, layer).memory_s) for x in ("bf16", "int4_wo"))
        assert quarter / half == pytest.approx((0.5 + 2 / 128) / 2)

    def test_a_device_without_the_unit_is_refused_with_what_it_has(self) -> None:
        ampere = replace(H100, name="a100", tensor_flops_per_s={"bf16": 312e12})
        layer = {"tokens": 4, "topk": 2, "experts": 8, "ep": 1, "hidden": 256, "inter": 256}
        with pytest.raises(NotSupported, match="a100 multiplies no fp8; it has bf16, fp32"):
            at(ampere, MoeParameters(), "fp8", layer)


def written(path: Path, *rows: str) -> Table:
    file = path / "moe.csv"
    file.write_text("\n".join([",".join(PLAIN), *rows]) + "\n")
    return read_table(file)


PLAIN: dict[str, object] = {
    "gpu": "h100_sxm", "dtype": "bf16", "tokens": 16, "hidden": 4096, "inter": 2048, "topk": 8, "experts": 256,
    "moe_tp_size": 1, "moe_ep_size": 1, "distribution": "balanced", "latency_us": 100, "framework": "vllm",
    "version": "0.24.0", "kernel": "new_kernel",
}  # fmt: skip


def row(**changed: object) -> str:
    return ",".join(str({**PLAIN, **changed}[name]) for name in PLAIN)


def seconds(table: Table) -> list[float]:
    dtype = str(our_dtypes(table.text("dtype"))[0])
    return [float(x) for x in np.asarray(MOE.seconds(H100, MoeParameters(), dtype, table).seconds)]


class TestPublished:
    def test_rows_that_no_model_reads_are_left_out(self, tmp_path: Path) -> None:
        bad = [
            {"distribution": "zipf"}, {"distribution": "power_law_x"}, {"distribution": "power_law_-1"},
            {"distribution": "power_law_inf"}, {"dtype": "int3"}, {"latency_us": 0}, {"latency_us": ""}, {"experts": ""},
        ]  # fmt: skip
        good = [
            {},
            {"distribution": "uniform"},
            {"distribution": "power_law_1.2"},
            {"dtype": "bfloat16"},
            {"moe_ep_size": ""},
        ]
        table = written(tmp_path, *(row(**x) for x in (*good, *bad)))
        assert MOE.usable(table).tolist() == [True] * len(good) + [False] * len(bad)

    def test_a_kernel_that_no_table_had_is_predicted_and_has_a_cell_of_its_own(self, tmp_path: Path) -> None:
        table = written(tmp_path, row(), row(kernel="", version="99.1"), row(framework="another", kernel="ünknown"))
        found = cells(MOE, table, our_dtypes)
        assert [key[2:] for key in found] == [
            ("vllm", "0.24.0", "new_kernel"), ("vllm", "99.1", ""), ("another", "0.24.0", "ünknown")
        ]  # fmt: skip
        for rows in found.values():
            assert np.all(np.asarray(MOE.seconds(H100, MoeParameters(), "bf16", rows).seconds) > 0)

    def test_each_dtype_of_the_formats_is_read(self, tmp_path: Path) -> None:
        for dtype in (*MOE_FORMATS, "bfloat16", "float16", "mxfp4"):
            table = written(tmp_path, row(dtype=dtype))
            assert MOE.usable(table).all(), dtype
            assert min(seconds(table)) > 0

    def test_what_protocols_do_differently_is_told_apart(self, tmp_path: Path) -> None:
        def times(dtype: str, *rows: dict[str, object]) -> list[float]:
            table = written(tmp_path, *(row(dtype=dtype, **x) for x in rows))
            return [float(x) for x in np.asarray(MOE.seconds(H100, MoeParameters(), dtype, table).memory_s)]

        big: dict[str, object] = {"tokens": 4096, "hidden": 8192, "inter": 8192}
        gated, without = times("bf16", big, {**big, "kernel": "moe_torch_flow_nongated"})
        assert without / gated == pytest.approx(2 / 3)
        forced, family = times("bf16", {**big, "topk": 22, "kernel": "vllm_fused_moe"}, {**big, "topk": 22})
        assert family / forced == pytest.approx(2 / 3)
        packed, unpacked = times("w4a16_mxfp4", big, {**big, "kernel": "sglang_fused_moe_triton"})
        assert packed / unpacked == pytest.approx((0.5 + 1 / 32) / 2)
        whole, split = times("bf16", big, {**big, "moe_tp_size": 4})
        assert whole / split == pytest.approx(4)
        one: dict[str, object] = {
            "tokens": 1,
            "hidden": 8192,
            "inter": 8192,
            "distribution": "power_law_1.2",
            "moe_ep_size": 32,
        }
        sent, kept = times("bf16", one, {**one, "version": "0.14.0"})
        assert kept > 2 * sent

    def test_rows_keep_their_order_whatever_their_kernel(self, tmp_path: Path) -> None:
        kinds = [
            {"kernel": "sglang_fused_moe_triton"},
            {},
            {"version": "0.14.0"},
            {"kernel": "sglang_fused_moe_triton"},
        ]
        rows = [row(dtype="w4a16_mxfp4", tokens=2**i, **kinds[i % 4]) for i in range(8)]
        assert seconds(written(tmp_path, *rows)) == [seconds(written(tmp_path, x))[0] for x in rows]

    @pytest.mark.slow
    def test_shapes_not_fitted_are_predicted(self, shared: Path) -> None:
        pytest.importorskip("scipy")
        found = cells(MOE, read_table(shared / "measurements" / "moe.csv"), our_dtypes)
        rows = found["h100_sxm", "fp8_block", "trtllm", "1.3.0rc20", "moe_torch_flow_cutlass"]
        predicted = out_of_sample(MOE, H100, "fp8_block", rows, folds=3, evaluations=25)
        ok = np.isfinite(predicted)
        assert ok.sum() > 150
        miss = np.abs(predicted[ok] / measured_seconds(rows)[ok] - 1.0)
        assert np.median(miss) < 0.09
        assert np.percentile(miss, 90) < 0.3
