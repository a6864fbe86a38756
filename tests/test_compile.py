"""torch.compile as a choice: what it fuses on paper, laws from made-up stacks, its cost in words, and a real compiled step."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from ridgepoint.choice import resolve
from ridgepoint.errors import NotSupported
from ridgepoint.hardware import decode_target, encode_target
from ridgepoint.hardware.law_compiled import CompiledLaw
from ridgepoint.measurement.calibrate.compiled import CHAIN_GRID
from ridgepoint.prediction import predict, step_time
from ridgepoint.prediction.compiled import compilation_seconds, fused_time
from ridgepoint.report.compile_words import compile_lines, predicted_compile_lines
from ridgepoint.study.cell import _ceiling
from ridgepoint.study.document import Point
from ridgepoint.study.fit_compiled import chain_fused, with_compiled
from ridgepoint.workload import Fused, Linear, LinearLayer, Plan, Pointwise, decode, load_model, train

TARGET = decode_target("t", (Path(__file__).parent / "data" / "test-target.calibrated.toml").read_bytes())
SOURCE = next(iter(TARGET.sources))
MODEL = load_model("smollm2-135m")
LAW = CompiledLaw(
    dtype="fp32", guard_s=2e-5, kept_call_s=-1e-6, fused_call_s=2e-6, byte_s=5e-11, flop_s=2e-11, compile_s=8.0,
    compile_call_s=0.02, sigma=0.1, source=SOURCE,
)  # fmt: skip
COMPILED = msgspec.structs.replace(TARGET, compiled=(LAW,))


def plan(text: str, batch: int = 1, model=MODEL) -> Plan:
    return resolve(text, "fp32").plan(model, decode(batch, 64))


def test_neighbours_become_one_and_keep_what_is_computed() -> None:
    eager, compiled = plan("fp32+eager"), plan("fp32+compile")
    assert sum(op.count * op.flops for op in eager.ops) == sum(op.count * op.flops for op in compiled.ops)
    assert sum(op.count * op.weight_bytes for op in eager.ops) == sum(op.count * op.weight_bytes for op in compiled.ops)
    kept = [op for op in eager.ops if not isinstance(op, Pointwise)]
    assert [op for op in compiled.ops if not isinstance(op, Fused)] == kept
    assert not any(isinstance(op, Pointwise) for op in compiled.ops)
    names = [op.name for op in compiled.ops if isinstance(op, Fused)]
    assert any("attention_add+post_attention_norm" in name for name in names), names
    assert eager.weight_bytes == compiled.weight_bytes


def test_what_is_handed_on_is_not_moved() -> None:
    add = Pointwise("a", "residual", "add", 10, 100, "fp32")
    norm = Pointwise("n", "norm", "rms_norm", 10, 100, "fp32")
    act = Pointwise("s", "mlp.act", "silu_mul", 10, 100, "fp32")
    x = 4 * 1000
    assert Fused((add, norm)).activation_bytes == 4 * x  # x, y in; the stream and its norm out
    assert Fused((act, norm)).activation_bytes == 3 * x  # gate, up in; the norm out
    assert Fused((act,)).bytes == act.bytes
    rope, write = Pointwise("r", "rope", "rope", 10, 100, "fp32"), Pointwise("k", "other", "kv_write", 10, 50, "fp32")
    assert Fused((rope, write)).bytes == rope.bytes + write.bytes  # queries go to attention, keys to the cache
    pool = Pointwise("p", "other", "pool", 250, 4, "fp32", traffic=1250.0)
    relu = Pointwise("u", "other", "relu", 250, 1, "fp32")
    assert 4 * 1000 <= Fused((pool, relu)).bytes <= pool.bytes + relu.bytes
    held = Pointwise("h", "other", "sigmoid", 10, 100, "fp32", traffic=2000.0, held=1000.0)
    assert Fused((held, held, held)).bytes >= 0
    rows = np.array([1.0, 10.0])
    swept = Fused((replace(add, rows=rows), replace(norm, rows=rows)))
    assert list(swept.activation_bytes) == [4 * 400, 4 * 4000]


def test_a_compiled_step_is_guards_kept_calls_and_fused_kernels() -> None:
    eager, compiled = step_time(plan("fp32"), COMPILED), step_time(plan("fp32+compile"), COMPILED)
    theirs = {t.op.name: float(t.seconds) for t in eager.ops}
    for t in compiled.ops:
        if isinstance(t.op, Linear):
            python = COMPILED.correction.per_call_s  # which compiled code does not run
            assert float(t.seconds) == pytest.approx(theirs[t.op.name] - (python + 1e-6) * t.op.count)
        if isinstance(t.op, Fused):
            alone = t.op.count * (2e-6 + 5e-11 * float(t.op.bytes) + 2e-11 * float(t.op.flops))
            assert float(t.seconds) == pytest.approx(alone, rel=0.25), "beside what comes from beyond the cache"
            assert float(t.seconds) >= alone * (1 - 1e-9)
    assert float(compiled.seconds) == pytest.approx(sum(float(t.seconds) for t in compiled.ops) + 2e-5)
    calls = sum(op.count for op in plan("fp32+compile").ops)
    assert compilation_seconds(plan("fp32+compile"), COMPILED) == pytest.approx(0.02 * calls)
    result = predict(plan("fp32+compile"), COMPILED)
    assert result.metrics["compile_s"].value == pytest.approx(0.02 * calls)
    assert "compile_s" not in predict(plan("fp32"), COMPILED).metrics


def test_no_fused_kernel_is_faster_than_the_cache_that_holds_it() -> None:
    free = msgspec.structs.replace(
        COMPILED, compiled=(msgspec.structs.replace(LAW, byte_s=0.0, flop_s=0.0),), residency=None
    )
    rates = {x.name: x.read_bytes_per_s for x in TARGET.levels if x.threads == 1}
    rows = np.array([1.0, 40.0, 1000.0])  # 16 KB, 640 KB and 16 MB: a cache each
    add, norm = (Pointwise(n, "norm", n, rows, 1024, "fp32") for n in ("add", "rms_norm"))
    op = Fused((add, norm))
    seconds, _ = fused_time(op, free, 1)
    wanted = [2e-6 + float(b) / rates[level] for b, level in zip(op.bytes, ("L1d", "L2", "L3"), strict=True)]
    assert seconds == pytest.approx(wanted)
    assert np.all(fused_time(op, COMPILED, 1)[0] >= seconds)
    assert msgspec.structs.replace(TARGET, levels=()).cache_bytes_per_s(1e6) == np.inf
    assert TARGET.cache_bytes_per_s(1e12) == rates["L3"]


def test_what_cannot_be_answered_says_what_is_possible() -> None:
    with pytest.raises(NotSupported, match="ridge calibrate --compile"):
        step_time(plan("fp32+compile"), TARGET)
    with pytest.raises(NotSupported, match="fp32, not in bf16"):
        step_time(plan("bf16+compile"), COMPILED)
    with pytest.raises(NotSupported, match="nothing to fuse"):
        resolve("compile", "fp32").plan(LinearLayer(64, 64), decode(1, 0))
    with pytest.raises(NotSupported, match="training step"):
        resolve("compile", "fp32").plan(MODEL, train(1, 8))
    with pytest.raises(NotSupported, match="on the CPU"):
        resolve("compile", "bf16", "cuda").plan(MODEL, decode(1, 8))


def made_up(act: str = "fp32") -> list[dict]:
    """Guards of 20 µs and of 40 to 60 µs in chains; a kept call saves 0.8 µs; a kernel starts in 1.5 µs."""
    out: list[dict] = [{"probe": "compile first", "seconds": 2e-5, "compile_s": 6.0}]
    for fused in (0, 32):
        seconds = 2e-5 + 2e-4 - 32 * 0.8e-6 + fused * 1.5e-6
        stack = {"layers": 32, "fused": fused, "seconds": seconds, "linear_s": 2e-4, "compile_s": 0.03 * (32 + fused)}
        out.append({"probe": "compile stack", "act": act, **stack})
    for guards, chain in ((4e-5, "residual"), (5e-5, "gated"), (6e-5, "softmax"), (3e-5, "scale")):
        for rows, cols in CHAIN_GRID:
            sample = {"probe": "compile chain", "chain": chain, "act": act, "rows": rows, "cols": cols}
            op = chain_fused(sample)
            out.append({**sample, "seconds": guards + 4e-11 * float(op.bytes) + 3e-11 * float(op.flops)})
    return out


def test_the_law_of_a_made_up_compiler_is_found_again() -> None:
    samples = made_up()
    (law,) = with_compiled(TARGET, samples, SOURCE).compiled
    assert (law.guard_s, law.kept_call_s) == (pytest.approx(2e-5), pytest.approx(-0.8e-6, rel=1e-6))
    assert law.fused_s(1e6, 2e6, np.inf) == pytest.approx(1.5e-6 + 4e-5 + 6e-5, rel=0.02)
    assert law.compilation_s(100) == pytest.approx(3.0, rel=0.01)
    assert with_compiled(TARGET, samples[1:], SOURCE) is TARGET
    assert with_compiled(TARGET, [s for s in samples if s["probe"] != "compile chain"], SOURCE).compiled == ()
    read = decode_target("t", encode_target(msgspec.structs.replace(TARGET, compiled=(law,))))
    assert read.compiled == (law,)


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.slow
def test_a_compiled_step_is_one_graph_and_gives_the_same_logits() -> None:
    torch = pytest.importorskip("torch")
    from ridgepoint.engine.build import build_random
    from ridgepoint.engine.cache import KvCache
    from ridgepoint.measurement.compiled import compiled, forget

    shape = replace(MODEL, blocks=(replace(MODEL.blocks[0], count=2),), max_position_embeddings=32)
    model = build_random(shape, "fp32")
    tokens = torch.randint(0, shape.vocab_size, (2, 5))

    cache = KvCache(shape, 2, 32, "fp32", "cpu")

    def step(model):
        return model.logits(tokens, cache, 0)

    forget()
    made = compiled(step, model, torch.inference_mode())
    assert made.seconds > 0 and made.breaks == 0 and made.graphs == 1
    with torch.inference_mode():
        torch.testing.assert_close(made.step(model), step(model), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bet", ["fp32..fp32+compile", "fp32+compile..fp32", "fp32+compile..fp32+compile+math"])
@pytest.mark.parametrize("batch", [1, 16])
def test_no_speed_up_lies_above_its_ceiling(bet: str, batch: int) -> None:
    a, b = (resolve(text, "fp32").plan(MODEL, decode(batch, 64)) for text in bet.split(".."))
    times = step_time(a, COMPILED), step_time(b, COMPILED)
    assert float(times[0].seconds) / float(times[1].seconds) <= _ceiling(*times, a, b) * (1 + 1e-9)


def test_a_runtime_of_its_own_is_not_compiled() -> None:
    with pytest.raises(NotSupported, match="leave compile or :ort out"):
        resolve("int4:ort+compile", "fp32").plan(MODEL, decode(1, 8))


def settled(low: float, speedup: float, high: float, **compile_s: float) -> SimpleNamespace:
    point = Point(
        a="eager", b="compile", batch=4, predicted_speedup=1.1, predicted_low=1.0, predicted_high=1.2, verdict="faster",
        measured_speedup=speedup, measured_low=low, measured_high=high, predicted_a_s=0.011, predicted_b_s=0.01,
        measured_a_s=0.011, measured_b_s=0.011 / speedup, roofline_speedup=1.0, compile_s=compile_s,
    )  # fmt: skip
    return SimpleNamespace(points=(point,))


def test_breaking_even_in_words() -> None:
    (words,) = compile_lines(settled(1.05, 1.1, 1.2, b=10.0))
    # 11 ms a step: saves 1 ms at 1.1x, 0.52 ms at 1.05x, 1.83 ms at 1.2x
    assert words == "compile at batch 4: compiled in 10 s, paid back after 10,000 steps (95 %: 5,500 to 19,000)"
    assert "never paid back" in next(compile_lines(settled(0.8, 0.9, 0.95, b=10.0)))
    assert "undecided" in next(compile_lines(settled(0.98, 1.01, 1.04, b=10.0)))
    assert not list(compile_lines(settled(1.05, 1.1, 1.2))), "nothing was compiled"
    both = list(compile_lines(settled(1.05, 1.1, 1.2, a=9.0, b=10.0)))
    assert both == ["eager at batch 4: compiled in 9 s", "compile at batch 4: compiled in 10 s"], "nothing to pay back"


def test_breaking_even_is_foretold() -> None:
    curve = SimpleNamespace(b="compile", batch=(1, 16), a_s=(0.011, 0.1), b_s=(0.010, 0.101))
    bet = SimpleNamespace(a=SimpleNamespace(compile_s=None), b=[SimpleNamespace(compile_s=12.0)], curves=[curve])
    (words,) = predicted_compile_lines(bet)
    assert "after 12,000 steps at batch 1, never at batch 16" in words
    bet.b[0].compile_s = None
    assert not list(predicted_compile_lines(bet))
