"""Choices: what may be written, how a side is settled, and which operators a choice rewrites."""

import ast
import importlib
import inspect
import pkgutil
import string
from dataclasses import dataclass, replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ridgepoint.choice as package
from ridgepoint.choice import CHOICES, parse_bet, parse_choices, resolve
from ridgepoint.errors import BadInput, NotSupported, RidgeError, UnknownName
from ridgepoint.workload import Linear, Plan, decode, load_model, mixed, train
from ridgepoint.workload.families import from_config

SPELLED = (
    "fp32", "bf16", "fp16", "int8", "int8:naive", "int8:head", "int8:naive:head", "int8:dyn", "int8:dyn:head",
    "int8:dyn:token", "int8:dyn:token:head", "int4:g32", "int4:g64", "int4:g128", "int4:g256", "int4:g32:naive",
    "int4:g128:naive:head", "int4:g32:head", "nf4", "nf4:head", "fp8", "fp8:block", "nvfp4",
    "batch:1", "batch:1048576", "threads:1",
    "threads:1024", "eager", "graph", "compile", "math", "flash", "channels-last", "channels-first",
    "int8:dyn:ort", "int4:g32:ort", "int4:g128:ort:head", "inference", "no-grad", "grad",
    "int3:g32", "int3:g128:mlp", "window:64", "int4:g32:gptq", "int8:dyn:smooth", "int4:g64:awq:layers=0-3.7", "nf4:skip=2",
    "full", "lora:r=16:alpha=32:targets=all", "lora:r=8:alpha=8:targets=qv", "lora:r=4:alpha=8:targets=all:adapters=9",
    "qlora:r=16:alpha=32:targets=all", "keep", "checkpoint",
    "stored", "stored:int4:g128", "dequantised", "kv:int8", "kv:fp8", "kv:int4",
    "fp8:emulated", "flex", "dense", "sparse:0.5", "sparse:0.9:wanda", "sparse:0.9:csr:mlp", "channels:0.5",
    "channels:0.25:wanda", "heads:0.33", "layers:0.2",
)  # fmt: skip
AXES = {"fp32": "dtype", "int8": "weights", "int4": "weights", "nf4": "weights", "fp8": "weights",
        "nvfp4": "weights", "batch": "batch",
        "threads": "threads", "bf16": "dtype", "fp16": "dtype", "eager": "launch", "graph": "launch",
        "math": "attention", "flash": "attention",
        "compile": "launch", "inference": "autograd", "no-grad": "autograd", "grad": "autograd",
        "full": "adapter", "lora": "adapter", "qlora": "adapter", "keep": "recompute", "checkpoint": "recompute",
        "stored": "checkpoint", "dequantised": "checkpoint", "kv": "kv",
        "channels-last": "layout", "channels-first": "layout", "int3": "weights", "window": "window",
        "flex": "attention", "dense": "sparsity", "sparse": "sparsity", "channels": "channels", "heads": "heads",
        "layers": "depth"}  # fmt: skip
WEIGHTS = ("int8", "int8:dyn", "int8:dyn:token", "int4:g32", "nf4")
SMOL = load_model("smollm2-135m")


def axis_of(text):
    return AXES[text.partition(":")[0]]


# Grammar

words = st.sampled_from([*SPELLED, "int9", "g64", "dyn", "token", "naive", "head", "batch", "=", "k=4", ":", "+", "..",
                         ",", " ", "²", "\n", "2:4", "", "threads:0", "batch:-1", "int4:g33"])  # fmt: skip
texts = st.one_of(
    st.text(max_size=40),
    st.text(string.ascii_lowercase + string.digits + ":=+.,- ", max_size=60),
    st.lists(words, max_size=8).map("".join),
    st.lists(words, max_size=5).map(":".join),
)


def test_every_spelling_comes_back():
    for text in SPELLED:
        (choice,) = parse_choices(text)
        assert choice.spelled == text and axis_of(text) == choice.AXIS
        assert parse_choices(choice.spelled) == (choice,)
    assert {name.partition(":")[0] for name in SPELLED} == {name for c in CHOICES for name in c.NAMES}


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("int4", "int4:g32"),
        ("int4:g=128", "int4:g128"),
        ("int8:token:dyn", "int8:dyn:token"),
        ("int8:head:naive", "int8:naive:head"),
        (" bf16 + int8 ", "bf16+int8"),
        ("", ""),
    ],
)
def test_short_forms_have_one_full_form(short, full):
    assert "+".join(c.spelled for c in parse_choices(short)) == full


@given(st.lists(st.sampled_from(SPELLED), unique_by=axis_of, max_size=4).flatmap(st.permutations))
def test_choices_of_different_axes_stand_together(parts):
    assert [c.spelled for c in parse_choices("+".join(parts))] == list(parts)


def test_two_choices_of_one_axis_are_refused_by_name():
    for a, b in combinations(SPELLED, 2):
        if axis_of(a) == axis_of(b):
            with pytest.raises(BadInput, match=axis_of(a)) as caught:
                parse_choices(f"{a}+{b}")
            assert a in str(caught.value) and b in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("int9", "int4 or int8|int8 or int4"),
        ("bf61", "bf16"),
        ("thread:2", "threads"),
        ("zzzz", "known: batch, channels"),
        ("int8:dynamic", "'dynamic'"),
        ("int8:token", "'token'"),
        ("int8:dyn:naive", "naive"),
        ("bf16:head", "'head'"),
        ("int4:g96", "32, 64, 128, 256"),
        ("int4:g1000", "32, 64, 128, 256"),
        ("int4:g=g32", "32, 64, 128, 256"),
        ("batch", "whole number"),
        ("batch:0", "1 to 1048576"),
        ("batch:1.5", "whole number"),
        ("batch:2:3", "'3'"),
        ("batch:2:2", "twice"),
        ("batch:size=2", "size=2"),
        ("threads:n=2", "n=2"),
        ("threads:2000", "1 to 1024"),
        ("int4:g32:g128", "g128"),
        ("int8:head:head", "twice"),
        ("nf4:head:head", "twice"),
        ("fp8:", "not a value"),
        ("bf16+", "no choice named ''"),
    ],
)
def test_what_is_not_a_choice_says_what_is(text, says):
    with pytest.raises(RidgeError, match=says) as caught:
        parse_choices(text)
    assert str(caught.value).isprintable()


@given(texts)
def test_any_text_parses_or_is_refused_in_one_line(text):
    """And what parses is spelled so that it parses to the same."""
    try:
        choices = parse_choices(text)
    except RidgeError as error:
        assert str(error).isprintable() and len(str(error)) < 1001
    else:
        assert parse_choices("+".join(c.spelled for c in choices)) == choices


@given(texts, texts)
def test_any_bet_parses_or_is_refused_in_one_line(left, right):
    for text in (left, f"{left}..{right}"):
        try:
            a, sides = parse_bet(text)
        except RidgeError as error:
            assert str(error).isprintable()
        else:
            assert parse_bet(f"{a}..{','.join(sides)}") == (a, sides)
            assert a and all(sides)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bf16..int8", ("bf16", ("int8",))),
        ("bf16..int8,int4:g128+threads:2", ("bf16", ("int8", "int4:g128+threads:2"))),
        (" fp32 .. bf16 , int8 ", ("fp32", ("bf16", "int8"))),
    ],
)
def test_bets(text, expected):
    assert parse_bet(text) == expected


@pytest.mark.parametrize("text", ["", "bf16", "bf16..", "..int8", "a..b..c", "a..b,,c", "a..b,", "x" * 401])
def test_what_is_not_a_bet(text):
    with pytest.raises(BadInput, match=r"A\.\.B|too long"):
        parse_bet(text)


# Settling a side


@pytest.mark.parametrize(
    ("text", "checkpoint", "common", "spec"),
    [
        ("", "bf16", "", "bf16+threads:1"),
        ("", "fp32", "", "fp32+threads:1"),
        ("fp16", "bf16", "", "fp16+threads:1"),
        ("int8", "bf16", "", "bf16+int8+threads:1"),
        ("int8", "fp32", "", "bf16+int8+threads:1"),  # weight-only needs bf16
        ("int8:dyn", "bf16", "", "fp32+int8:dyn+threads:1"),  # fbgemm needs fp32
        ("int8:dyn:token", "fp16", "", "bf16+int8:dyn:token+threads:1"),
        ("int8:dyn:token", "fp32", "", "fp32+int8:dyn:token+threads:1"),
        ("fp32+int8:dyn:token", "bf16", "", "fp32+int8:dyn:token+threads:1"),
        ("int4", "bf16", "threads:2", "bf16+int4:g32+threads:2"),
        ("int4+threads:1", "bf16", "threads:2", "bf16+int4:g32+threads:1"),  # the side's own choice wins
        ("fp32", "bf16", "int4", None),
        ("bf16", "fp16", "fp32+batch:4", "bf16+batch:4+threads:1"),
        ("batch:8", "bf16", "int8:dyn", "fp32+int8:dyn+batch:8+threads:1"),
        ("threads:2+batch:3+int8", "bf16", "", "bf16+int8+batch:3+threads:2"),
        ("int8", "bf16", "fp32", "bf16+int8+threads:1"),  # a side outranks --with
        ("batch:4", "bf16", "fp32+int8", None),  # both asked for in one place
    ],
)
def test_what_a_side_does_not_name_comes_from_with_then_the_default(text, checkpoint, common, spec):
    if spec is None:  # the two cannot both be had
        with pytest.raises(NotSupported, match="no kernel for fp32.*bf16"):
            resolve(text, checkpoint, common=common)
    else:
        assert resolve(text, checkpoint, common=common).spec == spec


@pytest.mark.parametrize("text", ["fp32+int8", "fp16+int4", "bf16+int8:dyn", "fp32+nf4", "fp16+fp8", "fp16+nvfp4"])
def test_a_dtype_without_a_kernel_is_refused_where_it_was_asked_for(text):
    with pytest.raises(NotSupported, match="has no kernel for"):
        resolve(text, "bf16")


def test_choices_without_a_dtype_in_common_are_refused():
    with pytest.raises(NotSupported, match="int8:dyn:layers=0 in fp32, int4:g32:layers=1 in bf16"):
        resolve("int8:dyn:layers=0+int4:layers=1", "bf16")
    assert resolve("int8:dyn:layers=0+int8:dyn:token:layers=1", "bf16").choices[0].dtype == "fp32"  # both take it


@given(st.lists(st.sampled_from(SPELLED), unique_by=axis_of, max_size=4).map("+".join),
       st.sampled_from(["fp32", "bf16", "fp16"]), st.integers(1, 64))  # fmt: skip
def test_a_settled_side_parses_back_to_itself(text, checkpoint, threads):
    try:
        side = resolve(text, checkpoint, threads=threads)
    except NotSupported:
        return
    assert resolve(side.spec, "fp16", common="batch:7" if "batch" in side.spec else "") == side
    assert {c.AXIS for c in side.choices} >= {"dtype", "threads"}


def test_device_decides_what_is_possible():
    for text in ("fp8", "fp8:block", "nvfp4"):
        with pytest.raises(NotSupported, match=f"{text} has no kernel on a CPU .*int8"):
            resolve(text, "bf16").plan(SMOL, decode(1, 8))
    assert resolve("fp8", "bf16", device="cuda").plan(SMOL, decode(1, 8)).side == "bf16+fp8+threads:1"
    with pytest.raises(NotSupported, match="CPU"):
        resolve("threads:2", "bf16", device="cuda").plan(SMOL, decode(1, 8))


# On paper


def weights_by_role(plan):
    return {(op.role, op.weight) for op in plan.ops if isinstance(op, Linear)}


@pytest.mark.parametrize("text", WEIGHTS)
def test_the_head_is_left_out_unless_asked(text):
    side = resolve(text, "bf16")
    base, rewritten = side.choices[0].spelled, side.choices[1]
    inner = {("attention.in", text), ("attention.out", text), ("mlp.in", text), ("mlp.out", text)}
    assert rewritten.spelled == text
    assert weights_by_role(side.plan(SMOL, decode(4, 64))) == {*inner, ("head", base)}
    with_head = resolve(f"{text}:head", "bf16").plan(SMOL, decode(4, 64))
    assert weights_by_role(with_head) == {*inner, ("head", text)}
    assert all(op.dtype == base for op in with_head.ops)


@pytest.mark.parametrize("text", ["int8:naive", "int4:naive"])
def test_naive_pins_the_rung_of_what_it_rewrites(text):
    plan = resolve(text, "bf16").plan(SMOL, decode(1, 8))
    assert {(op.kernel, op.role == "head") for op in plan.ops if isinstance(op, Linear)} == {
        ("naive", False),
        ("", True),
    }


def test_precision_batch_and_threads_change_only_their_own():
    plan = resolve("fp16+batch:5+threads:3", "bf16").plan(SMOL, decode(1, 64))
    assert {op.dtype for op in plan.ops} == {"fp16"} and weights_by_role(plan) >= {("head", "fp16")}
    assert plan.step == decode(5, 64) and plan.threads == 3 and plan.rewrites == ()
    with pytest.raises(BadInput, match="mixed"):
        resolve("batch:5", "bf16").plan(SMOL, mixed([1, 7], [9, 0]))


@dataclass(frozen=True)
class Renamed:
    """A workload whose operators have other names: what a traced module looks like."""

    inner: object
    name: str = "renamed"
    dtype: str = "bf16"

    @property
    def parameters(self):
        return self.inner.parameters

    @property
    def tie_word_embeddings(self):
        return self.inner.tie_word_embeddings

    def forward_ops(self, step, dtype):
        return tuple(replace(op, name=f"node_{i}") for i, op in enumerate(self.inner.forward_ops(step, dtype)))

    def kv_bytes_per_token(self, width):
        return self.inner.kv_bytes_per_token(width)


@pytest.mark.parametrize("text", [*SPELLED[:11], "int4:g32", "int4:g64:head", "nf4:head", "batch:3", "threads:2"])
@pytest.mark.parametrize("step", [decode(2, 33), train(1, 9)], ids=str)
def test_choices_select_by_kind_and_role_never_by_name(text, step):
    side = resolve(text, "bf16")
    plain, renamed = side.plan(SMOL, step), side.plan(Renamed(SMOL), step)
    for op, other in zip(plain.ops, renamed.ops, strict=True):
        assert replace(op, name="") == replace(other, name="")


def test_a_group_that_does_not_fit_names_one_that_does():
    """576 inputs take groups of 64 and 32; a model with 96 inputs as well takes only 32, and with 80 none."""
    with pytest.raises(NotSupported, match=r"q_proj has 576 inputs.*128.*int4:g64"):
        resolve("int4:g128", "bf16").plan(SMOL, decode(1, 8))
    assert resolve("int4:g64", "bf16").plan(SMOL, decode(1, 8))
    shape = {"hidden_size": 576, "num_hidden_layers": 1, "num_attention_heads": 9, "vocab_size": 64}
    for wide, says in ((96, "int4:g32"), (80, "no int4 group")):
        odd = from_config("odd", {**shape, "intermediate_size": wide})
        with pytest.raises(NotSupported, match=says):
            resolve("int4:g128", "bf16").plan(odd, decode(1, 8))
    with pytest.raises(NotSupported, match="nf4: down_proj has 96 inputs.*int4:g32"):
        resolve("nf4", "bf16").plan(from_config("odd", {**shape, "intermediate_size": 96}), decode(1, 8))


def test_the_head_counts_for_groups_only_if_it_is_rewritten():
    layer = load_model("linear:64x96")
    head = Plan(layer, decode(1, 1), "bf16").rewritten(lambda op: replace(op, role="head"))
    resolve("int4:g64", "bf16").choices[1].check(head)
    with pytest.raises(NotSupported, match="96"):
        resolve("int4:g64:head", "bf16").choices[1].check(head)


# Registry


def choice_classes():
    """Every class in the package that has the two marks of a choice."""
    for module in pkgutil.iter_modules(package.__path__):
        loaded = importlib.import_module(f"{package.__name__}.{module.name}")
        for thing in vars(loaded).values():
            own = inspect.isclass(thing) and thing.__module__ == loaded.__name__
            if own and "NAMES" in vars(thing) and "AXIS" in vars(thing):
                yield thing


def forgotten(registry):
    return [f"{c.__module__}.{c.__name__}" for c in choice_classes() if c not in registry]


def test_no_choice_is_forgotten():
    assert not forgotten(CHOICES), "add it to CHOICES in ridgepoint/choice/registry.py"
    for choice in CHOICES:
        assert len(forgotten([c for c in CHOICES if c is not choice])) == 1


def test_names_are_unique_and_a_new_axis_needs_no_second_line():
    names = [name for c in CHOICES for name in c.NAMES]
    assert len(names) == len(set(names))
    tree = ast.parse(inspect.getsource(inspect.getmodule(resolve)))
    spelled = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert not spelled & {c.AXIS for c in CHOICES} - {"weights"}, "side.py lists axes; CHOICES orders them"


def test_an_unknown_choice_is_an_unknown_name():
    with pytest.raises(UnknownName):
        resolve("int5", "bf16")
