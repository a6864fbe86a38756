"""A model over several devices: nothing is lost between them, what is repeated is known, and each split has its collective."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload import (
    ALONE,
    Attention,
    Collective,
    Linear,
    Parallel,
    Plan,
    decode,
    load_model,
    prefill,
    sharded,
)

LLAMA = load_model("llama-3.1-8b")
MIXTRAL = load_model("mixtral-8x7b-v0.1")
DEEPSEEK = load_model("deepseek-v3")


def linears(ops):
    return {op.name: op for op in ops if isinstance(op, Linear)}


def test_one_device_is_the_plan_itself():
    ops = LLAMA.forward_ops(decode(4, 100), "bf16")
    assert sharded(ops, ALONE) is ops


@pytest.mark.parametrize("tp", [2, 4, 8])
def test_tensor_parallel_devices_do_the_whole_work_together(tp):
    """Every matrix of a Llama splits evenly: FLOPs and weights of a device, times devices, are those of the model."""
    whole = linears(LLAMA.forward_ops(decode(4, 100), "bf16"))
    mine = linears(sharded(LLAMA.forward_ops(decode(4, 100), "bf16"), Parallel(tp=tp)))
    assert whole.keys() == mine.keys()
    for name, op in whole.items():
        assert mine[name].flops * tp == op.flops, name
        assert mine[name].weight_bytes * tp == op.weight_bytes, name


def test_an_all_reduce_stands_behind_attention_and_mlp_with_the_hidden_state():
    ops = sharded(LLAMA.forward_ops(decode(4, 100), "bf16"), Parallel(tp=4))
    reduces = [op for op in ops if isinstance(op, Collective) and op.collective == "all_reduce"]
    assert [op.name for op in reduces] == ["o_proj_all_reduce", "down_proj_all_reduce"]
    assert {(op.payload_bytes, op.devices, op.count) for op in reduces} == {(4 * 4096 * 2, 4, 32)}
    names = [op.name for op in ops]
    assert names.index("o_proj_all_reduce") == names.index("o_proj") + 1


def test_key_value_heads_that_do_not_split_are_repeated():
    """8 key/value heads over 16 devices: each has one, and the cache of all devices together is twice the model's."""
    plan = Plan(LLAMA, decode(2, 1000), "bf16")
    cache = [Plan(LLAMA, decode(2, 1000), "bf16", parallel=Parallel(tp=tp)).kv_cache_bytes * tp for tp in (1, 8, 16)]
    assert cache[0] == plan.kv_cache_bytes
    assert cache[1] == pytest.approx(cache[0])
    assert cache[2] == pytest.approx(2 * cache[0])


def test_a_latent_cache_is_whole_on_every_device():
    one = Plan(DEEPSEEK, decode(2, 1000), "bf16").kv_cache_bytes
    assert Plan(DEEPSEEK, decode(2, 1000), "bf16", parallel=Parallel(tp=8)).kv_cache_bytes == pytest.approx(one)


def test_latent_projections_into_the_low_rank_are_whole():
    ops = linears(sharded(DEEPSEEK.forward_ops(decode(1, 10), "bf16"), Parallel(tp=8)))
    assert ops["kv_a_proj"].n == 576 and ops["q_a_proj"].n == 1536
    assert ops["q_b_proj"].n == 128 * 192 / 8


@pytest.mark.parametrize("ep", [2, 4, 8])
def test_experts_split_over_devices_with_an_all_to_all(ep):
    whole = linears(MIXTRAL.forward_ops(prefill(1, 512), "bf16"))
    ops = sharded(MIXTRAL.forward_ops(prefill(1, 512), "bf16"), Parallel(ep=ep))
    mine = linears(ops)
    assert mine["expert_gate_proj"].experts * ep == whole["expert_gate_proj"].experts
    assert mine["expert_gate_proj"].flops * ep == whole["expert_gate_proj"].flops
    sent = [op for op in ops if isinstance(op, Collective)]
    assert {op.collective for op in sent} == {"alltoall"} and sent[0].count == 2 * 32
    assert sent[0].payload_bytes == 2 * 512 * 2 * 4096 / ep


def test_a_mixture_under_tensor_parallelism_reduces_each_token_once():
    ops = sharded(MIXTRAL.forward_ops(decode(16, 10), "bf16"), Parallel(tp=2))
    reduce = next(op for op in ops if isinstance(op, Collective) and "expert" in op.name)
    assert reduce.payload_bytes == 16 * 4096 * 2, "two experts a token, added up before they are sent"


def test_a_pipeline_shares_weights_and_sends_between_stages():
    plan = Plan(LLAMA, decode(2, 100), "bf16", parallel=Parallel(pp=4))
    assert plan.weight_bytes == pytest.approx(Plan(LLAMA, decode(2, 100), "bf16").weight_bytes / 4)
    sends = [op for op in plan.ops if isinstance(op, Collective)]
    assert [(op.collective, op.count) for op in sends] == [("send_recv", 3)]


def test_attention_over_groups_keeps_the_sequences_apart():
    ops = sharded(DEEPSEEK.forward_ops(decode(64, 1000), "bf16"), Parallel(tp=8, ep=8, attention_dp=8))
    attention = next(op for op in ops if isinstance(op, Attention))
    assert attention.groups[0].count == 8 and attention.heads == 128
    assert not any(isinstance(op, Collective) and op.name.startswith("o_proj") for op in ops)


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4]), st.integers(1, 64), st.integers(1, 4000))
def test_weights_and_cache_of_a_device_are_at_least_their_share(tp, pp, batch, context):
    whole = Plan(LLAMA, decode(batch, context), "bf16")
    mine = Plan(LLAMA, decode(batch, context), "bf16", parallel=Parallel(tp=tp, pp=pp))
    for name in ("weight_bytes", "kv_cache_bytes"):
        share = getattr(mine, name) / getattr(whole, name)
        assert 1 / (tp * pp) - 1e-9 <= share <= 1.02 / (tp * pp), name


def test_arrays_and_scalars_agree_bit_for_bit():
    batches = np.array([1.0, 7.0, 64.0])
    parallel = Parallel(tp=4)
    many = sharded(LLAMA.forward_ops(decode(batches, 100.0), "bf16"), parallel)
    for i, batch in enumerate(batches):
        for a, b in zip(many, sharded(LLAMA.forward_ops(decode(float(batch), 100.0), "bf16"), parallel), strict=True):
            assert np.broadcast_to(a.flops, 3)[i] == b.flops
            assert np.broadcast_to(a.bytes, 3)[i] == b.bytes


def test_what_does_not_split_is_refused_in_words():
    with pytest.raises(BadInput, match="--tp is 0; possible are 1 to 4096"):
        Parallel(tp=0)
    with pytest.raises(NotSupported, match="32 attention heads do not split over 3"):
        sharded(LLAMA.forward_ops(decode(1, 10), "bf16"), Parallel(tp=3))
