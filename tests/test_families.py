"""Every family's config against transformers on meta tensors: parameters, and FLOPs of a step as torch counts them."""

import json
from pathlib import Path

import pytest

from ridgepoint.errors import BadInput, RidgeError, UnknownName
from ridgepoint.workload import Attention, Linear, Plan, decode, forward, load_model, prefill
from ridgepoint.workload.families import FAMILIES, from_config

DATA = json.loads((Path(__file__).parent / "data" / "families.json").read_text())
BASE, CONFIGS, ENCODERS = DATA["base"], DATA["configs"], DATA["encoders"]
DENSE = {name: c for name, c in CONFIGS.items() if "moe" not in name and "deepseek" not in name and name != "mixtral"}


def oracle(config, device="meta"):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    fields = {k: v for k, v in config.items() if k not in ("torch_dtype", "model_type")}
    made = transformers.AutoConfig.for_model(config["model_type"], **fields)
    with torch.device(device):
        return transformers.AutoModelForCausalLM.from_config(made, attn_implementation="eager")


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_equal_transformers(name):
    decoder = from_config(name, CONFIGS[name])
    expected = sum(p.numel() for p in oracle(CONFIGS[name]).parameters())
    corrections = sum(  # DeepSeek-V3 keeps the router's correction as a buffer
        b.count * b.mlp.routing.num_experts for b in decoder.blocks if b.mlp.routing and b.mlp.routing.router_bias
    )
    assert decoder.parameters == expected + corrections
    assert Plan(decoder, decode(1, 1), "fp32").weight_bytes == 4 * decoder.parameters


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize(("batch", "new"), [(1, 40), (3, 7)])
def test_products_of_linear_layers_equal_those_that_torch_counts(name, batch, new):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    model, decoder = oracle(DENSE[name], "cpu"), from_config(name, DENSE[name])
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.zeros(batch, new, dtype=torch.long), use_cache=False)
    counted = counter.get_flop_counts()["Global"]
    products = sum(v for k, v in counted.items() if "bmm" not in str(k))
    ops = Plan(decoder, forward(batch, new), "fp32").ops
    assert sum(op.count * op.flops for op in ops if isinstance(op, Linear)) == products


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_equal_transformers(name):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    from torch.utils.flop_counter import FlopCounterMode

    fields = {k: v for k, v in ENCODERS[name].items() if k != "model_type"}
    if name == "bert":
        model = transformers.BertModel(transformers.BertConfig(**fields, attn_implementation="eager"))
        inputs, new = torch.zeros(3, 20, dtype=torch.long), 20
    else:
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**fields, attn_implementation="eager"))
        inputs, new = torch.zeros(3, 3, 48, 48), 10
    encoder = from_config(name, ENCODERS[name])
    assert encoder.parameters == sum(p.numel() for p in model.parameters())
    plan = Plan(encoder, forward(3, new), "fp32")
    assert plan.weight_bytes == 4 * encoder.parameters
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(inputs)
    counted = counter.get_flop_counts()["Global"]
    linears = [op for op in plan.ops if isinstance(op, Linear)]
    assert sum(op.count * op.flops for op in linears) == sum(v for k, v in counted.items() if "bmm" not in str(k))
    attention = [op for op in plan.ops if isinstance(op, Attention)]
    assert sum(op.count * op.flops for op in attention) == sum(v for k, v in counted.items() if "bmm" in str(k))
    assert plan.kv_cache_bytes == 0


def test_a_window_is_what_a_mask_says():
    import numpy as np

    for cached, new, window in ((0, 40, 16), (10, 30, 16), (100, 1, 16), (3, 5, 16), (15, 1, 16), (16, 4, 16)):
        rows, columns = np.arange(cached, cached + new)[:, None], np.arange(cached + new)[None, :]
        mask = (columns <= rows) & (columns > rows - window)
        group = prefill(2, new, cached).groups[0]
        assert group.pairs(window) == 2 * mask.sum()
        assert group.keys(window) == mask.any(axis=0).sum()
        assert group.pairs(0) == group.attended and group.pairs(causal=False) == 2 * mask.size


def test_latent_attention_reads_its_cache_once_and_prompts_expand_it():
    decoder = from_config("v3", CONFIGS["deepseek-v3"])
    (one,) = [op for op in Plan(decoder, decode(2, 99), "bf16").ops if isinstance(op, Attention)]
    assert one.count == 6
    assert one.kv_bytes == 2 * 100 * (32 + 8) * 2
    assert decoder.kv_bytes_per_token(2.0) == 6 * (32 + 8) * 2
    assert one.flops == 2 * 2 * 100 * 6 * (40 + 32)
    prompt = next(op for op in Plan(decoder, prefill(2, 9), "bf16").ops if isinstance(op, Attention))
    assert prompt.flops == 2 * 2 * 45 * 6 * (24 + 16)


def test_a_mixture_stores_all_experts_and_reads_those_that_tokens_choose():
    decoder = from_config("mixtral", CONFIGS["mixtral"])
    plan = Plan(decoder, decode(1, 9), "fp32")
    experts = [op for op in plan.ops if isinstance(op, Linear) and op.experts > 1]
    assert {op.name for op in experts} == {"expert_gate_proj", "expert_up_proj", "expert_down_proj"}
    assert all(op.active == pytest.approx(2.0) and op.stored_bytes == 2 * op.weight_bytes for op in experts)
    many = [op for op in Plan(decoder, decode(400, 9), "fp32").ops if isinstance(op, Linear) and op.experts > 1]
    assert all(op.active == pytest.approx(4.0) for op in many)
    assert decoder.active_parameters < decoder.parameters


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("field", ["num_hidden_layers", "vocab_size", "num_attention_heads", "hidden_size"])
@pytest.mark.parametrize("value", [0, -3, 10**12, "many", None, 1.5])
def test_impossible_sizes_are_refused_by_name(name, field, value):
    config = dict(CONFIGS[name])
    gpt2 = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "hidden_size": "n_embd"}
    field = gpt2.get(field, field) if name == "gpt2" else field
    config[field] = value
    with pytest.raises(RidgeError, match="config.json"):
        from_config(name, config)


@pytest.mark.parametrize("change", [{"num_experts_per_tok": 99}, {"num_local_experts": None}])
def test_impossible_mixtures_are_refused(change):
    with pytest.raises(BadInput, match="experts per token"):
        from_config("m", CONFIGS["mixtral"] | change)


def test_what_is_not_modelled_is_listed():
    scaled = from_config("q", CONFIGS["qwen2"] | {"rope_scaling": {"type": "yarn", "factor": 4}})
    assert scaled.not_modelled == ("rope_scaling = {'type': 'yarn', 'factor': 4}",)
    assert from_config("q", CONFIGS["qwen2"]).not_modelled == ()
    with pytest.raises(UnknownName, match="gemma2"):
        from_config("g", BASE | {"model_type": "gemma5"})


def test_every_family_is_tested():
    tested = {c["model_type"] for c in (*CONFIGS.values(), *ENCODERS.values())}
    assert tested | {"llama", "smollm", "gemma3"} == set(FAMILIES)  # the last by a test of its own
    assert load_model("smollm2-135m").family == "llama"


def test_rope_parameters_of_newer_configs_are_read():
    new = {**CONFIGS["mistral"], "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    assert from_config("m", new).rope_theta == 5e5 and not from_config("m", new).not_modelled
    scaled = {**CONFIGS["mistral"], "rope_parameters": {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0}}
    assert from_config("m", scaled).not_modelled


def test_gemma_with_images_is_its_text_model() -> None:
    text = {"hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
            "sliding_window": 1024}  # fmt: skip
    model = from_config("g", {"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}})
    assert model.parameters == 3_880_263_168  # Gemma 3 technical report (arXiv 2503.19786), table 1: 675M + 3,209M
    assert any("vision_config" in said for said in model.not_modelled)
    with pytest.raises(BadInput, match="text_config"):
        from_config("g", {"model_type": "gemma3"})


@pytest.mark.parametrize("field", ["q_lora_rank", "n_shared_experts"])
@pytest.mark.parametrize("value", [-1, -(10**40), 10**9])
def test_sizes_that_may_be_absent_are_bounded_too(field: str, value: int) -> None:
    folder = Path(__file__).parents[1] / "ridgepoint" / "workload" / "data" / "llm"
    config = json.loads((folder / "deepseek-v3.json").read_text(encoding="utf-8"))
    with pytest.raises(BadInput, match=f"{field} is"):
        from_config("d", config | {field: value})
