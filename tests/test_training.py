"""A training step on paper: its operators, adapters, memory by hand, laws that are found again, and what is refused."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ridgepoint.choice import parse_choices, resolve
from ridgepoint.engine.runs import check_trains
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.hardware import Target, decode_target, encode_target
from ridgepoint.hardware.law_training import TrainingLaw, TrainingNet, pass_terms, product_terms
from ridgepoint.hardware.target import SCHEMA
from ridgepoint.prediction import predict_memory, step_time
from ridgepoint.prediction.training_memory import training_need
from ridgepoint.prediction.training_step import training_times
from ridgepoint.study.fit_training import with_training
from ridgepoint.study.training import PARTS, parts_of, training_words
from ridgepoint.workload import Linear, Pointwise, decode, forward, train
from ridgepoint.workload.families import from_config

CONFIG = {
    "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 512, "tie_word_embeddings": True,
}  # fmt: skip
SMALL = from_config("small", CONFIG)
LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


STEP = train(2, 32)


def plan_of(side, step=STEP, model=SMALL):
    return resolve(side, "fp32").plan(model, step)


def flops(ops, **where):
    chosen = (op for op in ops if isinstance(op, Linear) and all(getattr(op, k) == v for k, v in where.items()))
    return sum(float(op.count * op.flops) for op in chosen)


# Operators


def test_lora_pays_two_units_of_products_and_its_own_thin_ones():
    """Full: forward, gradient of input, gradient of weights. LoRA: no gradient of weights, none in front of the first layer."""
    full, lora = plan_of("full").ops, plan_of("lora:r=8").ops
    unit = flops(full, sweep="forward")
    assert flops(full) == 3 * unit
    base = [op for op in lora if op.role != "adapter"]
    spared = sum(float(op.flops) for op in full if op.name in {f"{n}.dx.first" for n in ("q_proj", "k_proj", "v_proj")})
    assert flops(base) == 2 * unit - spared
    assert flops(base, sweep="grad_weight") == 0
    rank, rows = 8, 2 * 32
    sizes = {op.name: (op.n, op.k) for op in full if isinstance(op, Linear) and op.sweep == "forward"}
    thin = 2 * rows * rank * 3 * sum(sum(sizes[name]) for name in LAYERS)
    assert flops([op for op in lora if op.role == "adapter"], sweep="forward") == thin
    assert flops([op for op in lora if op.role == "adapter"], sweep="grad_weight") == thin


def test_operators_that_both_sides_run_are_equal():
    """Else the ceiling would take them for changed ones."""
    full = {op.name: op for op in plan_of("full").ops}
    lora = {op.name: op for op in plan_of("lora").ops}
    shared = set(full) & set(lora) - {"adamw"}
    assert {f"{name}.dx" for name in LAYERS} <= shared and {"loss", "loss.grad", "attention.grad"} <= shared
    assert all(full[name] == lora[name] for name in shared)


@pytest.mark.parametrize(
    ("side", "trained"), [("full", SMALL.parameters), ("lora:r=4", None), ("lora:targets=qv", None)]
)
def test_the_optimizer_updates_what_is_trained(side, trained):
    (update,) = [op for op in plan_of(side).ops if op.sweep == "update"]
    if trained is None:
        rank, names = (4, LAYERS) if "r=4" in side else (16, ("q_proj", "v_proj"))
        sizes = {op.name: op.n + op.k for op in plan_of("full").ops if isinstance(op, Linear) and op.sweep == "forward"}
        trained = 3 * rank * sum(sizes[name] for name in names)
    assert float(update.rows * update.cols) == pytest.approx(trained, rel=1e-12)


def test_checkpointing_runs_the_layers_again_and_nothing_else():
    kept, again = plan_of("lora").ops, plan_of("lora+checkpoint").ops
    redone = [op for op in again if op.sweep == "recompute"]
    assert [op for op in again if op.sweep != "recompute"] == list(kept)
    names = {op.name.removesuffix(".again") for op in redone}
    assert names >= {"input_norm", "q_proj", "q_proj.lora_b", "attention", "down_proj"}
    assert not names & {"embed_tokens", "final_norm", "lm_head", "loss", "mlp_add"}
    full = {op.name for op in plan_of("full+checkpoint").ops}
    assert "silu_mul.again" in full and "down_proj.again" not in full, "its operands are all that it keeps"


def test_adapters_of_a_served_batch_cost_their_bytes():
    one, many = (plan_of(f"lora:r=16{more}", decode(4, 64)) for more in ("", ":adapters=64"))
    thin = (
        16
        * 3
        * sum(op.n + op.k for op in plan_of("", decode(4, 64)).ops if isinstance(op, Linear) and op.name in LAYERS)
    )
    assert one.weight_bytes - plan_of("", decode(4, 64)).weight_bytes == 4 * thin
    assert many.weight_bytes - one.weight_bytes == 4 * 63 * thin
    read = [sum(float(op.count * op.weight_bytes) for op in p.ops if op.role == "adapter") for p in (one, many)]
    assert read == [4 * thin, 4 * 4 * thin], "four rows reach at most four adapters"
    work = [sum(float(op.count * op.flops) for op in p.ops) for p in (one, many)]
    assert work[0] == work[1]


@given(st.integers(1, 6), st.integers(2, 64), st.sampled_from(["full", "lora:r=3", "lora:targets=qv", "bf16+qlora"]))
@settings(max_examples=20)
def test_names_are_unique_and_every_operator_does_something(batch, new, side):
    ops = plan_of(side, train(batch, new)).ops
    assert len({op.name for op in ops}) == len(ops)
    assert all(op.count >= 1 for op in ops)
    again = plan_of(f"{side}+checkpoint", train(batch, new)).ops
    assert len({op.name for op in again}) == len(again)


def test_a_single_layer_has_no_gradient_in_front_of_its_adapters():
    one = from_config("one", {**CONFIG, "num_hidden_layers": 1})
    ops = plan_of("lora", model=one).ops
    assert all(op.count >= 1 for op in ops)
    names = {op.name for op in ops}
    assert "q_proj.lora_b.dx" in names and not names & {"q_proj.dx", "q_proj.lora_a.dx", "input_norm.grad"}


# Choices


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("lora", "lora:r=16:alpha=32:targets=all"),
        ("lora:r=8", "lora:r=8:alpha=16:targets=all"),
        ("qlora:targets=qv:alpha=8:r=4", "qlora:r=4:alpha=8:targets=qv"),
        ("lora:adapters=8", "lora:r=16:alpha=32:targets=all:adapters=8"),
        ("full+checkpoint", "full+checkpoint"),
    ],
)
def test_short_forms_have_one_full_form(text, full):
    assert "+".join(c.spelled for c in parse_choices(text)) == full
    assert "+".join(c.spelled for c in parse_choices(full)) == full


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lora:r=0", "1 to 1024"), ("lora:rank=4", "no option 'rank'"), ("lora:16", "no option '16'"), ("full:r=2", "no options"),
        ("lora:targets=mlp", "all, qv"), ("lora+qlora", "both settle the adapter"), ("keep+checkpoint", "both settle"),
    ],
)  # fmt: skip
def test_bad_options_are_named(text, says):
    with pytest.raises(BadInput, match=says):
        parse_choices(text)


@pytest.mark.parametrize(
    ("side", "step", "says"),
    [
        ("checkpoint", decode(1, 8), "a decode step keeps nothing"), ("full", decode(1, 8), "trains nothing"),
        ("lora:adapters=2", train(1, 8), "trains one"), ("qlora", decode(1, 8), "how a model is trained"),
        ("int8+qlora", train(1, 8), "NF4, and int8"), ("compile", train(1, 8), "training step"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_the_choice(side, step, says):
    with pytest.raises(NotSupported, match=says):
        plan_of(side, step)


@pytest.mark.parametrize(
    ("side", "says"), [("fp16+full", "loss scaled"), ("int8", "no gradient"), ("nf4", "no gradient")]
)
def test_what_the_engine_cannot_train_is_refused(side, says):
    with pytest.raises(NotSupported, match=says):
        check_trains(plan_of(side))


# Memory


def test_memory_of_full_training_by_hand():
    """fp32, one sequence of 64: every tensor that autograd keeps, counted by hand."""
    tokens, h, wide, v = 64, 256, 704, 512
    layer = 2 * (8 * h + 4) + 2 * 4 * h + (2 * 256 + 2 * 128) * 4 + 4 * 4 + 4 * 4 * wide
    outside = 8 * h + 4 + 4 * h + 4 * v + 8 + 8
    need = training_need(plan_of("full", train(1, tokens)))
    assert float(need.kept) == tokens * (3 * layer + outside)
    assert need.all_gradients == need.weights == 4 * SMALL.parameters and need.optimizer == 2 * need.weights


def test_memory_of_lora_by_hand():
    tokens, h, wide, v, r = 64, 256, 704, 512, 16
    layer = 2 * (4 * h + 4) + 2 * 4 * h + (2 * 256 + 2 * 128) * 4 + 4 * 4 + 4 * 4 * wide + 7 * r * 4
    need = training_need(plan_of("lora:r=16", train(1, tokens)))
    assert float(need.kept) == tokens * (3 * layer - (4 * h + 4) + 4 * h + 4 + 4 * v + 8)
    assert need.adapters == need.all_gradients == 0.5 * need.optimizer
    assert need.weights == 4 * SMALL.parameters + need.adapters


@given(st.integers(1, 8), st.integers(1, 256), st.sampled_from(["full", "lora", "lora:targets=qv"]))
@settings(max_examples=30)
def test_checkpointing_and_lora_never_need_more(batch, new, side):
    def total(text):
        need = training_need(plan_of(text, train(batch, new)))
        assert float(need.total) >= float(need.weights + need.optimizer)
        assert float(predict_memory(plan_of(text, train(batch, new))).total_bytes) == float(need.total)
        return float(need.total)

    assert total(f"{side}+checkpoint") <= total(side) <= total("full")


def test_a_sweep_of_batches_is_its_points():
    batches = np.array([1, 3, 17])
    whole = training_need(plan_of("lora", train(batches, 40)))
    for i, batch in enumerate(batches):
        one = training_need(plan_of("lora", train(int(batch), 40)))
        assert np.broadcast_to(whole.kept, 3)[i] == pytest.approx(float(one.kept))
        assert np.broadcast_to(whole.total, 3)[i] == pytest.approx(float(one.total))


# Laws

BARE = Target(
    schema=SCHEMA, name="bare", kind="cpu", date="2026-01-01", machine_id="m", sources={"s": "made for a test"}
)


def made(side="fp32"):
    """A target whose laws cost 1 µs a call and 1 ns a unit of the second term, in both dtypes."""
    subjects = {"linear": "product", "linear thin": "product", "linear nf4": "product", "attention": "attention"}
    kinds = ("rms_norm", "silu_mul", "add", "adapter_add", "adapter_add_copy", "rope", "cross_entropy", "embedding", "adamw",
             "norm_weight", "recompute_hooks")  # fmt: skip
    subjects |= dict.fromkeys(kinds, "pass")
    laws = [
        TrainingLaw(subject=s, sweep=sweep, dtype=dtype, form=form, sigma=0.1, source="s",
                    terms=(1e-6, 1e-12, *(0.0,) * ({"product": 5, "attention": 3, "pass": 2}[form])))
        for s, form in subjects.items() for sweep in ("forward", "grad_input", "grad_weight", "update")
        for dtype in ("fp32", "bf16")
    ]  # fmt: skip
    nets = tuple(TrainingNet(dtype=d, factor=2.0, sigma=0.05, source="s") for d in ("fp32", "bf16"))
    return msgspec.structs.replace(BARE, training=tuple(laws), training_nets=nets)


def test_a_step_is_the_sum_of_its_laws_times_what_nets_add():
    plan, target = plan_of("lora"), made()
    times = training_times(plan, target)
    by_name = {t.op.name: float(t.seconds) for t in times}
    op = next(op for op in plan.ops if op.name == "down_proj.dx")
    assert by_name["down_proj.dx"] == pytest.approx(2 * op.count * (1e-6 + 1e-12 * float(op.m * op.n * op.k)))
    assert float(step_time(plan, target).seconds) == pytest.approx(sum(by_name.values()))
    assert sum(parts_of(step_time(plan, target)).values()) == pytest.approx(sum(by_name.values()))


@pytest.mark.parametrize("side", ["lora", "lora+checkpoint", "lora:targets=qv"])
def test_the_ceiling_is_above_the_prediction(side):
    """Amdahl: without the operators that differ nothing can be faster."""
    a, b = step_time(plan_of("full"), made()), step_time(plan_of(side), made())
    theirs = {t.op.name: t.op for t in b.ops}
    kept = sum(float(t.seconds) for t in a.ops if theirs.get(t.op.name) == t.op)
    assert float(a.seconds) / kept >= float(a.seconds) / float(b.seconds)


def test_words_name_what_is_paid_saved_and_added():
    said = training_words(
        step_time(plan_of("full"), made()), step_time(plan_of("lora+checkpoint"), made()), "full", "lora", 2
    )
    paid, saved = said.split("; it saves ")
    assert "forward" in paid and "gradients of activations" in paid
    assert "gradients of weights" in saved.split("; it adds ")[0] and "adapters" in saved.split("; it adds ")[1]
    assert "recomputed" in saved
    assert set(parts_of(step_time(plan_of("full"), made()))) == set(PARTS)


def test_a_target_without_training_refuses_and_says_what_adds_it():
    with pytest.raises(NotSupported, match="ridge calibrate --train"):
        training_times(plan_of("full"), BARE)
    with pytest.raises(NotSupported, match=r"no law for rope .* in fp32; it has bf16"):
        less = tuple(x for x in made().training if (x.subject, x.dtype) != ("rope", "fp32"))
        training_times(plan_of("full"), msgspec.structs.replace(made(), training=less))
    with pytest.raises(NotSupported, match="one thread"):
        training_times(replace(plan_of("full"), threads=2), made())


def test_laws_travel_through_the_target_file():
    assert decode_target("x", encode_target(made())) == made()
    broken = msgspec.structs.replace(made(), training=(msgspec.structs.replace(made().training[0], terms=(1.0,)),))
    with pytest.raises(BadInput, match="training law of linear forward"):
        decode_target("x", encode_target(broken))


def test_known_laws_are_found_again():
    """Samples made from known costs give these costs back."""
    product, row = (2e-5, 3e-11, 4e-10, 0.0, 7e-10, 0.0, 0.0), (4e-6, 0.0, 2e-9, 0.0)
    samples = []
    for m, n, k in (
        (1, 32, 32),
        (16, 640, 640),
        (64, 416, 416),
        (64, 1216, 448),
        (256, 448, 1216),
        (512, 352, 352),
        (160, 64, 900),
    ):
        seconds = float(sum(c * t for c, t in zip(product, product_terms(m, n, k, 0.0, 0.0), strict=True)))
        samples.append({"probe": "training", "subject": "linear", "form": "product", "sweep": "forward", "act": "fp32", "m": m,
                        "n": n, "k": k, "seconds": seconds})  # fmt: skip
    for rows, cols in ((1, 64), (64, 320), (64, 1344), (512, 448), (448, 1728)):
        seconds = float(sum(c * t for c, t in zip(row, pass_terms(rows, cols, 0.0), strict=True)))
        samples.append({"probe": "training", "subject": "adapter_add", "form": "pass", "sweep": "forward", "act": "fp32",
                        "rows": rows, "cols": cols, "seconds": seconds})  # fmt: skip
    samples.append(
        {
            "probe": "training",
            "subject": "adapter_add",
            "form": "call",
            "sweep": "forward",
            "act": "fp32",
            "seconds": 3e-5,
        }
    )
    laws = {law.subject: law for law in with_training(BARE, samples, "s").training}
    assert laws["linear"].terms == pytest.approx(product, rel=1e-3, abs=1e-13)
    assert laws["adapter_add"].terms == pytest.approx((3.4e-5, 0.0, 2e-9, 0.0), rel=1e-3, abs=1e-13), (
        "peft's own code is a call"
    )
    assert laws["linear"].sigma == pytest.approx(0.03), "the floor, where samples have no noise"


def test_no_stage_no_law():
    assert with_training(BARE, [{"probe": "linear"}], "s") == BARE


# Commands


def test_why_refuses_training_on_a_machine_that_knows_inference_only(ridge, tmp_path):
    from tests.test_prediction import DATA

    ran = ridge("why", "pocket", "full..lora:r=4", "--step", "train", "--isl", "16", "--on", DATA)
    assert ran.code == 2 and "`ridge calibrate --train` adds it" in ran.complaint


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("pocket", "fp32..bf16", "--curve", "4"), "needs --step train"),
        (("smollm2-135m", "full..lora", "--step", "train", "--curve", "4"), "random weights"),
        (("pocket", "full..lora", "--step", "train", "--curve", "1"), "2 to 10000"),
        (("pocket", "fp32+full..fp32+int8", "--step", "train"), "no option|no gradient|no kernel|bf16 has"),
        (("linear:64x64", "fp32..bf16", "--step", "train"), "has no phase"),
    ],
)
def test_bad_questions_are_refused_in_one_line(ridge, tmp_path, words, says):
    path = tmp_path / "made.toml"
    path.write_bytes(encode_target(msgspec.structs.replace(made(), name="made", levels=(), peaks=())))
    ran = ridge("why", *words, "--isl", "16", "--on", path)
    assert ran.code == 2
    assert any(word in ran.complaint for word in says.split("|")), ran.complaint


def test_forward_and_serving_have_no_operators_of_training():
    for step in (decode(2, 16), forward(2, 16)):
        assert {op.sweep for op in plan_of("", step).ops} == {"forward"}
    assert not any(isinstance(op, Pointwise) and op.kind == "adamw" for op in plan_of("lora", decode(1, 8)).ops)
