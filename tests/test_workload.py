"""The workload's formulas against transformers on meta tensors, packed tensors, and their own sums."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgepoint.choice import resolve
from ridgepoint.errors import BadInput, NotSupported, RidgeError, UnknownName
from ridgepoint.workload import (
    DTYPE_BYTES,
    Attention,
    Linear,
    Plan,
    catalogue_names,
    decode,
    format_named,
    forward,
    load_model,
    mixed,
    prefill,
    train,
)
from ridgepoint.workload.families import from_config

SMALL = {
    "hidden_size": 96, "intermediate_size": 200, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "vocab_size": 777, "max_position_embeddings": 512, "torch_dtype": "float32",
}  # fmt: skip
CONFIGS = {
    "grouped heads": SMALL,
    "one head_dim of its own, tied": {**SMALL, "head_dim": 24, "tie_word_embeddings": True},
    "biases": {**SMALL, "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
    "no grouping, odd sizes": {**SMALL, "hidden_size": 70, "num_attention_heads": 5, "num_key_value_heads": 5,
                               "intermediate_size": 131, "vocab_size": 101, "num_hidden_layers": 2},
}  # fmt: skip
each_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
FORMATS = ("fp32", "bf16", "fp16", "int8", "int8:dyn", "int8:dyn:token", "int4:g32", "int4:g128", "nf4", "fp8")


def model(**changes):
    return from_config("small", {**SMALL, **changes})


def a_plan(step, side="fp32", **changes):
    return resolve(side, "fp32").plan(model(**changes), step)


def linear_flops(ops):
    return sum(op.count * op.flops for op in ops if isinstance(op, Linear))


def only_attention(ops):
    (op,) = [op for op in ops if isinstance(op, Attention)]
    return op


# transformers as oracle


class Oracle:
    """transformers' LlamaForCausalLM of a config on meta tensors, and what torch counts of one step of it."""

    def __init__(self, config):
        self.torch = pytest.importorskip("torch")
        self.transformers = pytest.importorskip("transformers")
        fields = {key: value for key, value in config.items() if key != "torch_dtype"}
        self.config = self.transformers.LlamaConfig(**fields, attn_implementation="sdpa")
        with self.torch.device("meta"):
            self.model = self.transformers.LlamaForCausalLM(self.config)

    @property
    def parameters(self):
        return sum(p.numel() for p in self.model.parameters())

    def step(self, batch, new, cached, logits="last", backward=False):
        """FLOPs of matrix products (linear layers) and of batched ones (attention, the full square), and the cache."""
        from torch.utils.flop_counter import FlopCounterMode

        torch, c = self.torch, self.config
        ids = torch.empty(batch, new, dtype=torch.long, device="meta")
        cache = self.transformers.DynamicCache(config=c)
        if cached:
            empty = torch.empty(batch, c.num_key_value_heads, cached, c.head_dim, device="meta")
            for layer in range(c.num_hidden_layers):
                cache.update(empty, empty, layer)
        counter = FlopCounterMode(display=False)
        with counter, torch.set_grad_enabled(backward):
            out = self.model(
                input_ids=ids, position_ids=ids, past_key_values=cache, logits_to_keep=int(logits == "last"),
                attention_mask=torch.empty(batch, 1, new, cached + new, device="meta"), use_cache=True,
            )  # fmt: skip
            if backward:
                out.logits.sum().backward()
        counts = {str(op): flops for op, flops in counter.get_flop_counts()["Global"].items()}
        products = counts.pop("aten.mm", 0) + counts.pop("aten.addmm", 0)
        assert set(counts) == {"aten.bmm"}, f"torch counts what this test does not know: {counts}"
        kept = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
        return products, counts["aten.bmm"], sum(tensor.numel() * tensor.element_size() for tensor in kept)


@each_config
@pytest.mark.parametrize(
    ("step", "batch", "new", "cached"),
    [
        (prefill(1, 33), 1, 33, 0),
        (prefill(3, 37), 3, 37, 0),
        (prefill(2, 8, 21), 2, 8, 21),
        (decode(1, 50), 1, 1, 50),
        (decode(5, 129), 5, 1, 129),
        (forward(2, 19), 2, 19, 0),
    ],
    ids=str,
)
def test_flops_and_cache_equal_transformers(config, step, batch, new, cached):
    """Linear layers exactly; attention too once torch's full square is cut to the causal part."""
    ops = Plan(from_config("small", config), step, "fp32").ops
    products, square, cache_bytes = Oracle(config).step(batch, new, cached, step.logits)
    assert linear_flops(ops) == products
    attention = only_attention(ops)
    causal = (cached + (new + 1) / 2) / (cached + new)
    assert attention.count * attention.flops == pytest.approx(causal * square, rel=1e-12)
    plan = Plan(from_config("small", config), step, "fp32")
    assert plan.kv_cache_bytes == cache_bytes == attention.count * attention.kv_bytes


@each_config
def test_training_step_is_three_forwards_of_linear_layers(config):
    ops = Plan(from_config("small", config), train(2, 19), "fp32").ops
    once = linear_flops(op for op in ops if op.sweep == "forward")
    assert linear_flops(ops) == 3 * once
    products, _, _ = Oracle(config).step(2, 19, 0, "all", backward=True)
    assert linear_flops(ops) == products
    for sweep in ("grad_input", "grad_weight"):
        assert linear_flops(op for op in ops if op.sweep == sweep) == once


@each_config
def test_parameters_equal_transformers(config):
    decoder = from_config("small", config)
    assert decoder.parameters == Oracle(config).parameters
    plan = Plan(decoder, decode(1, 1), "fp32")
    assert plan.weight_bytes == 4 * decoder.parameters


@pytest.mark.parametrize("name", catalogue_names())
def test_weights_of_catalogue_models_are_their_parameters(name):
    decoder = load_model(name)
    for dtype, width in DTYPE_BYTES.items():
        assert Plan(decoder, prefill(2, 7), dtype).weight_bytes == width * decoder.parameters


# Weight formats


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    "name", ["fp32", "bf16", "fp16", "int8", "int8:dyn:token", "int4:g32", "int4:g64", "int4:g128", "nf4"]
)
def test_weight_bytes_equal_those_of_the_packed_tensors(name, with_bias):
    torch = pytest.importorskip("torch")
    from ridgepoint.kernels.linear import find

    form, _, group = name.partition(":g")
    kernel = find(form, "cpu")[-1]
    if reason := kernel.available():
        pytest.skip(f"{kernel.name}: {reason}")
    n, k, act = 64, 256, kernel.acts[0]
    module = kernel.pack(torch.randn(n, k), torch.zeros(n) if with_bias else None, act, int(group or 0))
    held = sum(t.numel() * t.element_size() for t in tensors_of(module, torch.Tensor, set()))
    if name == "nf4":  # where the CPU has AVX512_BF16, bitsandbytes repacks the fp32 scales in bf16
        held += module.state.absmax.numel() * (4 - module.state.absmax.element_size())
    op = Linear("linear", "other", 1, n, k, act, name, bias=with_bias)
    assert held - 64 <= op.weight_bytes <= held  # NF4 holds its table of 16 values besides


def tensors_of(thing, tensor, seen):
    """Every tensor reachable from a module through its attributes, once."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, tensor):
        yield thing
    elif isinstance(thing, dict):
        for value in thing.values():
            yield from tensors_of(value, tensor, seen)
    elif hasattr(thing, "__dict__") and not isinstance(thing, type):
        yield from tensors_of(vars(thing), tensor, seen)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("side", ["bf16", "fp32", "int8", "int8:dyn", "int4", "int4:head", "nf4"])
def test_weight_bytes_of_a_plan_are_the_sum_of_its_tensors(side, tied):
    """Tensor by tensor, by hand: norms and table in the base dtype, the head tied to the table only if it is dense."""
    d, wide, vocab, kv = 128, 256, 777, 64
    changes = {"hidden_size": d, "intermediate_size": wide, "num_attention_heads": 4, "tie_word_embeddings": tied}
    plan = a_plan(decode(3, 9), side, **changes)
    width = {"fp32": 4, "int8:dyn": 4}.get(side, 2)
    per_row = {"int8": 2, "int8:dyn": 4}

    def stored(n, k, head=False):
        if side in ("bf16", "fp32") or (head and not side.endswith(":head")):
            return width * n * k
        if side in per_row:
            return n * (k + per_row[side])
        return n * (k // 2) + n * k // (64 if side == "nf4" else 32) * 4

    layer = stored(d, d) * 2 + stored(kv, d) * 2 + stored(wide, d) * 2 + stored(d, wide) + 2 * d * width
    shares_table = tied and side != "int4:head"
    head = 0 if shares_table else stored(vocab, d, head=True)
    assert plan.weight_bytes == 3 * layer + d * width + vocab * d * width + head


@given(st.sampled_from(FORMATS), st.integers(1, 5000), st.integers(1, 5000))
def test_a_partial_group_needs_a_whole_scale(name, n, k):
    form = format_named(name)
    groups = -(-k // form.group) if form.group else 1
    assert form.weight_bytes(n, k) == n * k * form.bits / 8 + n * groups * form.scale_bytes
    assert form.takes(k) == (not form.group or k % form.group == 0)


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [("int4:g96", BadInput, "32, 64, 128, 256"), ("int4:g", BadInput, "groups"), ("int9", UnknownName, "int8")],
)
def test_unknown_formats_name_what_there_is(name, error, says):
    with pytest.raises(error, match=says):
        format_named(name)


# Steps

counts = st.integers(1, 300)
sequences = st.lists(st.tuples(counts, st.integers(0, 3000)), min_size=1, max_size=12)


@given(sequences)
def test_a_mixed_step_is_the_sum_of_its_sequences(pairs):
    """Order does not matter, like sequences share a group, and every sum is that of the sequences one by one."""
    step = mixed([new for new, _ in pairs], [cached for _, cached in pairs])
    shuffled = mixed([new for new, _ in reversed(pairs)], [cached for _, cached in reversed(pairs)])
    assert step == shuffled
    assert len(step.groups) == len(set(pairs))
    parts = [prefill(1, new, cached) for new, cached in pairs]
    decoder = model()
    whole, alone = Plan(decoder, step, "bf16"), [Plan(decoder, part, "bf16") for part in parts]
    assert step.tokens == sum(new for new, _ in pairs)
    assert step.head_tokens == step.sequences == len(pairs)
    assert whole.kv_cache_bytes == sum(plan.kv_cache_bytes for plan in alone)
    for name in ("flops", "kv_bytes", "activation_bytes"):
        for op, *others in zip(whole.ops, *(plan.ops for plan in alone), strict=True):
            assert getattr(op, name) == pytest.approx(sum(getattr(other, name) for other in others), rel=1e-12)
    assert [op.weight_bytes for op in whole.ops] == [op.weight_bytes for op in alone[0].ops]


@given(st.integers(1, 50), counts, st.integers(0, 3000))
def test_attended_pairs_are_counted_one_by_one(batch, new, cached):
    (group,) = prefill(batch, new, cached).groups
    assert group.attended == batch * sum(cached + 1 + i for i in range(new))
    assert group.tokens == batch * new and group.context == cached + new


@given(st.integers(1, 500), st.integers(1, 3000))
def test_decode_is_a_prefill_of_one_token(batch, context):
    def costs(step):
        return [(op.flops, op.bytes) for op in Plan(model(), step, "bf16").ops]

    assert costs(decode(batch, context)) == costs(prefill(batch, 1, context))
    assert decode(1, context).with_batch(batch) == decode(batch, context)


@pytest.mark.parametrize(("new", "cached"), [([], []), ([1], [1, 2]), ([0], [4]), ([1, -3], [4, 4]), ([2, 1], [0, -1])])
def test_impossible_mixed_steps_are_refused(new, cached):
    with pytest.raises(BadInput):
        mixed(new, cached)


def test_a_mixed_step_has_no_single_batch():
    with pytest.raises(BadInput, match="mixed"):
        mixed([1, 5], [7, 0]).with_batch(4)


# Scalars and arrays

BATCHES, LENGTHS = (1, 3, 16, 100_000), (1, 7, 512, 131_071)


@pytest.mark.parametrize("integers", [np.int32, np.int64, np.float64])
@pytest.mark.parametrize("make", [decode, prefill, forward, train])
@pytest.mark.parametrize("side", ["bf16", "int8", "int4:head"])
def test_a_sweep_equals_its_points_bit_for_bit(make, side, integers):
    """Batch down, length across; 32-bit counts must not overflow either."""
    batch, length = np.array(BATCHES, integers)[:, None], np.array(LENGTHS, integers)[None, :]
    sweep = a_plan(make(batch, length), side, intermediate_size=192)
    fields = ("flops", "weight_bytes", "activation_bytes", "kv_bytes", "bytes")
    for (i, b), (j, n) in itertools.product(enumerate(BATCHES), enumerate(LENGTHS)):
        point = a_plan(make(b, n), side, intermediate_size=192)
        for many, one in zip(sweep.ops, point.ops, strict=True):
            assert (many.name, many.count) == (one.name, one.count)
            for name in fields:
                value = np.broadcast_to(getattr(many, name), (len(BATCHES), len(LENGTHS)))[i, j]
                assert value == getattr(one, name), f"{many.name}.{name} at batch {b}, length {n}"
        table = np.broadcast_to(sweep.kv_cache_bytes, (len(BATCHES), len(LENGTHS)))
        assert table[i, j] == point.kv_cache_bytes
        assert sweep.weight_bytes == point.weight_bytes


@given(st.integers(1, 64), st.integers(1, 2000))
def test_bytes_are_the_sum_of_their_kinds(batch, context):
    for op in a_plan(decode(batch, context), "int8").ops:
        assert op.bytes == op.weight_bytes + op.activation_bytes + op.kv_bytes
        assert op.flops >= 0 and op.bytes > 0


# Configs

WRONG = {
    "hidden_size": [0, -1, 2**40, 1.5, "96", None, [96]], "num_hidden_layers": [0, 10**12], "vocab_size": [0, -5],
    "num_key_value_heads": [4, 0, -2], "head_dim": [0, 15, -16], "num_attention_heads": [7, 0],
    "rope_theta": [0, -1.0, float("nan"), float("inf"), "x"], "rms_norm_eps": [-1e-5, float("nan"), float("inf")],
    "tie_word_embeddings": ["yes"], "torch_dtype": [3], "max_position_embeddings": [0],
}  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in WRONG.items() for v in values])
def test_impossible_configs_are_refused_by_field(field, value):
    with pytest.raises(BadInput, match=f"{field}|heads"):
        from_config("small", {**SMALL, field: value})


@pytest.mark.parametrize("field", ["hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size"])
def test_missing_fields_are_named(field):
    with pytest.raises(BadInput, match=field):
        from_config("small", {key: value for key, value in SMALL.items() if key != field})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_act": "gelu"}, "silu"),
        ({"torch_dtype": "float8_e4m3fn"}, "bfloat16"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
    ],
)
def test_what_is_not_modelled_is_refused(changes, says):
    with pytest.raises(NotSupported, match=says):
        from_config("small", {**SMALL, **changes})


def test_an_unknown_family_names_the_nearest():
    with pytest.raises(UnknownName, match="llama"):
        from_config("small", {**SMALL, "model_type": "lama"})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("smollm2-135", "smollm2-135m"),
        ("linear:0x5", "1 to"),
        ("linear:4096", "NxK"),
        ("linear:9999999x1", "1 to"),
        ("~nobody-of-that-name/model", "no model"),
        ("x" * 5000, "no model"),
        ("nul\0byte", "no model"),
        ("two\nlines", "no model"),
    ],
)
def test_an_unknown_model_is_one_line(name, says):
    with pytest.raises(RidgeError, match=says) as caught:
        load_model(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_a_model_directory_and_its_config_are_the_same_model(tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(
        '{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,'
        ' "vocab_size": 9}'
    )
    directory = load_model(str(tmp_path / "tiny"))
    assert directory == load_model(str(tmp_path / "tiny" / "config.json"))
    assert directory.name == "tiny" and directory.dtype == "bf16"
    with pytest.raises(BadInput, match=r"config\.json"):
        load_model(str(tmp_path))


def test_a_linear_layer_is_one_operator():
    layer = load_model("linear:640x384")
    (op,) = Plan(layer, decode(5, 100), "bf16").ops
    assert (op.m, op.n, op.k, op.role) == (5, 640, 384, "other")
    assert layer.parameters == 640 * 384 and replace(layer, dtype="fp32").name == layer.name
