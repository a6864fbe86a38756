"""Signs of speed-ups, intervals on unseen rows, and how parameters carry from machine to machine, each against an oracle."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from ridgepoint.errors import BadInput
from ridgepoint.hardware import Arch, data_folder, load_arch, load_target, save_arch
from ridgepoint.hardware.arch import ARCH_SCHEMA
from ridgepoint.hardware.target import decode_target
from ridgepoint.prediction.physics.device import INLINE_ECC, Device, device_of
from ridgepoint.prediction.physics.gemm import GemmParameters, gemm_time
from ridgepoint.prediction.physics.gemm_format import FORMATS
from ridgepoint.study.fitting.classes import FittedCell, fits_of, transfers_of
from ridgepoint.study.fitting.pairs import PredictedRows, pair_scores
from ridgepoint.study.published.gemm import GEMM
from ridgepoint.study.published.table import Table

PEAKS = {"bf16": 1e15, "fp8": 2e15}
CARD = Device("card", "toy", 100, 1.5e9, 2e12, 4e7, 700.0, PEAKS, {"fp32": 5e13})
START = GemmParameters()
SHAPES = [(m, n, k) for m in (1, 32, 1024, 8192) for n in (1024, 4096) for k in (1024, 8192)]


def rows(seconds, dtype="bf16", shapes=SHAPES, framework="vllm", gpu="card") -> Table:
    m, n, k = (np.array(x).astype(np.str_) for x in zip(*shapes, strict=True))
    count = len(shapes)
    words = {"gpu": gpu, "dtype": dtype, "framework": framework, "version": "1", "suspect": "0", "op": ""}
    columns = {name: np.full(count, word) for name, word in words.items()}
    times = np.broadcast_to(np.asarray(seconds, float), count)
    columns |= {"m": m, "n": n, "k": k, "latency_us": np.array([repr(float(x) * 1e6) for x in times])}
    return Table(Path("toy.csv"), columns, np.arange(2, count + 2))


def predicted(seconds, dtype, measured, shapes=SHAPES) -> PredictedRows:
    return PredictedRows(CARD, "card", dtype, "vllm", "1", rows(measured, dtype, shapes), np.asarray(seconds, float))


# Signs


def test_signs_are_counted_as_an_oracle_counts_them():
    """Sixteen pairs: 6 gain by 1.5, 4 lose by 1.5, 6 hardly move; we have all gains right, and half of the losses."""
    gain = np.array([1.5] * 6 + [1 / 1.5] * 4 + [1.05] * 6)
    ours = np.array([1.2] * 6 + [0.9, 0.9, 1.1, 1.1] + [0.5] * 6)
    one = next(pair_scores([predicted(np.full(16, 1e-3), "bf16", 1e-3), predicted(1e-3 / ours, "fp8", 1e-3 / gain)]))
    assert (one.pairs, one.clear, one.faster, one.right) == (16, 10, 6, 8)
    assert one.bytes_right == one.roofline_right == 6  # both always say that fewer bits win
    assert one.median_ape == pytest.approx(np.median(np.abs(ours / gain - 1)), abs=1e-4)


def test_pairs_are_of_one_shape_machine_and_stack():
    half = predicted(np.full(8, 1e-3), "fp8", 1e-3, SHAPES[:8])
    whole = predicted(np.full(16, 1e-3), "bf16", 2e-3)
    assert next(pair_scores([whole, half])).pairs == 8
    for other in ({"gpu": "other"}, {"framework": "sglang"}, {"version": "2"}):
        assert not list(pair_scores([whole, replace(half, **other)]))


def test_a_tie_is_no_sign():
    """A prediction of no effect at all is right by half, one that was not made is wrong."""
    whole = predicted(np.full(16, 1e-3), "bf16", 2e-3)
    tie = next(pair_scores([whole, predicted(np.full(16, 1e-3), "fp8", 1e-3)]))
    none = next(pair_scores([whole, predicted(np.full(16, np.nan), "fp8", 1e-3)]))
    assert (tie.clear, tie.right, none.right) == (16, 8, 0)


# Intervals


def cell(seconds, p=START, device=CARD, many=12) -> FittedCell:
    """A cell of `many` times the shapes, timed as `seconds` says of them and predicted by `p`."""
    shapes = [(m, n + 128 * i, k) for i in range(many) for m, n, k in SHAPES]
    table = rows(seconds(shapes), "bf16", shapes, gpu=device.name)
    time = np.asarray(GEMM.seconds(device, p, "bf16", table).seconds)
    return FittedCell(GEMM, (device.name, "bf16", "vllm", "1", ""), device, table, p, time)


def truth(p, device=CARD, sigma=0.0, seed=0):
    def seconds(shapes):
        noise = np.exp(np.random.default_rng(seed).normal(0.0, sigma, len(shapes)))
        time = GEMM.seconds(device, p, "bf16", rows(1.0, shapes=shapes))
        return np.asarray(time.seconds) * noise

    return seconds


def test_widths_that_saw_no_row_of_a_shape_hold_four_in_five():
    pytest.importorskip("scipy", reason="fitting needs SciPy")
    from ridgepoint.study.fitting.coverage import unseen_intervals

    one = cell(truth(START, sigma=0.1, seed=3), many=40)
    (found,) = unseen_intervals([one])
    every = np.full(len(one.table), True)
    assert found.coverage(every) == pytest.approx(0.8, abs=0.06)
    assert found.band_coverage(every) == pytest.approx(0.8, abs=0.06)
    for half in (found.half, found.band):
        assert half.mean() == pytest.approx(1.2816 * 0.1, rel=0.15)


def test_a_width_that_follows_the_noise_is_narrower_than_a_constant_band():
    """Products that memory bounds are read 6 times as noisily as others of the same regime."""
    pytest.importorskip("scipy", reason="fitting needs SciPy")
    from ridgepoint.study.fitting.coverage import unseen_intervals

    def noisy(shapes):
        time = GEMM.seconds(CARD, START, "bf16", rows(1.0, shapes=shapes))
        of_memory = np.asarray(time.memory_s / time.seconds)
        noise = np.random.default_rng(5).normal(0.0, np.where(of_memory > 0.3, 0.3, 0.05))
        return truth(START)(shapes) * np.exp(noise)

    one = cell(noisy, many=40)
    (found,), every = unseen_intervals([one]), np.full(len(one.table), True)
    assert found.coverage(every) > found.band_coverage(every) - 0.02 and found.half.mean() < 0.95 * found.band.mean()


def test_cells_share_slopes_and_keep_widths_of_their_own():
    pytest.importorskip("scipy", reason="fitting needs SciPy")
    quiet, loud = cell(truth(START, sigma=0.05, seed=1), many=30), cell(truth(START, sigma=0.2, seed=2), many=30)
    one, two = fits_of([quiet, loud], date(2026, 1, 1))
    assert one.spread[1:] == two.spread[1:]
    assert two.spread[0] - one.spread[0] == pytest.approx(np.log(4.0), abs=0.2)


# What carries


def test_a_step_between_classes_is_seen_where_a_question_would_take_it():
    """`near` takes from `far` before `third`: only far's parameters on near's rows count, and by how far off they are."""
    names = {"near": ("far", "third"), "far": (), "third": ()}
    cells = {}
    for name, slow in (("near", 1.0), ("far", 1.3), ("third", 3.0)):
        device, own = replace(CARD, name=name, arch=name), GemmParameters()
        p = GemmParameters(
            dram_share=own.dram_share / slow, launch_s=own.launch_s * slow, step_clocks=own.step_clocks * slow,
            tile_clocks=own.tile_clocks * slow, tensor_share=own.tensor_share / slow,
        )  # fmt: skip
        cells[name] = cell(truth(p, device), p, device)
        fits = tuple(fits_of([cells[name]], date(2026, 1, 1))) if name != "near" else ()
        arch = Arch(schema=ARCH_SCHEMA, name=name, meaning="of tests", pooled_from=names[name], fits=fits)
        save_arch(arch, data_folder() / "arch")
    steps = {t.step: t for t in transfers_of(list(cells.values()))}
    off = np.log(
        np.asarray(GEMM.seconds(cells["near"].device, cells["far"].parameters, "bf16", cells["near"].table).seconds)
        / cells["near"].unseen_s
    )
    assert steps["class"].pairs == 1
    assert steps["class"].sigma == pytest.approx(np.quantile(np.abs(off), 0.8) / 1.2816, abs=1e-3)


# Memory that corrects errors in line


def test_memory_with_inline_codes_streams_slower_and_its_datasheet_still_bounds():
    inline = replace(CARD, stream_share=INLINE_ECC)
    p, form = GemmParameters(sharpness=8.0), FORMATS["bf16"]
    plain, coded = (gemm_time(device, p, form, 1.0, 65536.0, 8192.0) for device in (CARD, inline))
    assert float(coded.seconds) == pytest.approx(float(plain.seconds) / INLINE_ECC, rel=0.01)
    assert float(coded.memory_s) == float(plain.memory_s)


@pytest.mark.parametrize(
    ("name", "share"),
    [("l40s", INLINE_ECC), ("t4", INLINE_ECC), ("rtx-4090", 1.0), ("rtx-pro-6000-server", 1.0), ("h200", 1.0)],
)
def test_cards_say_whether_their_memory_has_inline_codes(name, share):
    """Where it has, a sixteenth of the memory that is printed is missing from what the driver reports."""
    target = load_target(name)
    printed = next(level.bytes for level in target.levels if level.name == "DRAM")
    assert device_of(target).stream_share == share
    assert (target.memory_bytes / printed < 0.95) == (share < 1.0)


@pytest.mark.parametrize(
    ("said", "message"),
    [('ecc = "inlin"', "possible: inline, apart"), ("dram_stream_share = 1.2", "possible is a share")],
)
def test_what_a_card_cannot_say_of_its_memory_is_refused(said, message):
    name, _, value = said.partition(" = ")
    text = (Path(__file__).parent.parent / "ridgepoint/hardware/data/gpu/l40s.toml").read_text(encoding="utf-8")
    what = f'[[facts]]\nname = "{name}"\ntext = {value}' if name == "ecc" else (
        f'[[figures]]\nname = "{name}"\nvalue = {value}\nscope = "device"'
    )  # fmt: skip
    with pytest.raises(BadInput, match=message):
        decode_target("l40s", text.replace("[sources]", f'{what}\nsource = "ecc-inline"\n\n[sources]').encode())


def test_the_cost_of_inline_codes_is_what_the_fits_tell():
    """Attained shares of L40S, as fitted with the cost taken out, are those of the same stack on GPUs without inline codes."""
    elsewhere = {}
    for name in ("ada", "hopper", "blackwell"):
        for fit in load_arch(name).fits:
            if (
                fit.operator in ("gemm", "attention_decode")
                and fit.dtype == "bf16"
                and fit.framework
                and "l40s" not in fit.gpus
            ):
                elsewhere.setdefault((fit.operator, fit.framework.split()[0]), []).append(fit.values["dram_share"])
    ratios = [
        fit.values["dram_share"] / share
        for fit in load_arch("ada").fits
        if fit.operator in ("gemm", "attention_decode") and fit.dtype == "bf16" and "l40s" in fit.gpus
        for share in elsewhere.get((fit.operator, fit.framework), ())
    ]
    assert len(ratios) > 10 and np.median(ratios) == pytest.approx(1.0, abs=0.06)
