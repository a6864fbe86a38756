"""Every family that runs: logits equal transformers', and each operator of the plan is a module that runs."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from ridgepoint.choice import resolve  # noqa: E402
from ridgepoint.engine.build import build_random, load_safetensors  # noqa: E402
from ridgepoint.engine.cache import KvCache  # noqa: E402
from ridgepoint.engine.runs import check_runs  # noqa: E402
from ridgepoint.errors import NotSupported  # noqa: E402
from ridgepoint.measurement.clock import ThreadCpu  # noqa: E402
from ridgepoint.measurement.leaves import leaf_totals  # noqa: E402
from ridgepoint.measurement.runnable import build_weights, runnable  # noqa: E402
from ridgepoint.workload import decode, load_model, prefill  # noqa: E402
from ridgepoint.workload.families import from_config  # noqa: E402

CONFIGS = json.loads((Path(__file__).parent / "data" / "families.json").read_text())["configs"]
READ = ("mistral", "qwen2", "qwen2-windowed", "qwen3", "phi3")
RUN = (*READ, "gemma", "gemma2", "gemma3", "gpt2", "opt")
ONLY_PAPER = ("mixtral", "qwen2-moe", "qwen3-moe", "deepseek-v2", "deepseek-v3", "opt-narrow")


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("parts", [(30,), (20, 1, 1), (3, 20, 1)], ids=str)
def test_logits_equal_transformers(name, parts, tmp_path):
    transformers = pytest.importorskip("transformers")
    fields = {k: v for k, v in CONFIGS[name].items() if k not in ("torch_dtype", "model_type")}
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(CONFIGS[name]["model_type"], **fields)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    model.save_pretrained(tmp_path)
    decoder = from_config(name, json.loads((tmp_path / "config.json").read_text()))
    ours = load_safetensors(decoder, tmp_path, "fp32")
    tokens = torch.randint(0, decoder.vocab_size, (2, sum(parts)))
    with torch.no_grad():
        expected = model(tokens, use_cache=False).logits
    cache, position = KvCache(decoder, 2, sum(parts), "fp32"), 0
    for new in parts:
        logits = ours(tokens[:, position : position + new], cache, position, "all").view(2, new, -1)
        position += new
        scale = expected.abs().max()
        assert (logits - expected[:, position - new : position]).abs().max() < 2e-4 * scale


@pytest.mark.parametrize("name", RUN)
@pytest.mark.parametrize("step", [decode(2, 9), prefill(2, 8)], ids=["decode", "prefill"])
def test_each_operator_of_the_plan_is_a_module_that_runs(name, step):
    decoder = from_config(name, CONFIGS[name])
    side = resolve("fp32", "fp32")
    run = runnable(decoder, side, step, build_weights(decoder, side, step, {}))
    seconds = leaf_totals(run, ThreadCpu())
    names = {op.name for op in side.plan(decoder, step).ops}
    assert set(seconds) == names, "a row for each operator, and none that the plan does not have"
    assert all(value > 0 for value in seconds.values())


def test_blocks_share_the_rows_of_like_operators():
    windowed = from_config("q", CONFIGS["qwen2-windowed"])
    ops = {op.name: op for op in resolve("fp32", "fp32").plan(windowed, decode(1, 9)).ops}
    assert (ops["q_proj"].count, ops["attention"].count, ops["attention#2"].count) == (6, 4, 2)
    assert ops["attention"].window == 0 and ops["attention#2"].window == 12
    assert [windowed.block_of(i) for i in (0, 3, 4, 5)] == [0, 0, 1, 1]
    dense_first = from_config("d", CONFIGS["deepseek-v3"])
    names = [op.name for op in resolve("fp32", "fp32").plan(dense_first, decode(1, 9)).ops]
    assert len(names) == len(set(names)) and "expert_up_proj" in names and "up_proj" in names


@pytest.mark.parametrize("name", ONLY_PAPER)
def test_what_does_not_run_says_so_in_one_sentence(name):
    with pytest.raises(NotSupported, match="predicted .*does not run here yet"):
        check_runs(from_config(name, CONFIGS[name]))
    with pytest.raises(NotSupported, match="does not run here yet"):
        build_random(from_config(name, CONFIGS[name]), "fp32")


def test_encoders_do_not_run_yet():
    with pytest.raises(NotSupported, match="an encoder"):
        check_runs(load_model("bert-base-uncased"))


def test_weights_of_a_family_with_other_names_are_refused(tmp_path):
    with pytest.raises(NotSupported, match="gpt2 are not read yet"):
        load_safetensors(from_config("gpt2", CONFIGS["gpt2"]), tmp_path, "fp32")
