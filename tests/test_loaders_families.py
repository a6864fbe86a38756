"""Thousands of hostile configs of every family, safetensors headers and records: one line each, in bounded time and memory."""

import io
import json
import resource
import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ridgepoint.errors import RidgeError
from ridgepoint.prediction import predict_memory
from ridgepoint.store import Provenance, Store, export_lines, import_lines, new_record
from ridgepoint.workload import Plan, forward
from ridgepoint.workload.families import from_config
from ridgepoint.workload.weights import check_weights

DATA = json.loads((Path(__file__).parent / "data" / "families.json").read_text())
CONFIGS = {**DATA["configs"], **DATA["encoders"]}
many = settings(
    max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
numbers = st.sampled_from([0, -1, 1, 2, 3, 7, 10**6, 2**31, 2**63, 10**12, 10**40, -(10**40), 0.5, 1e300, -1e-9])
wrong = st.sampled_from(
    [None, True, "", "64", "x" * 9000, [], [1, 2], {}, {"a": {"b": []}}, "two\nlines", float("nan"), float("inf")]
)
values = numbers | wrong
EXTRA = ("num_experts", "num_experts_per_tok", "sliding_window", "layer_types", "q_lora_rank", "kv_lora_rank", "head_dim",
         "query_pre_attn_scalar", "n_routed_experts", "first_k_dense_replace", "hidden_activation", "tie_word_embeddings",
         "quantization_config", "torch_dtype", "word_embed_proj_dim", "num_channels", "moe_intermediate_size")  # fmt: skip


def in_one_line(error: RidgeError) -> None:
    text = str(error)
    assert text and text.isprintable() and len(text) <= 1000, repr(text[:200])


@many
@given(st.data())
def test_any_config_of_any_family(data: st.DataObject) -> None:
    base = CONFIGS[data.draw(st.sampled_from(sorted(CONFIGS)))]
    keys = sorted({*base, *EXTRA} - {"model_type"})
    config = {**base, **data.draw(st.dictionaries(st.sampled_from(keys), values, min_size=1, max_size=3))}
    for key in data.draw(st.sets(st.sampled_from(keys), max_size=2)):
        config.pop(key, None)
    start = time.process_time()
    try:
        model = from_config("fuzzed", config)
        plan = Plan(model, forward(1, 4), "fp32")
        assert sum(float(op.count * op.flops) for op in plan.ops) >= 0
        assert float(predict_memory(plan).total_bytes) > 0
    except RidgeError as error:
        in_one_line(error)
    assert time.process_time() - start < 5


headers = st.one_of(
    st.binary(max_size=80),
    st.builds(lambda n, rest: struct.pack("<Q", n) + rest, st.integers(0, 2**64 - 1), st.binary(max_size=60)),
    st.builds(
        lambda body, tail: struct.pack("<Q", len(body)) + body + tail,
        st.recursive(
            values, lambda x: st.lists(x, max_size=2) | st.dictionaries(st.text(max_size=4), x, max_size=2)
        ).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
        st.binary(max_size=20),
    ),
)


@many
@given(
    headers, st.none() | st.binary(max_size=60) | values.map(lambda v: json.dumps({"weight_map": {"a": v}}).encode())
)
def test_any_safetensors_file_and_index(tmp_path: Path, header: bytes, index: bytes | None) -> None:
    (tmp_path / "model.safetensors").write_bytes(header)
    (tmp_path / "model.safetensors.index.json").unlink(missing_ok=True)
    if index is not None:
        (tmp_path / "model.safetensors.index.json").write_bytes(index)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        check_weights(tmp_path)
    except RidgeError as error:
        in_one_line(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB, whatever the header promises


def a_line(tmp_path: Path) -> bytes:
    with Store(tmp_path / "one.db") as store:
        store.append(new_record("bet", {"bet": {"model": "m"}}, Provenance({"machine_id": "x"}, {}, {})))
        out = io.StringIO()
        export_lines(store, out)
    return out.getvalue().encode()


@many
@given(st.data())
def test_any_damage_to_an_exported_record(tmp_path: Path, data: st.DataObject) -> None:
    whole = tmp_path / "line.jsonl"
    if not whole.exists():
        whole.write_bytes(a_line(tmp_path))
    line = whole.read_bytes()
    at = data.draw(st.integers(0, len(line)))
    damaged = line[:at] + data.draw(st.binary(max_size=8)) + line[at + data.draw(st.integers(0, 30)) :]
    with Store(tmp_path / "other.db") as store:
        try:
            import_lines(store, io.BytesIO(damaged))
        except RidgeError as error:
            in_one_line(error)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "weights.pt"])
def test_pickled_weights_are_never_opened(tmp_path: Path, name: str) -> None:
    from ridgepoint.engine.checkpoint import open_checkpoint

    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    with pytest.raises(RidgeError, match="pickle"):
        open_checkpoint(tmp_path)
    assert not (tmp_path / "opened").exists()
