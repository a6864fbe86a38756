"""Thousands of malformed configs, targets and bets: each is refused in one line, or gives a plan with finite costs."""

import copy
import json
import math
import tomllib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ridgepoint.choice import parse_bet, resolve
from ridgepoint.errors import RidgeError
from ridgepoint.hardware import Target, decode_target, encode_target, load_target
from ridgepoint.prediction import predict, predict_memory
from ridgepoint.workload import Decoder, Plan, decode, load_model, prefill, train
from ridgepoint.workload.families import from_config

hundreds = settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
thousand = settings(max_examples=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
FULL = decode_target("t", (Path(__file__).parent / "data" / "test-target.calibrated.toml").read_bytes())
SMALL_TARGET = msgspec.structs.replace(
    FULL,
    linear=tuple(law for law in FULL.linear if law.format in ("bf16", "int8"))[:2],
    attention=tuple(law for law in FULL.attention if law.dtype == "bf16"),
    pointwise=tuple(law for law in FULL.pointwise if law.dtype == "bf16"),
    scaling=tuple(law for law in FULL.scaling if law.subject in ("F.linear:bf16", "attention", "pointwise")),
)
TEXT = encode_target(SMALL_TARGET)
CONFIG = {
    "model_type": "llama", "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 777, "hidden_act": "silu",
    "max_position_embeddings": 512, "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
    "torch_dtype": "bfloat16", "dtype": "bfloat16", "rope_theta": 1e4, "rms_norm_eps": 1e-5,
    "quantization_config": None,
}  # fmt: skip
TINY = from_config("tiny", CONFIG)

hostile_numbers = st.sampled_from(
    [0, -1, 1, 2, 3, 7, 64, 2**31, 2**63, 2**64, 10**12, 10**40, -(10**40), 0.0, -0.0, 0.5, 1.5, 1e300, 1e-300, -1e-9]
)
not_finite = st.sampled_from([math.nan, math.inf, -math.inf])
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
nested = st.recursive(
    plain,
    lambda some: st.lists(some, max_size=3) | st.dictionaries(st.text(max_size=5), some, max_size=3),
    max_leaves=6,
)
words = st.sampled_from(
    ["", "silu", "gelu", "llama", "mistral", "float32", "float8", "two\nlines", "\x1b[31m", "x" * 5000]
)
values = hostile_numbers | not_finite | words | nested


def in_one_line(error):
    text = str(error)
    assert text and text.isprintable() and len(text) <= 1000, repr(text[:200])


def use_model(workload):
    """Every cost of what was accepted is finite, and none is negative."""
    for step in (decode(3, 17), prefill(2, 5), train(1, 4)):
        plan = Plan(workload, step, workload.dtype)
        for op in plan.ops:
            assert 0 <= op.flops < math.inf and 0 < op.bytes < math.inf and op.count >= 1
        assert 0 < float(predict_memory(plan).total_bytes) < math.inf
    assert workload.parameters > 0


def refused_or_usable(load, use):
    """What the test is about: a loader gives something usable, or a RidgeError of one line, and nothing else."""
    try:
        loaded = load()
    except RidgeError as error:
        in_one_line(error)
        return False
    use(loaded)
    return True


# config.json

changes = st.dictionaries(st.sampled_from(sorted(CONFIG)), values, min_size=1, max_size=3)
unknown_fields = st.dictionaries(st.text(max_size=8), values, max_size=2)


@thousand
@given(changes, st.sets(st.sampled_from(sorted(CONFIG)), max_size=2), unknown_fields)
def test_any_config_object(changes, missing, unknown):
    config = {key: value for key, value in {**CONFIG, **unknown, **changes}.items() if key not in missing}
    refused_or_usable(lambda: from_config("fuzzed", config), use_model)


@thousand
@given(st.one_of(
    st.builds(lambda change: json.dumps({**CONFIG, **change}).encode("utf-8", "surrogatepass"), changes),
    nested.map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    st.binary(max_size=60),
    st.tuples(st.integers(0, 400), st.binary(max_size=4)).map(
        lambda cut: json.dumps(CONFIG).encode()[: cut[0]] + cut[1] + json.dumps(CONFIG).encode()[cut[0] + 1 :]
    ),
))  # fmt: skip
def test_any_config_file(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    refused_or_usable(lambda: load_model(str(path)), use_model)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"hidden_size": NaN}',
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"{" + b'"hidden_size": 1e999' + b"}",
        b"\xff\xfe{}",
        b'{"model_type": "' + b"x" * 3_000_000 + b'"}',
        b'{"model_type": ["llama"]}',
        b" " * (5 * 2**20),
        json.dumps({**CONFIG, "num_hidden_layers": 10**12}).encode(),
        json.dumps({**CONFIG, "torch_dtype": "y" * 3_000_000, "dtype": None}).encode(),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_hostile_config_files_are_refused(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    assert not refused_or_usable(lambda: load_model(str(path)), use_model)


def is_local(name):
    return "/" not in name and name.strip() not in ("", ".", "..")


@thousand
@given(st.text(max_size=60).filter(is_local) | st.from_regex(r"\Alinear:.{0,20}\Z").filter(is_local))
def test_any_model_name(name):
    """Without a slash, so that none is looked up on a hub."""
    refused_or_usable(lambda: load_model(name), use_model)


# Targets


def paths_of(value, path=()):
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*path, key)
            yield from paths_of(value[key], (*path, key))


PLAIN = tomllib.loads(TEXT.decode())
PATHS = sorted(paths_of(PLAIN), key=str)
STEPS = [resolve(side, "bf16").plan(TINY, step) for side, step in (("bf16", decode(3, 17)), ("int8", prefill(2, 5)))]
toml_values = hostile_numbers | not_finite | words | st.booleans() | st.just([]) | st.just({}) | st.lists(
    hostile_numbers | not_finite, min_size=1, max_size=6)  # fmt: skip


def use_target(target):
    """A target that was accepted predicts a positive, finite time with an interval, or says what it lacks."""
    assert isinstance(target, Target) and decode_target("again", encode_target(target)) == target
    for plan in STEPS:
        try:
            with np.errstate(all="raise"):
                result = predict(plan, target)
        except RidgeError as error:
            in_one_line(error)
        else:
            latency = result.metrics["latency_s"]
            assert 0 <= latency.low <= latency.value <= latency.high < math.inf


@hundreds
@given(st.data())
def test_any_change_of_a_target(data):
    root = tomllib.loads(TEXT.decode())
    for path in data.draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=2)):
        inner = root
        try:
            for key in path[:-1]:
                inner = inner[key]
            if data.draw(st.integers(0, 5)) == 0:
                del inner[path[-1]]
            else:
                inner[path[-1]] = copy.deepcopy(data.draw(toml_values))  # one drawn twice must not hold itself
        except (KeyError, IndexError, TypeError):
            continue  # the first change took the place of the second away
    refused_or_usable(lambda: decode_target("fuzzed", msgspec.toml.encode(root)), use_target)


@thousand
@given(st.integers(0, len(TEXT)), st.integers(0, 40), st.binary(max_size=12) | st.text(max_size=8).map(str.encode))
def test_any_damage_to_the_text_of_a_target(start, length, inserted):
    text = TEXT[:start] + inserted + TEXT[start + length :]
    refused_or_usable(lambda: decode_target("fuzzed", text), use_target)


@thousand
@given(st.text(max_size=40).filter(lambda name: "/" not in name))
def test_any_target_name(name):
    """Refused, unless it is one: strings of the code itself are among those that are tried."""
    if refused_or_usable(lambda: load_target(name), use_target):
        found = load_target(name)
        assert name in (found.name, *found.aliases)


def test_what_is_quoted_stays_in_one_line():
    hostile = "two\nlines\x1b[31m\u202e\udc80" + "x" * 5000
    law = msgspec.structs.replace(SMALL_TARGET.linear[0], kernel="two\nlines\x1b[31m\u202e", m=(2.0, 1.0))
    broken = encode_target(msgspec.structs.replace(SMALL_TARGET, linear=(law,)))
    assert not refused_or_usable(lambda: decode_target("t", broken), use_target)
    assert not refused_or_usable(lambda: from_config(hostile, {}), use_model)
    named = msgspec.structs.replace(SMALL_TARGET, name=hostile, linear=())
    assert not refused_or_usable(lambda: predict(STEPS[0], named), print)


# Bets and sides

pieces = st.sampled_from(
    ["fp32", "bf16", "int8", "int4", "nf4", "fp8", "dyn", "token", "naive", "head", "g32", "g=128", "g48", "batch",
     "threads", "4", "0", "-1", "1e9", "٣", "graph", "eager"]
)  # fmt: skip
sides = st.lists(st.lists(pieces, min_size=1, max_size=3).map(":".join), min_size=1, max_size=3).map("+".join)
near_bets = st.builds(lambda a, b: f"{a}..{','.join(b)}", sides, st.lists(sides, min_size=1, max_size=2))
bets = near_bets | st.text(max_size=60) | st.text("abfi0123468:=+.,- \n", max_size=60)


def settled(text, device):
    a, others = parse_bet(text)
    return [resolve(side, "bf16", device).plan(TINY, decode(2, 9)) for side in (a, *others)]


@thousand
@given(bets, st.sampled_from(["cpu", "cuda"]))
def test_any_bet(text, device):
    def use(plans):
        for plan in plans:
            assert plan.ops and resolve(plan.side, "fp16", device).spec == plan.side
            assert 0 < float(predict_memory(plan).total_bytes) < math.inf

    refused_or_usable(lambda: settled(text, device), use)


def test_the_strategies_reach_both_ends():
    """A fuzzer that is always refused tests only the first check."""
    assert settled("bf16..int8:head+batch:4,int4:g32", "cpu")
    assert isinstance(from_config("ok", CONFIG), Decoder) and decode_target("ok", TEXT) == SMALL_TARGET
    for plan in STEPS:
        assert predict(plan, SMALL_TARGET).latency_s > 0
