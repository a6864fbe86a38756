"""Algorithms that choose codes: each against a naive oracle, and on trained models against rounding to nearest."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import stories  # noqa: E402

from ridgepoint.engine.build import build_random, load_safetensors  # noqa: E402
from ridgepoint.engine.cache import KvCache  # noqa: E402
from ridgepoint.engine.quantise.algorithms import chosen_codes  # noqa: E402
from ridgepoint.engine.quantise.awq import awq_codes, squared_error  # noqa: E402
from ridgepoint.engine.quantise.fold import fold, groups_of, shared  # noqa: E402
from ridgepoint.engine.quantise.gptq import DAMP, gptq  # noqa: E402
from ridgepoint.engine.quantise.inputs import Inputs, Walk  # noqa: E402
from ridgepoint.engine.quantise.smooth import smooth  # noqa: E402
from ridgepoint.kernels.codes import INT3, INT4, INT8, nearest  # noqa: E402
from ridgepoint.study.accuracy import paired_difference  # noqa: E402
from ridgepoint.workload import load_model  # noqa: E402
from ridgepoint.workload.decoder import AttentionSpec, Block, Decoder, MlpSpec  # noqa: E402

LLAMA = Decoder(
    name="tiny", hidden_size=64, vocab_size=96, blocks=(Block(AttentionSpec(4, 2, 16), MlpSpec(128), 2),),
    tie_word_embeddings=False, max_position_embeddings=64, dtype="fp32", rms_norm_eps=1e-3,
)  # fmt: skip
SHAPES = {
    "llama": LLAMA.blocks[0],
    "fused": Block(AttentionSpec(4, 2, 16, fused=True), MlpSpec(128, fused=True), 2),
    "biased": Block(AttentionSpec(4, 4, 16, bias=True), MlpSpec(128, bias=True), 2),
    "opt": Block(AttentionSpec(4, 4, 16, bias=True), MlpSpec(128, bias=True, gated=False, act="relu"), 2, "layer_norm"),
    "gpt2": Block(
        AttentionSpec(4, 4, 16, bias=True), MlpSpec(128, bias=True, gated=False, act="gelu"), 2, "layer_norm"
    ),
}


def of_shape(name):
    return replace(LLAMA, blocks=(SHAPES[name],), norm=SHAPES[name].norm)


def correlated(rows, k, seed):
    """Inputs whose channels go together and differ in size, as those of a trained network do."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(rows, k, generator=generator) @ (torch.eye(k) + 0.4 * torch.randn(k, k, generator=generator))
    return mixed * torch.rand(k, generator=generator).mul(2).exp()


# Codes


@given(st.integers(0, 10_000), st.sampled_from([INT3, INT4, INT4.grouped(64), INT8]), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=40)
def test_nearest_is_off_by_at_most_half_a_scale(seed, grid, size):
    """And a little for the rounding of scale and zero to bf16, which moves the ends of the range."""
    w = size * torch.randn(6, 128, generator=torch.Generator().manual_seed(seed))
    codes = nearest(w, grid)
    assert int(codes.q.min()) >= grid.low and int(codes.q.max()) <= grid.high
    groups = 128 // (grid.group or 128)
    gap = (codes.dequantised() - w).abs().view(6, groups, -1).amax(-1)
    assert (gap <= 0.5 * codes.scale.float() + 0.009 * w.abs().view(6, groups, -1).amax(-1)).all()


def test_codes_of_a_weight_that_lies_on_the_grid_are_exact():
    w = torch.arange(16.0).repeat(2, 2).sub(8)  # two groups of 16, steps of 1
    codes = nearest(w, INT4.grouped(16))
    assert torch.equal(codes.q[0, :16].long(), torch.arange(16)) and torch.equal(codes.dequantised(), w)


# GPTQ


def optimal_brain_quantiser(w, hessian, grid):
    """GPTQ's columns one by one by the textbook: the inverse is updated by elimination after each (arXiv 2208.11580)."""
    w, k = w.double().clone(), w.shape[1]
    scale, zero = grid.fit(grid.groups(w.float()))
    group = grid.group or k
    damped = hessian.double() + DAMP * hessian.double().diagonal().mean() * torch.eye(k, dtype=torch.double)
    inverse = torch.linalg.inv(damped)
    q = torch.zeros(w.shape)
    for j in torch.argsort(hessian.diagonal(), descending=True, stable=True).tolist():
        s, z = scale[:, j // group], None if zero is None else zero[:, j // group]
        q[:, j : j + 1] = grid.codes(w[:, j : j + 1].float(), s, z)
        error = (w[:, j] - grid.values(q[:, j : j + 1], s, z)[:, 0]) / inverse[j, j]
        w -= error[:, None] * inverse[j]
        inverse -= inverse[:, j : j + 1] * inverse[j : j + 1] / inverse[j, j]
    return q


@pytest.mark.parametrize("grid", [INT4.grouped(32), INT3.grouped(0), INT8], ids=["int4", "int3", "int8"])
def test_gptq_takes_the_codes_of_the_textbook(grid):
    """Blocks and a Cholesky factor give what elimination gives; a tie that rounding turns may differ."""
    x = correlated(400, 160, 3)
    w = torch.randn(12, 160, generator=torch.Generator().manual_seed(4))
    ours = gptq(w, x.t() @ x, grid).q.float()
    same = (ours == optimal_brain_quantiser(w, x.t() @ x, grid)).float().mean()
    assert same > 0.985


def test_gptq_with_inputs_that_share_nothing_rounds_to_nearest():
    w = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(gptq(w, torch.eye(64), INT4).q, nearest(w, INT4).q)


def test_inputs_that_were_never_seen_do_not_break_gptq():
    x = correlated(50, 64, 5)
    x[:, 10:20] = 0
    codes = gptq(torch.randn(4, 64), x.t() @ x, INT4)
    assert torch.isfinite(codes.dequantised()).all()


@pytest.mark.parametrize("grid", [INT4, INT3, INT8], ids=["int4", "int3", "int8"])
@pytest.mark.parametrize("seed", range(3))
def test_gptq_and_awq_lower_the_error_of_the_outputs(grid, seed):
    x = correlated(600, 96, seed)
    hessian = x.t() @ x
    w = torch.randn(24, 96, generator=torch.Generator().manual_seed(seed + 50))
    seen = Inputs(hessian, x.abs().mean(0), x.abs().amax(0), len(x))
    rounded, by_gptq, by_awq = (
        float(squared_error(w, c.dequantised(), hessian))
        for c in (nearest(w, grid), gptq(w, hessian, grid), awq_codes(w, seen, grid))
    )
    assert by_gptq < 0.8 * rounded and (by_awq < rounded or (grid is INT8 and by_awq == rounded))


# Factors moved between layers


@pytest.mark.parametrize("shape", SHAPES)
def test_a_folded_factor_changes_no_output(shape):
    decoder = of_shape(shape)
    model = build_random(decoder, "fp32", seed=2)
    for layer in model.layers:
        for name, p in layer.named_parameters():
            p.add_(0.1 * torch.randn_like(p)) if "norm" in name or "bias" in name else None
    tokens = torch.randint(0, 96, (2, 12))
    before = model(tokens, KvCache(decoder, 2, 12, "fp32"), 0, "all")
    folded = 0
    for layer in model.layers:
        for group in groups_of(layer):
            k = layer.get_submodule(group.linears[0]).in_features
            fold(layer, group, shared(torch.rand(k) + 0.5, group))
            folded += 1
    after = model(tokens, KvCache(decoder, 2, 12, "fp32"), 0, "all")
    assert folded == 2 * (3 if shape == "gpt2" else 4)
    assert torch.allclose(before, after, atol=2e-5), (before - after).abs().max()


def test_smoothing_evens_out_the_inputs_and_keeps_the_outputs():
    model = build_random(LLAMA, "fp32", seed=3)
    layer = model.layers[0]
    layer.input_norm.weight[5] = 40.0  # an outlier channel
    walk = Walk(torch.randint(0, 96, (4, 16)))
    walk(model, lambda module, inputs: module)
    spread = {}

    def note(module, inputs):
        spread["before"] = float(inputs["q_proj"].most.max() / inputs["q_proj"].most.median())
        smooth(module, inputs, dict.fromkeys(inputs, INT8))
        spread["after"] = float(inputs["q_proj"].most.max() / inputs["q_proj"].most.median())
        return module

    tokens = torch.randint(0, 96, (2, 12))
    before = model(tokens, KvCache(LLAMA, 2, 12, "fp32"), 0, "all")
    walk(layer, note)
    after = model(tokens, KvCache(LLAMA, 2, 12, "fp32"), 0, "all")
    assert spread["before"] > 10 and spread["after"] < 0.5 * spread["before"]
    assert torch.allclose(before, after, atol=5e-5)


# What layers are given


def test_the_walk_gives_each_layer_what_the_layers_before_it_put_out():
    model = build_random(LLAMA, "fp32", seed=1)
    tokens = torch.randint(0, 96, (20, 8))
    given_ = []
    hook = model.layers[1].q_proj.register_forward_pre_hook(lambda _, args: given_.append(args[0].clone()))
    model(tokens, KvCache(LLAMA, 20, 8, "fp32"), 0, "all")
    hook.remove()
    walk, seen = Walk(tokens), {}
    walk(model, lambda module, inputs: module)
    for number, layer in enumerate(model.layers):
        walk(layer, lambda module, inputs, number=number: seen.update({number: inputs}) or module)
    (x,) = given_
    found = seen[1]["q_proj"]
    assert found.count == 160 and seen[1]["k_proj"] is found
    assert torch.allclose(found.hessian, x.t() @ x, rtol=1e-4, atol=1e-4)
    assert torch.allclose(found.mean, x.abs().mean(0), atol=1e-5)
    assert torch.allclose(found.most, x.abs().amax(0), atol=1e-5)


# On trained weights


def converted(decoder, folder, tokens, algorithm, group=32):
    """The model with every linear layer's weights as its codes stand for them, groups of `group` where they fit."""
    walk = Walk(tokens)

    def rewrite(module, inputs):
        if not inputs:
            return module
        fits = {name: module.get_submodule(name).in_features % group == 0 for name in inputs}
        grids = {name: INT4.grouped(group if fits[name] else 0) for name in inputs}
        for name, codes in chosen_codes(algorithm, inputs)(module, grids).items():
            module.get_submodule(name).weight.copy_(codes.dequantised())
        return module

    return load_safetensors(decoder, folder, "fp32", convert=lambda module, layer: walk(module, rewrite))


def losses(model, decoder, tokens):
    out = []
    for block in tokens.split(32):
        logits = model(block, KvCache(decoder, len(block), block.shape[1], "fp32"), 0, "all")[:, :-1]
        out.append(-logits.log_softmax(-1).gather(-1, block[:, 1:, None])[..., 0].mean(-1))
    return torch.cat(out).double().tolist()


def test_gptq_and_awq_beat_rounding_on_a_trained_model_of_260k_parameters(tmp_path):
    """Held-out stories are the model's own, told by another seed than those that the algorithms look at."""
    if not stories.BIN.is_file():
        pytest.skip("../shared/weights is not here")
    folder = stories.write_checkpoint(tmp_path / "stories")
    decoder = load_model(str(folder))
    model = load_safetensors(decoder, folder, "fp32")
    heldout, shown = stories.told(model, decoder, 96, 128, seed=0), stories.told(model, decoder, 64, 128, seed=1)
    assert sum(losses(model, decoder, heldout)) / 96 < 1.5, "it tells stories that it finds likely"
    rounded = losses(converted(decoder, folder, shown, ""), decoder, heldout)
    for algorithm in ("gptq", "awq"):
        better = paired_difference(
            rounded, losses(converted(decoder, folder, shown, algorithm), decoder, heldout), 0.01
        )
        assert better.high < 0, algorithm


@pytest.mark.slow
@pytest.mark.parametrize("group", [32, 128])
def test_gptq_and_awq_beat_rounding_on_pocket(group):
    decoder = load_model("pocket")
    folder = Path(stories.__file__).parents[1] / "ridgepoint" / "workload" / "data" / "trained" / "pocket"
    heldout, shown = (
        torch.frombuffer(bytearray((folder / name).read_bytes()), dtype=torch.uint8).long()
        for name in ("heldout.txt", "calibration.txt")
    )
    heldout, shown = (x[: len(x) // 256 * 256].view(-1, 256) for x in (heldout, shown))
    rounded = losses(converted(decoder, folder, shown[:64], "", group), decoder, heldout)
    for algorithm in ("gptq", "awq"):
        other = losses(converted(decoder, folder, shown[:64], algorithm, group), decoder, heldout)
        assert paired_difference(rounded, other, 0.01).high < 0, algorithm
