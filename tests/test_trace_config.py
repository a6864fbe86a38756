"""The same model traced from transformers' code and derived from its config: FLOPs within 1 %, bytes within 5 %."""

import json
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ridgepoint.engine.cache import KvCache
from ridgepoint.engine.models.decoder import DecoderModel
from ridgepoint.measurement.trace.load import Built
from ridgepoint.measurement.trace.trace import trace_built
from ridgepoint.workload import Decoder, Traced, Workload, forward, load_model

CATALOGUE = Path(__file__).parents[1] / "ridgepoint" / "workload" / "data" / "llm"
TOKENS = 40
"""Their code also copies (heads repeated for the keys, heads joined again), which grows with the tokens and is real."""


def traced(name: str, tokens: int = TOKENS) -> Traced:
    transformers = pytest.importorskip("transformers")
    fields = json.loads((CATALOGUE / f"{name}.json").read_text())
    config = transformers.AutoConfig.for_model(**{k: v for k, v in fields.items() if k != "torch_dtype"})
    fake = FakeTensorMode()
    with fake:
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
        example = {
            "input_ids": torch.zeros(2, tokens, dtype=torch.long), "use_cache": False,
            "attention_mask": torch.zeros(2, 1, tokens, tokens, dtype=torch.bfloat16),
        }  # fmt: skip
    return trace_built(f"{name}:build", Built(model.eval(), (), example, 2), ("",), fake)


class Prefill(nn.Module):
    """The engine's own model behind a cache of its own."""

    def __init__(self, name: str):
        super().__init__()
        decoder = load_model(name)
        assert isinstance(decoder, Decoder)
        self.decoder = replace(decoder, max_position_embeddings=64)
        self.model = DecoderModel(self.decoder, "bf16", "meta")

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        cache = KvCache(self.decoder, *tokens.shape, "bf16")
        return self.model(tokens, cache, 0, "all")


def totals(workload: Workload, batch: int, new: int) -> tuple[float, float]:
    ops = workload.forward_ops(forward(batch, new), "bf16")
    return sum(float(op.count * op.flops) for op in ops), sum(float(op.count * op.bytes) for op in ops)


@pytest.mark.parametrize("name", ["smollm2-135m", "llama-3.2-1b", "qwen3-0.6b", "gpt2", "gemma-3-1b-pt"])
@pytest.mark.parametrize("tokens", [16, 60])
def test_the_engine_traced_is_its_config_s_plan(name: str, tokens: int) -> None:
    built = Built(Prefill(name).eval(), (torch.zeros(2, tokens, dtype=torch.long),), {}, 2)
    (flops, moved), (other_flops, other_moved) = (
        totals(trace_built("e:e", built, ("",)), 3, 1),
        totals(load_model(name), 3, tokens),
    )
    assert flops == pytest.approx(other_flops, rel=0.01)
    assert moved == pytest.approx(other_moved, rel=0.05)


@pytest.mark.parametrize(
    "name", ["smollm2-135m", "llama-3.2-1b", "qwen2.5-0.5b", "qwen3-0.6b", "mistral-7b-v0.1", "gpt2"]
)
def test_the_code_of_transformers_does_the_same_arithmetic(name: str) -> None:
    """And moves the same bytes, where temporaries of a module are left out: its norms and rotations are many passes."""
    theirs, ours = traced(name), load_model(name)
    assert theirs.parameters == ours.parameters
    (flops, moved), (our_flops, our_moved) = totals(theirs, 2, 1), totals(ours, 2, TOKENS)
    assert flops == pytest.approx(our_flops, rel=0.01)
    assert moved == pytest.approx(our_moved, rel=0.05)


def test_a_model_of_70_billion_parameters_is_traced_without_its_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    workload = traced("llama-3.1-70b")
    assert workload.parameters == load_model("llama-3.1-70b").parameters
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20 < 2  # KiB -> GiB
