"""Memory of serving a model: weights against published indexes, caches against transformers', splits, and properties."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgepoint.choice import resolve
from ridgepoint.errors import BadInput, NotSupported, UnknownName
from ridgepoint.prediction.capacity import most_context, most_users, need_bytes, serving, stage_needs
from ridgepoint.prediction.capacity_kv import kv_layers, model_kv_bytes
from ridgepoint.prediction.capacity_runtime import ASSUMPTIONS, GIB, Runtime, runtime_for
from ridgepoint.prediction.capacity_split import Split, check_split, stages_of
from ridgepoint.prediction.capacity_weights import stage_weights
from ridgepoint.workload import Decoder, catalogue_names, decode, load_model

DATA = Path(__file__).resolve().parent / "data"
SIZES = json.loads((DATA / "safetensors_sizes.json").read_text(encoding="utf-8"))["models"]
DECODERS = [name for name in catalogue_names() if isinstance(load_model(name), Decoder)]


def plan_of(model, with_=""):
    return resolve(with_, model.dtype, "cuda").plan(model, decode(1, 1))


def laid(name, with_="", split=None, kv_dtype="bf16", chunk=2048, runtime=None):
    model = load_model(name)
    return serving(model, plan_of(model, with_), split or Split(), kv_dtype, chunk, runtime or Runtime())


def weights_of(x, stage=0):
    return {(w.part, w.form): w for w in x.stages[stage].weights}


# Weights


@pytest.mark.parametrize("name", SIZES)
def test_weights_are_those_of_the_published_index(name):
    with_ = "bf16" if load_model(name).dtype == "fp32" else ""
    x = laid(name, with_)
    total = sum(w.bytes for w in x.stages[0].weights)
    assert total == pytest.approx(SIZES[name]["total_size"], rel=0.01)
    assert SIZES[name]["source"]


def test_enough_architectures_are_checked_against_their_index():
    assert len({load_model(name).family for name in SIZES}) >= 8


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("with_", ["", "int8", "nf4"])
def test_weights_are_those_of_the_plan_but_for_routers(name, with_):
    model = load_model(name)
    plan = plan_of(model, with_)
    stored = laid(name, with_).stages[0].weights
    ours = sum(w.bytes for w in stored if w.part != "router")
    routed = sum(w.elements for w in stored if w.part == "router")
    assert sum(w.elements for w in stored) == model.parameters
    if routed and with_:
        assert ours < plan.weight_bytes < ours + 2.1 * routed
    else:
        assert ours + 2 * routed == plan.weight_bytes


def test_what_quantising_leaves_in_the_base_dtype():
    stored = weights_of(laid("qwen1.5-moe-a2.7b", "int4:g128"))
    assert {part for part, form in stored if form == "bf16"} == {"embedding", "router", "norms", "head"}
    assert {part for part, form in stored if form == "int4:g128"} == {"attention", "feed-forward", "experts"}
    experts = stored["experts", "int4:g128"]
    per_weight = experts.bytes / experts.elements
    assert per_weight == pytest.approx(0.5 + 4 / 128)  # half a byte, a bf16 scale and zero for each 128


def test_a_head_can_be_quantised_and_is_then_no_longer_tied():
    plain, head = weights_of(laid("qwen2.5-0.5b")), weights_of(laid("qwen2.5-0.5b", "int8:head"))
    assert ("head", "bf16") not in plain
    assert head["head", "int8"].elements == head["embedding", "bf16"].elements


# Splits


def test_tensor_parallelism_slices_matrices_and_repeats_norms():
    whole, half = weights_of(laid("llama-3.1-8b")), weights_of(laid("llama-3.1-8b", split=Split(tp=2)))
    for part in ("embedding", "attention", "feed-forward", "head"):
        assert half[part, "bf16"].bytes == whole[part, "bf16"].bytes / 2
    assert half["norms", "bf16"] == whole["norms", "bf16"]


def test_more_slices_than_key_value_heads_repeat_them():
    model = load_model("qwen2.5-7b")  # 28 heads, 4 key/value heads
    with pytest.raises(NotSupported, match=r"28 attention heads; 1, 2, 4 do"):
        check_split(model, Split(tp=8))
    model = load_model("qwen3-8b")  # 32 heads, 8 key/value heads
    stage = stages_of(model, 1)[0]
    (eight,), (sixteen,) = kv_layers(stage, "bf16", 8), kv_layers(stage, "bf16", 16)
    assert eight.bytes_per_token == sixteen.bytes_per_token == 2 * 2 * 128
    a, b = (weights_of(laid("qwen3-8b", split=Split(tp=tp)))["attention", "bf16"].elements for tp in (8, 16))
    assert b > a / 2  # one key and one value head on each of the 16 devices


def test_latent_attention_repeats_its_cache_and_narrow_projections():
    model = load_model("deepseek-v3")
    assert model_kv_bytes(model, "bf16", 1, 1) == 61 * 2 * (512 + 64)  # DeepSeek-V2, arXiv 2405.04434, table 1
    stage = stages_of(model, 1)[0]
    assert kv_layers(stage, "bf16", 1) == kv_layers(stage, "bf16", 8)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "gemma-2-2b", "deepseek-v2-lite", "opt-350m"])
@pytest.mark.parametrize("pp", [1, 2, 5])
def test_stages_hold_all_layers_and_all_weights(name, pp):
    model = load_model(name)
    stages = stages_of(model, pp)
    assert sum(count for stage in stages for _, count in stage) == model.layers
    assert max(counts := [sum(c for _, c in s) for s in stages]) - min(counts) <= 1
    elements = sum(w.elements for stage in laid(name, split=Split(pp=pp)).stages for w in stage.weights)
    table = model.vocab_size * (model.embedding_size or model.hidden_size)
    copied = table if model.tie_word_embeddings and pp > 1 else 0  # a tied head stands on the last stage as well
    assert elements == model.parameters + copied


def test_experts_are_spread_or_sliced():
    whole = weights_of(laid("mixtral-8x7b-v0.1"))["experts", "bf16"].bytes
    spread = weights_of(laid("mixtral-8x7b-v0.1", split=Split(dp=4, ep=4)))["experts", "bf16"].bytes
    both = weights_of(laid("mixtral-8x7b-v0.1", split=Split(tp=8, ep=4)))["experts", "bf16"].bytes
    assert (spread, both) == (whole / 4, whole / 8)
    replicas = weights_of(laid("mixtral-8x7b-v0.1", split=Split(dp=4)))["experts", "bf16"].bytes
    assert replicas == whole


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("llama-3.1-8b", Split(tp=3), "1, 2, 4, 8, 16, 32 do"),
        ("llama-3.1-8b", Split(pp=33), "more stages than there are layers, 32"),
        ("llama-3.1-8b", Split(dp=2, ep=2), "no experts"),
        ("mixtral-8x7b-v0.1", Split(tp=2, ep=3), "must divide tp x dp"),
        ("mixtral-8x7b-v0.1", Split(dp=16, ep=16), "more than its 8 experts"),
        ("llama-3.1-8b", Split(tp=0), "possible is 1 to"),
    ],
)
def test_splits_that_do_not_divide_are_refused(name, split, words):
    with pytest.raises((BadInput, NotSupported), match=words):
        check_split(load_model(name), split)


# Caches

CACHED = (
    "llama-3.1-8b", "mistral-7b-v0.1", "mixtral-8x7b-v0.1", "qwen2.5-0.5b", "qwen3-0.6b", "qwen1.5-moe-a2.7b",
    "qwen3-30b-a3b", "gemma-2-2b", "gemma-3-1b-pt", "phi-3-mini-4k-instruct", "gpt2",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", CACHED)
def test_cache_is_that_of_transformers_on_meta(name):
    """What the model itself puts into its cache, feed-forward layers left out: they route by values, which meta has not."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    fields = json.loads((DATA.parent.parent / "ridgepoint/workload/data/llm" / f"{name}.json").read_text())
    config = transformers.AutoConfig.for_model(**fields)
    config.num_hidden_layers = len(getattr(config, "layer_types", None) or []) or config.num_hidden_layers
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for layer in model.modules():
        if hasattr(layer, "experts"):
            layer.forward = lambda hidden, *_, **__: hidden
    batch, context = 2, min(5000, load_model(name).max_position_embeddings)
    cache = transformers.DynamicCache(config=config)
    mask = torch.zeros(batch, 1, context, context, device="meta", dtype=torch.bfloat16)
    kinds = set(getattr(config, "layer_types", None) or [])
    with torch.no_grad():
        model(
            torch.zeros(batch, context, dtype=torch.long, device="meta"), past_key_values=cache, use_cache=True,
            attention_mask=dict.fromkeys(kinds, mask) if len(kinds) > 1 else mask,
        )  # fmt: skip
    held = sum(2 * (layer.keys.numel() + layer.values.numel()) for layer in cache.layers)
    assert model_kv_bytes(load_model(name), "bf16", context, batch) == pytest.approx(held, rel=0.01)


def test_windows_bound_the_cache_of_their_layers_alone():
    model = load_model("gemma-3-1b-pt")  # 22 of 26 layers see 512 tokens
    per_token = 2 * 2 * 256
    assert model_kv_bytes(model, "bf16", 512, 1) == 26 * 512 * per_token
    assert model_kv_bytes(model, "bf16", 4096, 1) == (22 * 512 + 4 * 4096) * per_token


@pytest.mark.parametrize(("dtype", "per_head"), [("fp8", 128), ("int8", 128 + 4), ("int4", 64 + 4), ("fp32", 512)])
def test_quantised_caches_hold_their_scales(dtype, per_head):
    assert model_kv_bytes(load_model("llama-3.1-8b"), dtype, 1, 1) == 32 * 2 * 8 * per_head


def test_an_unknown_cache_dtype_is_refused():
    with pytest.raises(UnknownName, match="did you mean"):
        laid("gpt2", kv_dtype="int3")


# Properties

COUNTS = st.integers(1, 4096)


@given(st.sampled_from(DECODERS), COUNTS, COUNTS, st.integers(0, 3000), st.sampled_from(["bf16", "fp8", "int4"]))
def test_bytes_never_fall_as_context_or_users_grow(name, context, users, more, kv_dtype):
    x = laid(name, kv_dtype=kv_dtype)
    base = need_bytes(x, context, users)
    assert need_bytes(x, context + more, users) >= base
    assert need_bytes(x, context, users + more) >= base


@given(st.integers(1, 60), COUNTS, COUNTS)
def test_bytes_grow_with_layers(layers, context, users):
    from dataclasses import replace

    model = load_model("llama-3.2-1b")
    few, many = (replace(model, blocks=(replace(model.blocks[0], count=n),)) for n in (layers, layers + 1))
    needs = [need_bytes(serving(m, plan_of(m), Split(), "bf16", 512, Runtime()), context, users) for m in (few, many)]
    assert needs[0] < needs[1]


@given(st.sampled_from(DECODERS), st.lists(COUNTS, min_size=1, max_size=5), COUNTS)
def test_arrays_give_what_scalars_give(name, contexts, users):
    x = laid(name, split=Split(pp=2))
    together = need_bytes(x, np.array(contexts, float), users)
    assert [float(v) for v in together] == [float(need_bytes(x, context, users)) for context in contexts]
    grid = need_bytes(x, np.array(contexts, float)[:, None], np.array([1.0, users]))
    assert grid.shape == (len(contexts), 2)


@given(st.sampled_from(DECODERS), st.integers(1, 64), st.floats(0.5, 80))
def test_the_limits_are_the_last_that_fit(name, users, gib):
    x = laid(name)
    usable = gib * GIB
    context = most_context(x, users, usable)
    limit = x.model.max_position_embeddings
    assert context == 0 or need_bytes(x, context, users) <= usable
    assert context == limit or need_bytes(x, context + 1, users) > usable
    most = most_users(x, min(64, limit), usable)
    assert most == 0 or need_bytes(x, min(64, limit), most) <= usable
    assert need_bytes(x, min(64, limit), most + 1) > usable


# Activations and the runtime


def test_activations_follow_the_step_and_logits_the_users():
    narrow, wide = (laid("llama-3.1-8b", chunk=chunk) for chunk in (512, 4096))

    def row(x, name, users=16):
        return next(float(i.bytes) for i in stage_needs(x, 8192, users)[0].items if i.name == name)

    assert row(wide, "layers") == 8 * row(narrow, "layers")
    per_token = 2 * (2 * 4096 + 3 * 14336)  # two residual streams; gate, up and their product
    assert row(narrow, "layers") == 512 * per_token
    assert row(narrow, "logits") == 0
    assert row(narrow, "logits", 512) == 512 * (128256 * 10 - per_token)


def test_every_assumption_has_a_flag_and_says_where_it_comes_from():
    for name, assumption in ASSUMPTIONS.items():
        assert assumption.flag == f"--{name.replace('_', '-')}"
        assert "assumption" in assumption.source or "vllm/" in assumption.source


def test_only_gpus_have_contexts_and_graphs():
    assert runtime_for("cpu", 1, False, 0.08, 0.5, 1, 0.5) == Runtime(reserve=0.08)
    assert runtime_for("gpu", 1, False, 0.08, 0.5, 1, 0.5) == Runtime(GIB / 2, 0, GIB / 2, 0.08)
    assert runtime_for("gpu", 8, True, 0.08, 0.5, 1, 0.5) == Runtime(GIB / 2, GIB, 0, 0.08)


def test_stages_differ_and_the_fullest_counts():
    x = laid("llama-3.1-8b", split=Split(pp=2))
    first_bytes, last_bytes = (float(need.total_bytes) for need in stage_needs(x, 1024, 4))
    assert need_bytes(x, 1024, 4) == last_bytes > first_bytes  # as many layers, and the last norm
    model = load_model("llama-3.1-8b")
    first = stage_weights(model, stages_of(model, 3)[0], plan_of(model), Split(pp=3), True, False)
    assert {w.part for w in first} == {"embedding", "attention", "feed-forward", "norms"}
