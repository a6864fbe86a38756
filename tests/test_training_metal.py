"""A training step on metal: gradients against torch and dequantised layers, adapters merged and taken out, bytes counted."""

import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from ridgepoint.choice import resolve
from ridgepoint.errors import BadInput
from ridgepoint.prediction.training_memory import training_need
from ridgepoint.workload import forward, heldout_text, load_model, train, weights_directory
from ridgepoint.workload.families import from_config

torch = pytest.importorskip("torch")

from ridgepoint.engine.adapters import adapter_parameters, merge, unmerge  # noqa: E402
from ridgepoint.engine.cache import KvCache  # noqa: E402
from ridgepoint.engine.training import loss_of, make_trainer, train_step  # noqa: E402
from ridgepoint.measurement.curve import curve_losses  # noqa: E402
from ridgepoint.measurement.request import CurveRequest, SideRequest  # noqa: E402
from ridgepoint.measurement.runnable import build_weights, runnable  # noqa: E402
from ridgepoint.measurement.training import held_bytes, training_run  # noqa: E402

BASE = {
    "hidden_size": 128, "intermediate_size": 320, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
}  # fmt: skip
SMALL = from_config("small", {**BASE, "tie_word_embeddings": True})
STEP = train(2, 24)
needs_peft = pytest.mark.skipif(not find_spec("peft"), reason="needs peft")
needs_bnb = pytest.mark.skipif(not find_spec("bitsandbytes"), reason="needs bitsandbytes")


def model_of(side, decoder=SMALL, step=STEP):
    torch.manual_seed(0)
    return build_weights(decoder, resolve(side, "fp32"), step, {}).model


def tokens_of(batch=2, new=24, vocabulary=512, seed=1):
    return torch.randint(0, vocabulary, (batch, new), generator=torch.Generator().manual_seed(seed))


def gradients(trainer, tokens, targets):
    loss = loss_of(trainer, tokens, targets)
    loss.backward()
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.optimizer.zero_grad()
    return float(loss), found


# The step


@pytest.mark.parametrize(
    "more",
    [{}, {"model_type": "qwen3", "head_dim": 32}, {"model_type": "gemma2", "head_dim": 32}, {"model_type": "gpt2"}],
    ids=["llama", "qwen3", "gemma2", "gpt2"],
)
def test_logits_without_a_cache_are_those_with_one(more):
    try:
        decoder = load_model("gpt2") if more.get("model_type") == "gpt2" else from_config("small", {**BASE, **more})
        model = model_of("fp32", decoder, forward(2, 24))
    except Exception as error:
        pytest.skip(f"not run by the engine: {error}")
    tokens = tokens_of()
    with torch.no_grad():
        mine = model.training_logits(tokens)
        theirs = model.logits(tokens, KvCache(decoder, 2, 24, "fp32"), 0, "all")
    torch.testing.assert_close(mine, theirs.reshape(mine.shape))


def test_gradients_are_those_of_transformers():
    """Loss and every gradient of a Llama with the same weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**BASE, tie_word_embeddings=True, attn_implementation="eager")
    theirs = transformers.LlamaForCausalLM(config).float()
    trainer = make_trainer(model_of("fp32+full"), recompute=False)
    mine = trainer.model
    pairs = {"model.embed_tokens": mine.embed_tokens, "model.norm": mine.final_norm}
    for i, layer in enumerate(mine.layers):
        stem = f"model.layers.{i}"
        pairs |= {
            f"{stem}.input_layernorm": layer.input_norm,
            f"{stem}.post_attention_layernorm": layer.post_attention_norm,
        }
        pairs |= {f"{stem}.self_attn.{x}_proj": getattr(layer, f"{x}_proj") for x in "qkvo"}
        pairs |= {f"{stem}.mlp.{x}_proj": getattr(layer, f"{x}_proj") for x in ("gate", "up", "down")}
    with torch.no_grad():
        for name, module in pairs.items():
            theirs.get_submodule(name).weight.copy_(module.weight)
    tokens, targets = tokens_of(), tokens_of(seed=2)
    expected = torch.nn.functional.cross_entropy(theirs(tokens).logits.flatten(0, 1), targets.flatten())
    expected.backward()
    loss = loss_of(trainer, tokens, targets)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    for name, module in pairs.items():
        torch.testing.assert_close(module.weight.grad, theirs.get_submodule(name).weight.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side", ["fp32+full", "fp32+lora:r=4"])
@needs_peft
def test_checkpointing_changes_no_gradient(side):
    model, tokens, targets = model_of(side), tokens_of(), tokens_of(seed=2)
    plain = gradients(make_trainer(model, recompute=False), tokens, targets)
    again = gradients(make_trainer(model, recompute=True), tokens, targets)
    assert plain[0] == again[0] and plain[1].keys() == again[1].keys()
    for name, gradient in plain[1].items():
        torch.testing.assert_close(again[1][name], gradient)


def test_training_lowers_the_loss_of_what_it_sees():
    trainer, tokens = make_trainer(model_of("fp32+full"), False, 1e-3), tokens_of()
    losses = [float(train_step(trainer, tokens, tokens)) for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]


def test_the_backward_pass_runs_in_the_thread_that_is_timed():
    side = resolve("fp32+full", "fp32")
    run = runnable(SMALL, side, STEP, build_weights(SMALL, side, STEP, {}))
    run.call()
    thread, process = time.thread_time(), time.process_time()
    for _ in range(5):
        run.call()
    thread, process = time.thread_time() - thread, time.process_time() - process
    assert thread > 0.9 * process


# Adapters


@needs_peft
@pytest.mark.parametrize("targets", ["all", "qv"])
def test_lora_trains_its_adapters_and_nothing_else(targets):
    trainer, tokens = make_trainer(model_of(f"fp32+lora:r=4:targets={targets}"), False, 1e-2), tokens_of()
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    for _ in range(2):
        train_step(trainer, tokens, tokens)
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == set(adapter_parameters(trainer.model))
    leaves = {name.split(".")[2] for name in changed}
    assert leaves == ({"q_proj", "v_proj"} if targets == "qv" else
                      {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})  # fmt: skip


@needs_peft
def test_adapters_change_nothing_at_first():
    tokens = tokens_of()
    with torch.no_grad():
        plain, lora = model_of("fp32"), model_of("fp32+lora:r=4")
        torch.testing.assert_close(lora.training_logits(tokens), plain.training_logits(tokens))


@needs_bnb
def test_the_gradient_through_nf4_is_that_of_the_dequantised_layer():
    import bitsandbytes

    from ridgepoint.kernels.nf4 import trainable_nf4

    torch.manual_seed(0)
    layer = torch.nn.Linear(128, 96, bias=True, dtype=torch.bfloat16)
    packed = trainable_nf4(layer)
    dense = bitsandbytes.functional.dequantize_4bit(packed.weight.data, packed.weight.quant_state).float()
    assert 0 < (dense - layer.weight.float()).norm() / layer.weight.float().norm() < 0.15, "it is quantised"
    x = torch.randn(16, 128, dtype=torch.bfloat16, requires_grad=True)
    y = packed(x)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    torch.testing.assert_close(y.float(), x.detach().float() @ dense.T + layer.bias.float(), rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(x.grad.float(), gradient.float() @ dense, rtol=2e-2, atol=2e-2)


@needs_peft
@needs_bnb
def test_qlora_trains_beside_a_frozen_base():
    trainer, tokens = make_trainer(model_of("bf16+qlora:r=4"), False, 1e-2), tokens_of()
    packed = trainer.model.layers[0].q_proj.base_layer.weight
    assert packed.dtype == torch.uint8 and not packed.requires_grad
    before = packed.clone()
    losses = [float(train_step(trainer, tokens, tokens)) for _ in range(10)]
    assert losses[-1] < losses[0] and torch.equal(packed, before)
    assert {p.dtype for p in adapter_parameters(trainer.model).values()} == {torch.bfloat16}


@needs_peft
@pytest.mark.parametrize(("side", "tolerance", "exact"), [("fp32+lora:r=4", 1e-4, 1e-6), ("bf16+lora:r=4", 0.08, 4e-3)])
def test_merged_weights_give_the_same_logits_and_come_back(side, tolerance, exact):
    """Merging is one addition, taking out one subtraction: weights come back to the rounding of their dtype, not bit for bit."""
    trainer, tokens = make_trainer(model_of(side), False, 1e-2), tokens_of()
    for _ in range(4):
        train_step(trainer, tokens, tokens)
    model = trainer.model
    base = {n: p.detach().clone() for n, p in model.named_parameters() if "base_layer" in n}
    with torch.no_grad():
        apart = model.training_logits(tokens)
        merge(model)
        assert any(not torch.equal(p, base[n]) for n, p in model.named_parameters() if n in base), (
            "something was merged"
        )
        merged = model.training_logits(tokens)
        unmerge(model)
        back = model.training_logits(tokens)
    assert (merged - apart).norm() < tolerance * apart.norm() and (back - apart).norm() < tolerance * apart.norm()
    for name, parameter in model.named_parameters():
        if name in base:
            torch.testing.assert_close(parameter, base[name], rtol=exact, atol=exact)


@needs_peft
@needs_bnb
def test_merging_into_nf4_moves_weights_by_a_quantisation_step_at_most():
    """peft dequantises, adds and quantises again: logits stay near, but not as near as apart."""
    trainer, tokens = make_trainer(model_of("bf16+qlora:r=4"), False, 1e-3), tokens_of()
    for _ in range(3):
        train_step(trainer, tokens, tokens)
    model = trainer.model
    with torch.no_grad():
        apart = model.training_logits(tokens).float()
        merge(model)
        merged = model.training_logits(tokens).float()
        unmerge(model)
        back = model.training_logits(tokens).float()
    assert (merged - apart).norm() < 0.25 * apart.norm() and (back - apart).norm() < 0.25 * apart.norm()


# Bytes


@needs_peft
@needs_bnb
@pytest.mark.parametrize(
    "side",
    ["fp32+full", "fp32+full+checkpoint", "fp32+lora", "fp32+lora+checkpoint", "fp32+lora:targets=qv", "bf16+full",
     "bf16+lora", "bf16+qlora", "bf16+qlora+checkpoint"],
)  # fmt: skip
@pytest.mark.parametrize("tied", [True, False])
def test_predicted_memory_is_what_is_counted(side, tied):
    """What autograd keeps to 0.2 %, states and gradients exactly, the peak within 3 %."""
    wide = {"hidden_size": 192, "intermediate_size": 512, "num_attention_heads": 3, "num_key_value_heads": 1}
    decoder = from_config("wide", {**BASE, **wide, "vocab_size": 3000, "tie_word_embeddings": tied})
    settled, step = resolve(side, "bf16"), train(2, 32)
    plan = settled.plan(decoder, step)
    held = held_bytes(training_run(plan, build_weights(decoder, settled, step, {}).model))
    need = training_need(plan)
    assert float(need.kept) == pytest.approx(held.kept, rel=2e-3)
    assert float(need.all_gradients) == held.gradients
    assert float(need.optimizer) == pytest.approx(held.states, rel=1e-3)
    assert float(need.total) == pytest.approx(held.peak, rel=0.03)


# Curves


@needs_peft
def test_the_same_seed_gives_the_same_curve_and_another_seed_another():
    decoder = load_model("pocket")
    request = CurveRequest(
        decoder=decoder, directory=str(weights_directory("pocket")), path=str(heldout_text("pocket")),
        sides=tuple(SideRequest(spec=s, device="cpu") for s in ("fp32+full+threads:1", "fp32+lora:r=2+threads:1")),
        steps=3, seeds=(0, 1), batch=1, length=16,
    )  # fmt: skip
    first, second = ([m for m in curve_losses(request) if m["kind"] == "curve"] for _ in range(2))
    assert first == second
    by = {(m["side"], m["seed"]): m for m in first}
    assert by[0, 0]["losses"] != by[0, 1]["losses"]
    assert by[0, 0]["losses"][0] == pytest.approx(by[1, 0]["losses"][0], rel=1e-4), "the same batch, before any update"
    assert len({m["before"] for m in first}) <= 2 and all(0 < m["before"] < 3 for m in first)


def test_a_text_too_short_is_refused(tmp_path):
    path = Path(tmp_path) / "short.txt"
    path.write_text("x" * 40)
    request = CurveRequest(decoder=load_model("pocket"), directory=str(weights_directory("pocket")), path=str(path), sides=(),
                           steps=2, seeds=(0,), batch=1, length=32)  # fmt: skip
    with pytest.raises(BadInput, match="too few"):
        list(curve_losses(request))


# Calibration


@pytest.mark.slow
@needs_peft
@needs_bnb
def test_the_stage_yields_what_the_laws_need(monkeypatch):
    """Every probe on tiny grids: a law for each operator of full, LoRA and QLoRA steps."""
    from ridgepoint.measurement.calibrate import training as probes
    from ridgepoint.measurement.calibrate import training_nets as nets
    from ridgepoint.prediction.training_step import training_times
    from ridgepoint.study.fit_training import with_training
    from tests.test_training import BARE

    for name in ("PRODUCT_GRID", "THIN_GRID"):
        monkeypatch.setattr(probes, name, ((1, 64, 64), (8, 64, 128), (16, 128, 64), (8, 96, 64)))
    monkeypatch.setattr(probes, "_UPDATE_GRID", ((2, 64), (4, 256), (2, 4096)))
    with torch.no_grad():
        samples = [s for _, found in probes.training_probes(1e-4, 1e6) for s in found]
        samples += [s for act in ("fp32", "bf16") for s in nets.training_net_samples(act, 1e-4)]
    assert not [s for s in samples if s["probe"] == "absent"]
    target = with_training(BARE, samples, "s")
    assert {net.dtype for net in target.training_nets} == {"fp32", "bf16"}
    for side in ("fp32+full", "fp32+lora+checkpoint", "bf16+lora:targets=qv", "bf16+qlora"):
        assert sum(float(t.seconds) for t in training_times(resolve(side, "fp32").plan(SMALL, STEP), target)) > 0


def test_capped_logits_have_the_gradient_of_tanh():
    from ridgepoint.kernels.pointwise import Softcap

    x = torch.linspace(-40, 40, 9, requires_grad=True)
    Softcap(30.0)(x).sum().backward()
    torch.testing.assert_close(x.grad, 1 - torch.tanh(x.detach() / 30.0) ** 2)
