"""The engine's Llama against transformers' as oracle, the loader's refusals, and the random builder's memory."""

import json
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file  # noqa: E402

from ridgepoint.engine.build import build_random, load_safetensors  # noqa: E402
from ridgepoint.engine.cache import KvCache  # noqa: E402
from ridgepoint.engine.convert import replace_linears  # noqa: E402
from ridgepoint.errors import BadInput, NotSupported  # noqa: E402
from ridgepoint.kernels.attention import Attention  # noqa: E402
from ridgepoint.kernels.linear import find  # noqa: E402
from ridgepoint.workload.decoder import AttentionSpec, Block, Decoder, MlpSpec  # noqa: E402
from ridgepoint.workload.op import Linear, Pointwise  # noqa: E402
from ridgepoint.workload.step import decode, prefill  # noqa: E402

TINY = Decoder(
    name="tiny",
    hidden_size=64,
    vocab_size=96,
    blocks=(Block(AttentionSpec(4, 2, 16), MlpSpec(128), 3),),
    tie_word_embeddings=False,
    max_position_embeddings=64,
    dtype="fp32",
    rope_theta=500.0,
    rms_norm_eps=1e-3,
)


def tiny(tied=False, bias=False, head_dim=16):
    block = Block(AttentionSpec(4, 2, head_dim, bias), MlpSpec(128, bias), 3)
    return replace(TINY, blocks=(block,), tie_word_embeddings=tied)


def oracle(decoder):
    """transformers' LlamaForCausalLM with random weights of that shape; norms and biases random too."""
    transformers = pytest.importorskip("transformers")
    spec, mlp = decoder.blocks[0].attention, decoder.blocks[0].mlp
    config = transformers.LlamaConfig(
        hidden_size=decoder.hidden_size,
        intermediate_size=mlp.intermediate_size,
        num_hidden_layers=decoder.layers,
        num_attention_heads=spec.num_attention_heads,
        num_key_value_heads=spec.num_key_value_heads,
        head_dim=spec.head_dim,
        vocab_size=decoder.vocab_size,
        max_position_embeddings=decoder.max_position_embeddings,
        tie_word_embeddings=decoder.tie_word_embeddings,
        attention_bias=spec.bias,
        mlp_bias=mlp.bias,
        rope_theta=decoder.rope_theta,
        rope_parameters={"rope_type": "default", "rope_theta": decoder.rope_theta},
        rms_norm_eps=decoder.rms_norm_eps,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(3)
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


@pytest.mark.parametrize(
    "decoder",
    [tiny(), tiny(tied=True), tiny(bias=True, head_dim=24)],
    ids=["untied", "tied", "biases-and-own-head_dim"],
)
@pytest.mark.parametrize("shard", ["5GB", "100KB"])
def test_logits_equal_transformers(tmp_path, decoder, shard):
    """Prefill, a chunk behind cached tokens and two decode steps, through a saved checkpoint (whole and sharded)."""
    theirs = oracle(decoder)
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "100KB")
    ours = load_safetensors(decoder, tmp_path, "fp32")
    cache = KvCache(decoder, 2, 20, "fp32")
    tokens = torch.randint(0, 96, (2, 13), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = theirs(tokens).logits
    position = 0
    for new in (7, 4, 1, 1):
        end = position + new
        logits = ours(tokens[:, position:end], cache, position, "all" if new > 1 else "last")
        wanted = expected[:, position:end] if new > 1 else expected[:, end - 1]
        assert logits.shape == wanted.shape
        torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)
        position = end
    torch.testing.assert_close(ours(tokens, cache, 0), expected[:, -1], atol=1e-4, rtol=1e-4)


@pytest.fixture
def checkpoint(tmp_path):
    """A directory with the tensors of TINY, written by hand."""
    tensors = {
        "model.embed_tokens.weight": torch.randn(96, 64),
        "model.norm.weight": torch.randn(64),
        "lm_head.weight": torch.randn(96, 64),
    }
    shapes = {
        "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
        "self_attn.o_proj": (64, 64), "mlp.gate_proj": (128, 64), "mlp.up_proj": (128, 64),
        "mlp.down_proj": (64, 128), "input_layernorm": (64,), "post_attention_layernorm": (64,),
    }  # fmt: skip
    for i in range(3):
        tensors |= {f"model.layers.{i}.{name}.weight": torch.randn(*shape) for name, shape in shapes.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def rewrite(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_loads_in_another_dtype(checkpoint):
    model = load_safetensors(TINY, checkpoint, "bf16")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    cache = KvCache(TINY, 1, 4, "bf16")
    assert model(torch.tensor([[1, 2]]), cache).dtype == torch.bfloat16


def test_a_missing_tensor_is_named_with_its_directory(checkpoint):
    rewrite(checkpoint, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(BadInput, match=rf"{checkpoint}.*model\.layers\.1\.mlp\.up_proj\.weight"):
        load_safetensors(TINY, checkpoint, "fp32")


def test_a_misshaped_tensor_is_named_with_its_file(checkpoint):
    rewrite(checkpoint, lambda t: t.update({"model.norm.weight": torch.ones(32)}))
    with pytest.raises(
        BadInput, match=r"model\.safetensors: model\.norm\.weight is \[32\]; config\.json asks for \[64\]"
    ):
        load_safetensors(TINY, checkpoint, "fp32")


def test_a_tensor_without_a_place_is_refused(checkpoint):
    rewrite(checkpoint, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    load_safetensors(TINY, checkpoint, "fp32")
    rewrite(checkpoint, lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}))
    with pytest.raises(BadInput, match=r"q_proj\.bias"):
        load_safetensors(TINY, checkpoint, "fp32")


def test_quantised_checkpoints_are_refused(checkpoint):
    rewrite(checkpoint, lambda t: t.update({"model.norm.weight": torch.ones(64, dtype=torch.int8)}))
    with pytest.raises(BadInput, match="int8"):
        load_safetensors(TINY, checkpoint, "fp32")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_never_opened(tmp_path, name):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'exit 3'\ntR.")
    with pytest.raises(BadInput, match="pickle"):
        load_safetensors(TINY, tmp_path, "fp32")


def test_an_empty_directory_and_a_broken_file_are_refused(tmp_path):
    with pytest.raises(BadInput, match="no model.safetensors"):
        load_safetensors(TINY, tmp_path, "fp32")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(BadInput, match="not a readable safetensors file"):
        load_safetensors(TINY, tmp_path, "fp32")


@pytest.mark.parametrize(
    ("index", "says"),
    [
        ("[]", "weight_map"),
        ("{", "weight_map"),
        ('{"weight_map": {"a": 3}}', "weight_map"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "beside the index"),
        ('{"weight_map": {"a": "b.bin"}}', "beside the index"),
        ('{"weight_map": {"a": "b.safetensors"}}', "missing"),
    ],
)
def test_a_bad_index_is_refused(tmp_path, index, says):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(BadInput, match=says):
        load_safetensors(TINY, tmp_path, "fp32")


def test_an_index_that_lies_is_refused(checkpoint):
    names = {*load_file(checkpoint / "model.safetensors"), "model.layers.0.self_attn.q_proj.weight"}
    (checkpoint / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")})
    )
    rewrite(checkpoint, lambda t: t.pop("model.layers.0.self_attn.q_proj.weight"))
    with pytest.raises(BadInput, match=r"q_proj\.weight.*says so"):
        load_safetensors(TINY, checkpoint, "fp32")


def packed(rung="packed", format="int8"):
    (kernel,) = find(format, "cpu", rung)
    return lambda module, number=None: replace_linears(module, lambda name, layer: kernel, "bf16", 32)


def test_random_layers_have_their_own_memory():
    for convert in (lambda module, number: module, packed(), packed(format="int4")):
        model = build_random(TINY, "bf16", convert=convert)
        stores = [
            {
                t.data_ptr()
                for t in (*layer.parameters(), *layer.buffers())
                if t is not layer.rope.cos and t is not layer.rope.sin
            }
            for layer in model.layers
        ]
        assert len(model.layers) == 3 and sum(map(len, stores)) == len(set.union(*stores))
        assert len({layer.rope.cos.data_ptr() for layer in model.layers}) == 1


def test_convert_runs_once_per_block_and_once_for_the_head():
    seen = []

    def convert(module, number):
        return replace_linears(module, lambda name, layer: seen.append(name), "bf16")

    build_random(TINY, "bf16", convert=convert)
    assert seen == ["lm_head", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def test_random_weights_follow_the_seed():
    first, again, other = (build_random(TINY, "fp32", seed=s).layers[2].up_proj.weight for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert abs(first.std().item() - 0.02) < 1e-3


def test_the_parameters_are_those_of_the_plan():
    for decoder in (tiny(), tiny(tied=True), tiny(bias=True)):
        assert sum(p.numel() for p in build_random(decoder, "fp32").parameters()) == decoder.parameters


def test_every_operator_of_the_plan_is_a_leaf_called_once_per_count():
    calls, model = [], build_random(TINY, "fp32")
    for name, module in model.named_modules():
        if not any(True for _ in module.children()):
            module.register_forward_hook(lambda m, x, y, name=name: calls.append((name.rsplit(".", 1)[-1], m, y)))
    cache = KvCache(TINY, 2, 8, "fp32")
    for step, new, position in ((prefill(2, 5), 5, 0), (decode(2, 5), 1, 5)):
        calls.clear()
        model(torch.ones(2, new, dtype=torch.long), cache, position)
        ops = TINY.forward_ops(step, "fp32")
        layer = [op.name for op in ops if op.count == 3]
        assert [name for name, *_ in calls] == ["embed_tokens", *layer * 3, "final_norm", "lm_head"]
        for op in ops:
            _, module, y = next(c for c in calls if c[0] == op.name)
            if isinstance(op, Linear):
                assert (module.out_features, module.in_features) == (op.n, op.k) and y.numel() == op.m * op.n
            elif isinstance(op, Pointwise) and op.kind not in ("rope", "kv_write"):
                assert y.numel() == op.rows * op.cols


@pytest.mark.parametrize("kernel", ["", "grouped", "math"])
def test_a_converted_model_stays_near_its_reference(checkpoint, kernel):
    rewrite(checkpoint, lambda t: t.update({n: x * 0.1 for n, x in t.items() if x.dim() == 2}))
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    reference, converted = (
        load_safetensors(TINY, checkpoint, "fp32"),
        load_safetensors(TINY, checkpoint, "bf16", packed()),
    )
    assert not any(isinstance(m, torch.nn.Linear) for m in converted.modules())
    for layer in converted.layers:
        layer.attention = Attention(kernel)
    caches = KvCache(TINY, 1, 8, "fp32"), KvCache(TINY, 1, 8, "bf16")
    for start, end in ((0, 4), (4, 5)):
        want, got = (m(tokens[:, start:end], c, start) for m, c in zip((reference, converted), caches, strict=True))
        assert (got.float() - want).norm() / want.norm() < 0.05


def test_replace_linears_takes_any_module_and_selects_by_name():
    (kernel,) = find("int8", "cpu", "packed")
    inner = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8)).bfloat16()
    net = torch.nn.ModuleDict({"body": inner})
    x = torch.randn(2, 32).bfloat16()
    before = inner(x)
    assert replace_linears(net, lambda name, layer: kernel if name == "body.0" else None, "bf16") is net
    assert inner[0].kernel == kernel.name and isinstance(inner[2], torch.nn.Linear)
    assert (inner(x) - before).norm() / before.norm() < 0.03
    assert replace_linears(torch.nn.Linear(16, 16), lambda *_: kernel, "bf16").kernel == kernel.name


def test_replace_linears_refuses_before_it_changes_anything():
    (kernel,) = find("int8", "cpu", "packed")
    net = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Linear(32, 40), torch.nn.Linear(40, 8))
    with pytest.raises(NotSupported, match=r"^2 by torch\._weight_int8pack_mm: k is 40; .*32 or 48"):
        replace_linears(net, lambda *_: kernel, "bf16")
    with pytest.raises(NotSupported, match="activations in fp32; this kernel takes bf16"):
        replace_linears(net, lambda *_: kernel, "fp32")
    with pytest.raises(NotSupported, match=r"fp8|CUDA|capability|_scaled_mm"):
        replace_linears(net, lambda *_: find("fp8", "cuda")[0], "bf16")
    assert all(isinstance(layer, torch.nn.Linear) for layer in net)


def test_tokens_beyond_the_cache_are_refused():
    model, cache = build_random(TINY, "fp32"), KvCache(TINY, 2, 4, "fp32")
    for tokens, position in (
        (torch.ones(2, 5), 0),
        (torch.ones(2, 1), 4),
        (torch.ones(1, 1), 0),
        (torch.ones(2, 1), -1),
    ):
        with pytest.raises(BadInput, match="do not fit a cache of 2 x 4"):
            model(tokens.long(), cache, position)
    with pytest.raises(BadInput, match="no cache of 1 x 65"):
        KvCache(TINY, 1, 65, "fp32")
    assert cache.bytes == 2 * 3 * 2 * 2 * 4 * 16 * 4


@pytest.mark.gpu
def test_cuda_gives_the_logits_of_the_cpu():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    cpu, tokens = build_random(TINY, "fp32"), torch.tensor([[1, 2, 3]])
    want = cpu(tokens, KvCache(TINY, 1, 8, "fp32"))
    got = cpu.to("cuda")(tokens.cuda(), KvCache(TINY, 1, 8, "fp32", "cuda"))
    torch.testing.assert_close(got.cpu(), want, atol=1e-3, rtol=1e-3)
