"""Quantised checkpoints: every layout read back as it was written, other people's readers as oracles, and broken files named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quantised_files import (
    POCKET,
    Integers,
    gptq_tensors,
    integers,
    packed_tensors,
    rounded,
    scheme,
    tensors,
    write,
)
from safetensors.torch import load_file, save_file

from ridgepoint.choice import resolve
from ridgepoint.engine.cache import KvCache
from ridgepoint.engine.checkpoint import open_checkpoint
from ridgepoint.engine.quantised.linear import _READERS
from ridgepoint.engine.quantised.tensors import LayerTensors
from ridgepoint.errors import NotSupported
from ridgepoint.kernels.codes import INT4, INT8, Codes, nearest
from ridgepoint.kernels.w4a16 import LADDER as INT4_LADDER
from ridgepoint.measurement.runnable import build_weights
from ridgepoint.workload import decode, forward, load_model, stored_format

BYTE_LAYOUTS = ("gptq", "gptq_v2", "pack-quantized", "int-quantized", "naive-quantized")
some = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read(folder: Path, layout: str, found: dict[str, torch.Tensor], n: int, k: int, config: dict[str, object]):
    """What the reader of the layout makes of one layer."""
    save_file({f"a.b.{leaf}": t.contiguous() for leaf, t in found.items()}, folder / "model.safetensors")
    layer = LayerTensors(open_checkpoint(folder), "a.b")
    stored = stored_format("x", config)
    held = _READERS[layout](layer, stored, n, k)
    layer.bias(n, False)
    assert layer.read == {f"a.b.{leaf}" for leaf in found}
    return held


@st.composite
def layers(draw: st.DrawFn) -> tuple[str, Integers, bool]:
    layout = draw(st.sampled_from((*BYTE_LAYOUTS, "awq")))
    bits = {"awq": (4,), "gptq": (2, 3, 4, 8), "gptq_v2": (2, 3, 4, 8)}.get(layout, (4, 8))
    group = draw(st.sampled_from((0, 8, 32, 64)))
    n = 8 * draw(st.integers(1, 6))
    k = (group or 32) * draw(st.integers(1, 4)) if layout.startswith("gptq") else (group or 8) * draw(st.integers(1, 4))
    k = -(-k // 32) * 32 if layout.startswith("gptq") and group < 32 else k
    symmetric = layout != "awq" and draw(st.booleans())
    weight = torch.randn(n, k, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**20))))
    dtype = draw(st.sampled_from((torch.float16, torch.bfloat16)))
    return layout, integers(weight * 0.1, draw(st.sampled_from(bits)), group, symmetric, dtype), symmetric


@some
@given(layers())
def test_every_layout_is_read_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, layer) -> None:
    layout, x, symmetric = layer
    n, k = x.q.shape
    folder = tmp_path_factory.mktemp("layer")
    held = read(folder, layout, tensors(layout, x, symmetric), n, k, scheme(layout, x.bits, x.group, symmetric))
    assert torch.equal(held.dequantised().double(), x.weight())  # an integer of 9 bits times 11: exact in fp32
    if stored_format("x", scheme(layout, x.bits, x.group, symmetric)).weight:
        assert held.group_of is None


@pytest.mark.parametrize("group", [32, 128])
def test_what_rounding_fp16_scales_costs(group: int) -> None:
    """Kernels keep bf16 scales and zero points: 8 bits of the 11 that files have. Small beside 4 bits, and not nothing."""
    weight = torch.randn(256, 512, generator=torch.Generator().manual_seed(1)) * 0.02
    for symmetric in (True, False):
        x = integers(weight, 4, group, symmetric)
        middle = torch.full_like(x.zero, 8)
        codes = Codes(x.q.to(torch.uint8), x.scale.bfloat16(),
                      ((middle - x.zero) * x.scale.bfloat16().float()).bfloat16(), INT4.grouped(group))  # fmt: skip
        rounding = float((codes.dequantised().double() - x.weight()).norm() / x.weight().norm())
        quantising = float((x.weight() - weight).norm() / weight.norm())
        assert 0 < rounding < 2**-8 < 0.06 < quantising


def test_zero_stays_zero_where_scales_are_rounded() -> None:
    """A code that stands for 0 in the file stands for 0 in the kernel, to the rounding of the zero point."""
    scale = torch.tensor([[0.0123]], dtype=torch.float16)
    for zero in range(16):
        x = Integers(torch.full((1, 32), zero), scale, torch.tensor([[zero]]), 4, 32)
        held = _held(x)
        stands_for = float(held.codes(INT4).dequantised().abs().max())
        assert stands_for <= 8 * 2**-8 * float(scale)


def _held(x: Integers):
    from ridgepoint.engine.quantised.held import Held

    return Held(x.q.to(torch.uint8), x.scale, x.zero)


# --- whole models ---------------------------------------------------------------------------------------------------


class IntegerGrid(type(INT4)):
    """int4 whose zero points are whole codes, as all layouts need them: zero = (8 - z) * scale."""

    def fit(self, w: torch.Tensor, shrink: float = 1.0):
        low, high = (w.amin(-1) * shrink).clamp(max=0), (w.amax(-1) * shrink).clamp(min=0)
        scale = ((high - low) / 15).clamp(min=1e-4).to(self.stored)
        z = (-low / scale.float()).round().clamp(1, 15)
        return scale, ((8 - z) * scale.float()).to(self.stored)


@pytest.fixture(scope="module")
def ours() -> dict[str, Codes]:
    """Codes of pocket's linear layers, chosen by our own GPTQ on its calibration text."""
    from ridgepoint.engine.build import load_safetensors
    from ridgepoint.engine.quantise.gptq import gptq
    from ridgepoint.engine.quantise.inputs import Walk

    text = (POCKET / "calibration.txt").read_bytes()[: 16 * 128]
    walk, found = Walk(torch.tensor(list(text)).view(16, 128)), {}
    grid = IntegerGrid(0, 15, 128)

    def convert(module: torch.nn.Module, layer: int | None) -> torch.nn.Module:
        def rewrite(part: torch.nn.Module, inputs):
            for name in inputs:
                parent = "self_attn" if name[0] in "qkvo" else "mlp"
                weight = part.get_submodule(name).weight.float()
                codes = gptq(weight, inputs[name].hessian, grid)
                found[f"model.layers.{layer}.{parent}.{name}"] = codes
                part.get_submodule(name).weight.copy_(codes.dequantised())
            return part

        return walk(module, rewrite)

    with torch.no_grad():
        load_safetensors(load_model("pocket"), POCKET, "bf16", convert)
    return found


def whole_numbers(codes: Codes) -> Integers:
    zero = (8 - codes.zero.float() / codes.scale.float()).round().int()
    return Integers(codes.q.int(), codes.scale.half(), zero, 4, codes.grid.group)


def losses(folder: Path, text: str) -> list[float]:
    """Of four windows of pocket's held-out text, as the side computes them."""
    model = load_model(str(folder))
    side = resolve(text, model.dtype, checkpoint=model.stored)
    weights = build_weights(model, side, forward(1, 128), {}, str(folder))
    tokens = torch.tensor(list((POCKET / "heldout.txt").read_bytes()[: 4 * 128])).view(4, 128)
    logits = weights.model(tokens, KvCache(model, 4, 128, side.plan(model, forward(4, 128)).dtype), 0, "all")
    log = logits[:, :-1].float().log_softmax(-1)
    return (-log.gather(-1, tokens[:, 1:, None])[..., 0].mean(-1)).tolist()


@pytest.mark.parametrize("layout", ["gptq", "gptq_v2", "awq", "pack-quantized", "naive-quantized"])
def test_our_codes_come_back_from_every_layout(layout: str, ours: dict[str, Codes], tmp_path: Path) -> None:
    """The kernel that is loaded holds bit for bit what the kernel of the codes in memory holds; the loss follows."""
    folder = write(POCKET, tmp_path / layout, layout, {p: whole_numbers(c) for p, c in ours.items()}, symmetric=False)
    model = load_model(str(folder))
    side = resolve("", model.dtype, checkpoint=model.stored)
    assert side.spec == "bf16+stored:int4:g128+threads:1"
    loaded = build_weights(model, side, decode(1, 8), {}, str(folder)).model
    kernel = next(k for k in INT4_LADDER if (k.rung, k.device) == ("packed", "cpu"))
    for path, codes in ours.items():
        _, _, number, _, name = path.split(".")
        mine = kernel.pack_codes(codes, None, "bf16")
        theirs = loaded.layers[int(number)].get_submodule(name)
        assert torch.equal(mine.packed, theirs.packed), path
        assert torch.equal(mine.scale_and_zero, theirs.scale_and_zero), path
    as_stored, dequantised = losses(folder, ""), losses(folder, "fp32+dequantised")
    assert as_stored == pytest.approx(dequantised, abs=0.004)  # bf16 beside fp32
    assert as_stored != pytest.approx(losses(POCKET, "fp32"), abs=1e-3)  # 4 bits do cost something


def test_int8_of_llm_compressor_quantises_activations_too(tmp_path: Path) -> None:
    chosen = rounded(8, 0)
    dynamic = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
    plain = write(POCKET, tmp_path / "a", "int-quantized", chosen, True)
    w8a8 = write(POCKET, tmp_path / "b", "int-quantized", chosen, True, input_activations=dynamic)
    assert (load_model(str(plain)).stored.weight, load_model(str(w8a8)).stored.weight) == ("int8", "int8:dyn:token")
    for folder in (plain, w8a8):
        assert losses(folder, "") == pytest.approx(losses(folder, "fp32+dequantised"), abs=0.01)


def test_layers_left_out_are_rows_of_their_own(tmp_path: Path) -> None:
    """Of five layers the last two are not quantised, which `dynamic` says in GPTQ's way."""
    rule = {r"-:model\.layers\.[34]\.": {}}
    folder = write(POCKET, tmp_path / "part", "gptq", rounded(layers=3), True, dynamic=rule)
    model = load_model(str(folder))
    plan = resolve("", model.dtype, checkpoint=model.stored).plan(model, decode(1, 8))
    rows = {op.name: (op.weight, op.count) for op in plan.ops if op.kind == "linear"}
    assert rows["q_proj"] == ("bf16", 2) and rows["q_proj@int4:g128"] == ("int4:g128", 3)
    assert losses(folder, "") == pytest.approx(losses(folder, "dequantised+bf16"), abs=0.01)
    dense = resolve("bf16+dequantised", model.dtype, checkpoint=model.stored).plan(model, decode(1, 8))
    assert float(plan.weight_bytes) < 0.75 * float(dense.weight_bytes)


def test_a_config_alone_is_measured_on_random_codes(tmp_path: Path) -> None:
    config = json.loads((POCKET / "config.json").read_text())
    config["quantization_config"] = scheme("awq", 4, 64, False)
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = load_model(str(tmp_path))
    side = resolve("", model.dtype, checkpoint=model.stored)
    weights = build_weights(model, side, decode(1, 8), {})
    assert weights.random and type(weights.model.layers[4].up_proj).__name__ == "Int4CpuLinear"


# --- oracles of other people ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "group", "symmetric"), [(4, 32, True), (4, 32, False), (8, 0, True), (3, 32, False)])
def test_compressed_tensors_writes_what_we_read(bits: int, group: int, symmetric: bool, tmp_path: Path) -> None:
    pytest.importorskip("compressed_tensors", reason="needs compressed-tensors, the layout's own library")
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(num_bits=bits, symmetric=symmetric, strategy="group" if group else "channel",
                            group_size=group or None)  # fmt: skip
    theirs = QuantizationScheme(targets=["Linear"], weights=args)
    x = integers(torch.randn(32, 64) * 0.1, bits, group, symmetric)
    zero = (x.zero - 2 ** (bits - 1)).to(torch.int8)
    state = {"weight": x.weight().float(), "weight_scale": x.scale.float(), "weight_zero_point": zero}
    packed = PackedQuantizationCompressor.compress(state, theirs)
    held = read(tmp_path, "pack-quantized", packed, 32, 64, scheme("pack-quantized", bits, group, symmetric))
    again = PackedQuantizationCompressor.decompress(packed, theirs)["weight"]
    assert torch.equal(held.dequantised(), again.float())
    ours = packed_tensors(x, symmetric)  # and the writer of these tests agrees with theirs
    assert all(torch.equal(ours[leaf], packed[leaf]) for leaf in ours if leaf != "weight_scale")


@pytest.mark.parametrize("shape", [(16, 1), (1,)])
def test_fp8_is_read_dequantised(shape: tuple[int, ...], tmp_path: Path) -> None:
    """llm-compressor's FP8 and FP8-dynamic: a scale per row, or one for the matrix; torch's own cast is the oracle."""
    weight = torch.randn(16, 48)
    scale = (weight.abs().amax(-1, keepdim=True) if shape == (16, 1) else weight.abs().max().view(1)) / 448
    codes = (weight / scale).to(torch.float8_e4m3fn)
    args = {"num_bits": 8, "type": "float", "symmetric": True, "strategy": "channel" if len(shape) == 2 else "tensor"}
    acts = {**args, "strategy": "token", "dynamic": True}
    config = {"quant_method": "compressed-tensors", "format": "float-quantized",
              "config_groups": {"0": {"targets": ["Linear"], "weights": args, "input_activations": acts}}}  # fmt: skip
    held = read(tmp_path, "float-quantized", {"weight": codes, "weight_scale": scale}, 16, 48, config)
    assert torch.equal(held.dequantised(), codes.float() * scale)
    stored = stored_format("x", config)
    assert stored.weight == "fp8"
    model = load_model("pocket")
    with pytest.raises(NotSupported, match="no kernel on a CPU"):
        resolve("", "bf16", checkpoint=stored).plan(replace(model, stored=stored), decode(1, 8))
    assert resolve("", "bf16", "cuda", checkpoint=stored).plan(replace(model, stored=stored), decode(1, 8))


def test_scales_of_a_cache_are_said_not_dropped(tmp_path: Path) -> None:
    folder = write(POCKET, tmp_path / "kv", "pack-quantized", rounded(), True)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["kv_cache_scheme"] = {"num_bits": 8, "type": "float"}
    (folder / "config.json").write_text(json.dumps(config))
    state = load_file(folder / "model.safetensors")
    save_file({**state, "model.layers.0.self_attn.k_scale": torch.ones(1)}, folder / "model.safetensors")
    model = load_model(str(folder))
    assert any("kv_cache_scheme" in said for said in model.not_modelled)
    assert build_weights(model, resolve("", "bf16", checkpoint=model.stored), decode(1, 8), {}, str(folder))


def test_transformers_reads_the_same_model(tmp_path: Path) -> None:
    """Logits of the whole model in fp32, from their own reader."""
    pytest.importorskip("compressed_tensors", reason="needs compressed-tensors, which transformers reads with")
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    folder = write(POCKET, tmp_path / "packed", "pack-quantized", rounded(4, 32, False), False)
    theirs = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=CompressedTensorsConfig(dequantize=True)
    )
    tokens = torch.tensor(list(b"The meaning of a checkpoint is in its bytes."))[None]
    model = load_model(str(folder))
    side = resolve("fp32+dequantised", model.dtype, checkpoint=model.stored)
    ours = build_weights(model, side, forward(1, 64), {}, str(folder)).model
    y = ours(tokens, KvCache(model, 1, tokens.shape[1], "fp32"), 0, "all")
    with torch.no_grad():
        torch.testing.assert_close(y, theirs(tokens).logits, atol=2e-3, rtol=2e-3)


def test_codes_beyond_the_grid_of_int8_are_held() -> None:
    """-128 is a code of llm-compressor's int8, though our own rounding never makes it."""
    from ridgepoint.engine.quantised.held import Held

    q = torch.full((16, 32), -128, dtype=torch.int8)
    codes = Held(q, torch.ones(16, 1), None).codes(INT8)
    assert torch.equal(codes.dequantised(), torch.full((16, 32), -128.0))
    assert int(nearest(torch.full((1, 32), -1.0), INT8).q.min()) == -127


def test_act_order_can_be_computed_dequantised(tmp_path: Path) -> None:
    """Groups that are dealt out over the row: each input by the scale of its own group."""
    x = integers(torch.randn(16, 64) * 0.1, 4, 32, True)
    of = torch.randperm(64, generator=torch.Generator().manual_seed(0)) // 32
    config = {**scheme("gptq", 4, 32, True), "desc_act": True}
    held = read(tmp_path, "gptq", gptq_tensors(x, group_of=of, bias=True), 16, 64, config)
    assert torch.equal(held.dequantised().double(), x.weight(of))
