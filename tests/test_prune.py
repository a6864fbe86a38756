"""What pruning does to a model: masks, removed parts against their oracles, kernels of sparse rows, zeros as counted."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_sparse import POCKET, STEP, TARGET, csr_target, plan_of, question, shares

from ridgepoint.choice import resolve
from ridgepoint.errors import NotSupported
from ridgepoint.study.betting import place_bet
from ridgepoint.study.sparsity import sparsity_card
from ridgepoint.workload import Linear, decode

torch = pytest.importorskip("torch")

from ridgepoint.engine.build import build_random, load_safetensors  # noqa: E402
from ridgepoint.engine.cache import KvCache  # noqa: E402
from ridgepoint.engine.models.decoder import DecoderLayer, rope_of  # noqa: E402
from ridgepoint.engine.prune.masks import kept_of_rows, kept_of_whole, kept_two_of_four, scores  # noqa: E402
from ridgepoint.engine.prune.structured import keep_channels, keep_heads  # noqa: E402
from ridgepoint.engine.quantise.inputs import Inputs  # noqa: E402
from ridgepoint.kernels.csr import LADDER  # noqa: E402
from ridgepoint.measurement.runnable import build_weights, runnable  # noqa: E402
from ridgepoint.measurement.tensors import stored_bytes  # noqa: E402
from ridgepoint.measurement.zeros import zero_share  # noqa: E402
from ridgepoint.workload import weights_directory  # noqa: E402
from ridgepoint.workload.decoder import AttentionSpec, Block, Decoder, MlpSpec  # noqa: E402


def random(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 2, 7]),
    st.floats(0, 1),
    st.booleans(),
)
def test_sparse_rows_give_what_the_dense_layer_gives(seed, n, k, m, density, biased):
    """Also with rows, columns or all of it empty, and for a copy, which has memory of its own."""
    weight = random(seed, n, k) * (torch.rand(n, k, generator=torch.Generator().manual_seed(seed)) < density)
    bias, x = random(seed + 1, n) if biased else None, random(seed + 2, 2, m, k)
    for kernel in LADDER:
        module = copy.deepcopy(kernel.pack(weight, bias, "fp32", 0))
        assert torch.allclose(module(x), torch.nn.functional.linear(x, weight, bias), atol=1e-5)
        assert torch.equal(module.dequantised(), weight)
        assert module(x[0, :1]).shape == (1, n)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), shares)
def test_masks_leave_what_they_promise(seed, sparsity):
    score = scores(random(seed, 12, 40), None)
    whole, rows, four = kept_of_whole(score, sparsity), kept_of_rows(score, sparsity), kept_two_of_four(score)
    assert int((~whole).sum()) == round(sparsity * 480)
    assert ((~rows).sum(1) == round(sparsity * 40)).all()
    assert (four.view(-1, 4).sum(1) == 2).all()
    if 0 < int(whole.sum()) < 480:
        assert score[whole].min() >= score[~whole].max()
    for kept in (rows.view(12, 40), four.view(-1, 4)):
        of = score.view(kept.shape)
        lost = torch.where(kept, torch.tensor(-1.0), of).max(1).values
        assert (torch.where(kept, of, torch.tensor(1e9)).min(1).values >= lost).all()


def test_wanda_keeps_outputs_nearer_than_magnitude_does_where_inputs_differ():
    """arXiv 2306.11695, section 3: a small weight of a large input matters more than its size says."""
    gains = []
    for seed in range(10):
        weight, size = random(seed, 32, 64), torch.rand(64, generator=torch.Generator().manual_seed(seed)).mul(3).exp()
        x = random(seed + 100, 500, 64) * size
        inputs = Inputs.empty(64)
        inputs.add(x)
        by_size, by_both = (weight * kept_of_rows(scores(weight, i), 0.5) for i in (None, inputs))
        errors = [float((x @ (weight - w).t()).norm()) for w in (by_size, by_both)]
        gains.append(errors[0] / errors[1])
    assert min(gains) > 1.0 and np.mean(gains) > 1.3


BLOCKS = {
    "llama": Block(AttentionSpec(4, 2, 16), MlpSpec(128), 1),
    "fused": Block(AttentionSpec(4, 2, 16, fused=True), MlpSpec(128, fused=True), 1),
    "biased": Block(AttentionSpec(4, 4, 16, bias=True), MlpSpec(128, bias=True), 1),
    "opt": Block(AttentionSpec(4, 4, 16, bias=True), MlpSpec(128, bias=True, gated=False, act="relu"), 1, "layer_norm"),
}  # fmt: skip


def layer_of(name):
    block = BLOCKS[name]
    decoder = Decoder(
        name="tiny", hidden_size=64, vocab_size=96, blocks=(block,), tie_word_embeddings=False, max_position_embeddings=64,
        dtype="fp32", norm=block.norm,
    )  # fmt: skip
    layer = DecoderLayer(decoder, block, rope_of(decoder, block, "fp32"), "fp32")
    with torch.no_grad():
        for i, (_, weight) in enumerate(layer.named_parameters()):
            weight.copy_(0.2 * random(i, *weight.shape))
    return layer


@pytest.mark.parametrize("name", BLOCKS)
def test_removing_what_nothing_reads_changes_no_output(name):
    """Channels and heads whose outputs are multiplied by zero: the smaller layer must say the same, whatever goes with them."""
    layer = layer_of(name)
    dead_channels, groups = torch.arange(0, 128, 2), layer.kv_heads
    queries = layer.heads // groups
    with torch.no_grad():
        layer.down_proj.weight[:, dead_channels] = 0.0
        layer.o_proj.weight.view(64, groups, queries * 16)[:, 0] = 0.0
        x = random(99, 2 * 7, 64)
        before = layer(x, 2)
        keep_channels(layer, 64, {})
        keep_heads(layer, groups - 1, {})
        after = layer(x, 2)
    assert layer.down_proj.in_features == 64 and layer.o_proj.in_features == (groups - 1) * queries * 16
    assert torch.allclose(before, after, atol=1e-5)


def test_with_a_text_the_channel_that_is_given_most_stays():
    layer, inputs = layer_of("llama"), Inputs.empty(128)
    x = torch.ones(3, 128)
    x[:, 5] = 1e4
    inputs.add(x)
    with torch.no_grad():
        marked = layer.down_proj.weight[:, 5].clone()
        keep_channels(layer, 1, {"down_proj": inputs}, by_inputs=True)
        assert inputs.hessian.shape == (1, 1) and float(inputs.most[0]) == 1e4
        assert torch.equal(layer.down_proj.weight[:, 0], marked)


SMALL = replace(
    POCKET, hidden_size=64, vocab_size=128, blocks=(Block(AttentionSpec(4, 2, 16), MlpSpec(256), 4),), max_position_embeddings=64,
)  # fmt: skip


@pytest.mark.parametrize("text", ["channels:0.5", "heads:0.5", "layers:0.5", "channels:0.5+heads:0.5+layers:0.25+int8"])
def test_what_runs_is_as_large_as_its_plan(text):
    side = resolve(text, "bf16")
    weights = build_weights(SMALL, side, STEP, {})
    plan = side.plan(SMALL, decode(2, 12))
    assert stored_bytes(weights.model) == pytest.approx(float(plan.weight_bytes) + 2 * 64 * 16 * 64 // 16, rel=0.1)
    assert runnable(SMALL, side, decode(2, 12), weights).call().shape == (2, 128)
    assert len(weights.model.layers) == plan.workload.layers


@pytest.mark.parametrize(
    ("text", "share"),
    [("sparse:0.7", 0.7), ("fp32+sparse:0.7:csr", 0.7), ("2:4", 0.5), ("sparse:0.7+int8", 0.7), ("sparse:0.7:layers=0-1", 0.35)],
)  # fmt: skip
def test_zeros_are_counted_where_they_ended_up(text, share):
    weights = build_weights(SMALL, resolve(text, "bf16"), STEP, {})
    slack = 0.02 if "int8" in text else 1e-3  # rounding to int8 makes zeros of its own
    assert weights.zeros == pytest.approx(share, abs=slack)
    assert build_weights(SMALL, resolve("dense", "bf16"), STEP, {}).zeros is None


def test_bytes_of_sparse_rows_are_those_of_the_plan():
    side = resolve("sparse:0.9:csr", "fp32")
    model = build_weights(SMALL, side, STEP, {}).model
    rows = [m for m in model.modules() if hasattr(m, "column")]
    stored = sum(t.nbytes for m in rows for t in (m.first, m.column, m.value))
    linears = [op for op in side.plan(SMALL, STEP).ops if isinstance(op, Linear) and op.role != "head"]
    assert stored == pytest.approx(sum(op.count * float(op.weight_bytes) for op in linears), rel=2e-3)


def test_layers_that_are_kept_are_those_of_the_checkpoint():
    """A model of the named layers alone says the same as the whole one whose other layers add nothing."""
    folder, plan = weights_directory("pocket"), plan_of("fp32+layers:0.5", POCKET)
    whole = load_safetensors(POCKET, folder, "fp32")
    fewer = load_safetensors(POCKET, folder, "fp32", kept=plan.kept)
    assert len(fewer.layers) == len(plan.kept) == plan.workload.layers
    with torch.no_grad():
        for number, layer in enumerate(whole.layers):
            if number not in plan.kept:
                layer.o_proj.weight.zero_()
                layer.down_proj.weight.zero_()
    tokens = torch.arange(40, 60)[None]
    said = [
        model(tokens, KvCache(decoder, 1, 20, "fp32"), 0, "all")
        for model, decoder in ((whole, POCKET), (fewer, plan.workload))
    ]
    assert torch.allclose(*said, atol=1e-4)


def test_calibration_of_sparse_rows_gives_a_law_that_grows_with_what_is_stored(monkeypatch):
    from ridgepoint.measurement.calibrate import sparse
    from ridgepoint.study.fit_sparse import fit_sparse

    monkeypatch.setattr(sparse, "SPARSE_SHAPES", ((256, 256), (512, 1024), (1024, 512)))
    monkeypatch.setattr(sparse, "SPARSE_M", (1, 16))
    samples = list(sparse.sparse_samples(1e-3, 1e5, 2.0**15, 2.0**12))
    assert {(s["m"], s["hot"]) for s in samples} == {(1, False), (1, True), (16, False), (16, True)}
    (law,) = fit_sparse(samples, "test")
    assert law.format == "csr" and law.kernel == LADDER[-1].name
    few, many = (float(law.seconds(16, 1024, 1024, 1.0, density=d)) for d in (0.02, 0.9))
    assert 0 < 1.5 * few < many


@given(st.integers(1, 300), shares)
def test_a_law_of_sparse_rows_finds_its_own_terms_again(m, density):
    """Times made of known terms, noise-free; also the rows that are filled up with zeros are the kernel's."""
    from ridgepoint.hardware.law import filled_rows, sparse_terms
    from ridgepoint.kernels.csr import _filled_up
    from ridgepoint.study.fit_sparse import fit_sparse

    near, first, true = 2.0**16, 2.0**14, (2e-5, 1e-9, 3e-9, 2e-9, 5e-9, 1e-10, 0.0)
    shapes = [
        (64, 96),
        (128, 640),
        (512, 256),
        (900, 1400),
        (300, 2000),
        (2000, 300),
        (640, 1024),
        (96, 64),
        (50, 3000),
    ]
    samples = []
    for n, k in shapes:
        for d in (0.05, 0.2, 0.5):
            seconds = float(sum(c * t for c, t in zip(true, sparse_terms(m, n, k, d, near, first), strict=True)))
            samples += [
                {"probe": "sparse", "kernel": "x", "rung": "packed", "act": "fp32", "m": rows, "n": n, "k": k,
                 "stored": d * n * k, "hot": False, "seconds": seconds, "near_bytes": near,
                 "first_bytes": first}
                for rows in (int(filled_rows(m)), int(filled_rows(m)) + 8)
            ]  # fmt: skip
    (law,) = fit_sparse(samples, "test")
    assert float(law.seconds(m, 700, 900, 1.0, density=density)) == pytest.approx(
        float(sum(c * t for c, t in zip(true, sparse_terms(m, 700, 900, density, near, first), strict=True))), rel=1e-3
    )
    assert _filled_up(torch.zeros(m, 3)).shape[1] == int(filled_rows(m))


def test_times_are_scaled_to_the_speed_that_the_base_was_calibrated_at():
    """A machine that is half as fast in one round takes twice as long for both in it: the law is that of the base's speed."""
    from ridgepoint.study.fit import merge_rounds
    from ridgepoint.study.fit_sparse import beside_dense, fit_sparse

    dense = next(law for law in TARGET.linear if law.format == "fp32")

    def law_of(scaled, *paces, lost=()):
        raw = [s for number, pace in enumerate(paces) for s in drifting(dense, pace, number, number in lost)]
        return fit_sparse(merge_rounds(beside_dense(raw, (dense,)) if scaled else raw)[0], "test")[0]

    def seconds(law, miss=1.0):
        return float(law.seconds(4, 500, 700, miss, density=0.2))

    same, slower = (1.0, 1.0), (3.0, 2.0)
    then = law_of(True, same)
    without = law_of(True, slower, slower, same, lost=(0, 1))  # two rounds whose dense samples were lost
    for law in (law_of(True, slower), law_of(True, slower, same, (0.5, 4.0)), without):
        assert seconds(law) == pytest.approx(seconds(then), rel=1e-6)
        assert seconds(law, 0.0) == pytest.approx(seconds(then, 0.0), rel=1e-6)
    assert seconds(law_of(True, slower, lost=(0,))) == pytest.approx(3 * seconds(then), rel=1e-6), "as it stands"
    only_hot = [s for s in drifting(dense, slower, 0) if s["probe"] == "sparse" or s["hot"]]
    assert seconds(fit_sparse(beside_dense(only_hot, (dense,)), "test")[0]) == pytest.approx(
        3 * seconds(then), rel=1e-6
    )
    assert law_of(True, slower, same, (0.5, 4.0)).sigma == pytest.approx(then.sigma), "scaled, rounds are not apart"
    assert law_of(False, same, (1.2, 1.2), (1 / 1.2, 1.0)).sigma > 1.5 * then.sigma
    assert seconds(law_of(False, slower)) == pytest.approx(3 * seconds(then), rel=1e-6)
    assert seconds(law_of(False, same, slower, (4.0, 4.0))) == pytest.approx(3 * seconds(then), rel=1e-6), (
        "the middle round"
    )


def test_a_target_has_sparse_rows_at_the_speed_of_its_base():
    from ridgepoint.study.card import build_target

    dense = next(law for law in TARGET.linear if law.format == "fp32")
    fp32 = {"probe": "linear", "kernel": dense.kernel, "rung": "dense", "format": "fp32", "act": "fp32", "round": 0}
    base = [
        {**fp32, "m": s["m"], "n": s["n"], "k": s["k"], "hot": s["hot"], "seconds": s["seconds"]}
        for s in drifting(dense, (1.0, 1.0), 0) if s["probe"] == "sparse reference"
    ]  # fmt: skip

    def at(pace):
        samples = [*base, *drifting(dense, (pace, pace), 0)]
        target = build_target(samples, "x", {}, "x", "2026-01-01", "r")
        (law,) = (law for law in target.linear if law.format == "csr")
        return float(law.seconds(4, 500, 700, 1.0, density=0.2))

    assert at(3.0) == pytest.approx(at(1.0), rel=1e-6)


def drifting(dense, slow, number, lost=False):
    """A round of sparse rows and, unless lost, of the dense kernel beside them; slow: (cold, hot) times of both."""
    from ridgepoint.hardware.law import sparse_terms

    true, near = (2e-5, 1e-9, 0.0, 0.0, 5e-9, 0.0, 0.0), 2.0**18
    shapes = [(n, k, d) for n, k in ((64, 96), (300, 640), (512, 256), (900, 1400), (96, 64)) for d in (0.05, 0.5)]
    for m, hot in ((1, False), (8, False), (1, True)):
        pace = slow[hot]
        for n, k, d in shapes:
            seconds = float(sum(c * t for c, t in zip(true, sparse_terms(m, n, k, d, near), strict=True)))
            yield {"probe": "sparse", "kernel": "x", "rung": "packed", "act": "fp32", "m": m, "n": n, "k": k,
                   "stored": d * n * k, "hot": hot, "seconds": pace * seconds, "near_bytes": near,
                   "round": number}  # fmt: skip
        for n, k, _ in () if lost else shapes:
            now = pace * float(dense.seconds(m, n, k, float(not hot)))
            yield {"probe": "sparse reference", "m": m, "n": n, "k": k, "hot": hot, "seconds": now, "round": number}


@given(st.integers(1, 200), shares, st.floats(16, 1e4), st.floats(2.0**12, 2.0**17))
def test_wrong_guesses_cost_only_what_is_beyond_the_first_cache_and_is_read_in_part(m, density, k, first):
    from ridgepoint.hardware.law import filled_rows, guesses, lines_used, sparse_terms

    used = float(lines_used(filled_rows(m), density))
    assert density - 1e-9 <= used <= 1.0 and 0 <= float(guesses(used)) <= 1 + 1e-9
    assert float(guesses(0.4)) == pytest.approx(1.0) and float(guesses(0.0)) == float(guesses(1.0)) == 0.0
    cost = float(sparse_terms(m, 10, k, density, 2.0**20, first)[3])
    assert (cost == 0.0) == (4 * k * filled_rows(m) <= first) and cost <= 10 * k * density * (1 + 1e-9)
    assert float(np.max(sparse_terms(m, 10, k, density, 2.0**20)[3])) == 0.0


def test_a_gpu_kernel_says_what_it_needs():
    from ridgepoint.kernels.linear import find

    (kernel,) = find("2:4", "cuda")
    assert kernel.check(64, 128, 0) == "" and "multiples of 64" in kernel.check(64, 100, 0)
    if not torch.cuda.is_available():
        assert "no CUDA device" in kernel.available()


def test_random_models_have_the_shapes_of_the_smaller_plan():
    plan = plan_of("channels:0.5", SMALL)
    assert build_random(plan.workload, "bf16").layers[0].down_proj.in_features == 128


def test_zeros_of_a_model_without_linear_layers_are_not_zero_but_absent():
    assert zero_share(torch.nn.ModuleList([torch.nn.ReLU()])) is None
    head = torch.nn.ModuleDict({"lm_head": torch.nn.Linear(4, 4), "q": torch.nn.Linear(4, 4, bias=False)})
    with torch.no_grad():
        head["q"].weight.zero_()
    assert zero_share(head) == 1.0, "the head does not count"


@pytest.mark.parametrize(
    "text", ["channels:0.5:wanda+sparse:0.5:wanda", "channels:0.5+heads:0.5+int4:gptq", "heads:0.5:wanda+2:4:wanda"]
)
def test_what_looks_at_inputs_after_a_removal_sees_those_that_are_left(text):
    from ridgepoint.measurement.request import TextRequest
    from ridgepoint.workload import calibration_text, forward

    shown = TextRequest(path=str(calibration_text("pocket")), protocol="windows", windows=2)
    side = resolve(text, "fp32")
    weights = build_weights(POCKET, side, forward(1, 256), {}, str(weights_directory("pocket")), calibration=shown)
    plan = side.plan(POCKET, decode(1, 8))
    assert weights.model.layers[0].down_proj(torch.zeros(1, plan.workload.blocks[0].mlp.intermediate_size).to(
        torch.bfloat16 if "int4" in text else torch.float32)).shape == (1, 256)  # fmt: skip
    if weights.zeros is not None:
        assert weights.zeros == pytest.approx(0.5, abs=1e-3)


def test_a_head_that_is_the_embedding_is_pruned_beside_it_or_not_at_all():
    with pytest.raises(NotSupported, match="embedding table too"):
        plan_of("sparse:0.5:head", POCKET)
    model = build_weights(POCKET, resolve("fp32+sparse:0.5:csr:head", "fp32"), STEP, {}).model
    assert (model.embed_tokens.weight != 0).all() and zero_share(torch.nn.ModuleList([model.lm_head])) == pytest.approx(
        0.5, abs=1e-3
    )


def test_channels_of_which_none_would_go_are_refused():
    with pytest.raises(NotSupported, match="removes none of the 640 channels"):
        plan_of("channels:0.01", POCKET)
    assert plan_of("channels:0.05", POCKET).workload.blocks[0].mlp.intermediate_size == 608


def test_two_sparsities_for_different_layers_are_counted_together():
    side = resolve("sparse:0.5:mlp+sparse:0.9:attention", "fp32")
    found = sparsity_card(side, POCKET, side.plan(POCKET, STEP))["zeros"]
    weights = build_weights(POCKET, side, STEP, {})
    assert found == pytest.approx(weights.zeros, abs=1e-3)


def test_sides_of_one_family_differ_in_their_sparsity_alone(monkeypatch):
    bet = place_bet(question(monkeypatch, csr_target(), "sparse:0.5:csr,sparse:0.9:csr+threads:1"))
    assert {card.family for card in bet.b} == {"sparse:s:csr"}
    from ridgepoint.study.sparsity import family_of

    assert family_of(resolve("sparse:0.5:csr+kv:int8", "fp32")) == "sparse:s:csr+kv:int8"
    assert family_of(resolve("sparse:0.5", "fp32")) == ""


def test_beyond_its_grid_a_law_of_sparse_rows_grows_with_the_rows():
    law = csr_target().linear[-1]
    many, more = (float(law.seconds(m, 512, 512, 1.0, density=0.1)) for m in (64, 640))
    assert more == pytest.approx(10 * many)


def test_a_side_alone_is_measured_from_the_model_as_it_was_named(monkeypatch):
    """Its choices are carried out once, in the measuring process: not on what is left of the model already."""
    from ridgepoint.study.measure import measure_side, set_side

    class Asked:
        def ask(self, request):
            self.request = request
            yield {"kind": "done", "single": {"p20_s": 1e-3, "median_s": 1e-3, "n": 9, "spread": 0.01}, "ops": None,
                   "clock": "a test's", "load": "", "tokens": 1, "random": False, "resident_bytes": None, "memory_bytes": 7.0,
                   "flags": [], "compile_s": None, "energy_reason": "a test"}  # fmt: skip

    monkeypatch.setattr("ridgepoint.study.measure.target_for", lambda *_: TARGET)
    setting, session = set_side("pocket", "fp32+channels:0.5+heads:0.5+layers:0.4", STEP, "test-target"), Asked()
    assert setting.plan.workload.parameters < POCKET.parameters
    measure_side(setting, 2.0**34, 0.1, session)
    assert session.request.decoder.parameters == POCKET.parameters
