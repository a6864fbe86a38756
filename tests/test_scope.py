"""Formats for some layers only: what may be written, which operators become two, and what is then built."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgepoint.choice import Metal, resolve
from ridgepoint.choice.grammar import parse_choices
from ridgepoint.choice.scope import spelled_layers
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.prediction import predict_memory
from ridgepoint.workload import Linear, Plan, decode, load_model

SMOL = load_model("smollm2-135m")  # 30 layers
STEP = decode(2, 16)


@given(st.frozensets(st.integers(0, 40), min_size=1))
def test_layers_are_spelled_and_read_alike(numbers):
    (choice,) = parse_choices(f"int4:layers={spelled_layers(numbers)}")
    assert choice.scope.inside(frozenset(range(50))) == numbers
    assert parse_choices(choice.spelled) == (choice,)
    (other,) = parse_choices(f"int8:skip={spelled_layers(numbers)}:mlp")
    assert other.scope.inside(frozenset(range(50))) == frozenset(range(50)) - numbers
    assert parse_choices(other.spelled) == (other,)


@pytest.mark.parametrize("text, says", [
    ("int4:layers=", "is not a value"), ("int4:layers=a", "is not a list of layers"), ("int4:layers=5-2", "is not a list"),
    ("int4:layers=1:skip=2", "both layers= and skip="), ("int4:attention:mlp", "are every layer"),
    ("int4:layers=0-3+int8:layers=3-5", "both settle the weights"), ("int4+int8", "both settle the weights"),
    ("int4:mlp+int8:layers=3", "both settle"), ("int4:gptq:awq", "two algorithms"), ("int4:smooth", "no option 'smooth'"),
    ("int8:smooth", "no option 'smooth'"), ("nf4:gptq", "no option 'gptq'"),
])  # fmt: skip
def test_what_cannot_be_meant_is_refused(text, says):
    with pytest.raises(BadInput, match=says):
        parse_choices(text)


@pytest.mark.parametrize("text, says", [
    ("int4:layers=28-31", "layers 0 to 29, no layer 30"), ("int8:skip=99", "no layer 99"),
])  # fmt: skip
def test_layers_that_are_not_there_are_refused(text, says):
    with pytest.raises(BadInput, match=says):
        resolve(text, "bf16").plan(SMOL, STEP)


@pytest.mark.parametrize("text, says", [
    ("int4:layers=0", "no numbered layers"), ("int4:gptq", "works on the layers of a language model"),
])  # fmt: skip
def test_a_single_layer_has_no_numbers_and_no_algorithms(text, says):
    with pytest.raises(NotSupported, match=says):
        resolve(text, "bf16").plan(load_model("linear:64x64"), decode(1, 1))


@pytest.mark.parametrize(
    "text, says", [("int4:gptq:head", "leaves the head alone"), ("int4:ort:awq", "their own codes")]
)
def test_what_an_algorithm_cannot_do_is_refused(text, says):
    with pytest.raises(NotSupported, match=says):
        resolve(text, "bf16").plan(SMOL, STEP)


def linears(plan):
    return [op for op in plan.ops if isinstance(op, Linear)]


def test_a_row_of_which_some_layers_are_meant_becomes_two():
    plan = resolve("int4:layers=0-9.29+int8:layers=10:mlp", "bf16").plan(SMOL, STEP)
    down = {op.name: (op.weight, op.count, len(op.layers)) for op in linears(plan) if op.name.startswith("down_proj")}
    assert down == {
        "down_proj": ("bf16", 18, 18), "down_proj@int4:g32": ("int4:g32", 11, 11), "down_proj@int8": ("int8", 1, 1),
    }  # fmt: skip
    assert {op.name for op in linears(plan) if op.weight == "int8"} == {
        f"{p}@int8" for p in ("gate_proj", "up_proj", "down_proj")
    }


@given(st.frozensets(st.integers(0, 29)), st.frozensets(st.integers(0, 29)))
def test_splitting_keeps_flops_and_adds_up_bytes(some, more):
    """Work is that of the whole model, and memory lies between those of the formats in proportion."""
    more = more - some
    words = [f"{name}:layers={spelled_layers(s)}" for name, s in (("int4", some), ("int8", more)) if s]
    plan = resolve("+".join(words) or "bf16", "bf16").plan(SMOL, STEP)
    whole = {name: resolve(name, "bf16").plan(SMOL, STEP) for name in ("bf16", "int4", "int8")}
    assert sum(op.count * op.flops for op in plan.ops) == sum(op.count * op.flops for op in whole["bf16"].ops)
    saved = {n: float(whole["bf16"].weight_bytes - p.weight_bytes) / 30 for n, p in whole.items()}
    expected = float(whole["bf16"].weight_bytes) - len(some) * saved["int4"] - len(more) * saved["int8"]
    assert float(plan.weight_bytes) == pytest.approx(expected)


def test_a_scope_of_all_layers_is_the_format_itself():
    one, other = (resolve(t, "bf16").plan(SMOL, STEP) for t in ("int4", "int4:layers=0-29"))
    assert one.ops == other.ops and predict_memory(one) == predict_memory(other)


def test_every_layer_finds_its_own_operator():
    plan = resolve("int4:layers=3+int8:skip=3", "bf16").plan(SMOL, STEP)
    assert plan.linears_at(3)("layers.3.q_proj").weight == "int4:g32"
    assert plan.linears_at(4)("q_proj").weight == "int8"
    assert plan.linears_at(None)("lm_head").weight == "bf16"
    assert plan.linears_at(3)("no_such") is None


def test_the_model_that_is_built_is_the_one_that_was_written(tmp_path):
    torch = pytest.importorskip("torch")
    from ridgepoint.engine.build import build_random
    from ridgepoint.measurement.runnable import _alike, _decoder_row

    pocket = load_model("pocket")
    side = resolve("int4:layers=1+int8:layers=3:attention", "bf16")
    plan: Plan = side.plan(pocket, STEP)
    model = build_random(
        pocket, "bf16", convert=lambda m, layer: side.on_metal(m, plan, Metal({}, layer)), alike=_alike(plan, side)
    )
    kinds = [
        (type(layer.q_proj).__name__, type(layer.down_proj).__name__) for layer in model.layers
    ]  # fmt: skip
    assert kinds == [
        ("Linear", "Linear"), ("Int4CpuLinear", "Int4CpuLinear"), ("Linear", "Linear"), ("Int8PackedLinear", "Linear"),
        ("Linear", "Linear"),
    ]  # fmt: skip
    row = _decoder_row(plan)
    assert [row(f"layers.{i}.q_proj") for i in (0, 1, 3)] == ["q_proj", "q_proj@int4:g32", "q_proj@int8"]
    assert row("layers.1.attention") == "attention" and row("lm_head") == "lm_head"
    assert {row(name) for name, _ in model.named_modules() if name.endswith("_proj")} == {
        op.name for op in linears(plan) if op.name != "lm_head"
    }
    assert torch.isfinite(model(torch.zeros(1, 2, dtype=torch.long), cache(pocket))).all()


def cache(decoder):
    from ridgepoint.engine.cache import KvCache

    return KvCache(decoder, 1, 4, "bf16")
