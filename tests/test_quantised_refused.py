"""Quantised checkpoints that cannot be computed as stored, sides that cannot be, and broken files, each named in one line."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quantised_files import POCKET, rounded, scheme, tiny, write
from safetensors.torch import load_file, save_file

from ridgepoint.choice import resolve
from ridgepoint.errors import BadInput, NotSupported, RidgeError
from ridgepoint.measurement.runnable import build_weights
from ridgepoint.workload import decode, load_model, stored_format, weights_directory

GPTQ = scheme("gptq", 4, 128, True)


@pytest.mark.parametrize(
    ("config", "weight", "says"),
    [
        (GPTQ, "int4:g128", ""),
        ({**GPTQ, "bits": 3}, "", "3-bit"),
        ({**GPTQ, "group_size": -1}, "", "one scale per row"),
        ({**GPTQ, "group_size": 16}, "", "groups of 16"),
        ({**GPTQ, "desc_act": True}, "", "act-order"),
        ({**GPTQ, "desc_act": True, "static_groups": True}, "int4:g128", ""),
        ({**GPTQ, "bits": 8, "group_size": -1}, "int8", ""),
        ({**GPTQ, "bits": 8}, "", "int8 with groups of 128"),
        ({**GPTQ, "bits": 8, "group_size": -1, "sym": False}, "", "zero points"),
        (scheme("awq", 4, 64, False), "int4:g64", ""),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 128}, "int4:g128", ""),
        (scheme("pack-quantized", 4, 32, True), "int4:g32", ""),
        (scheme("int-quantized", 8, 0, True), "int8", ""),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8:block", ""),
    ],
)
def test_which_kernel_holds_a_format(config: dict[str, object], weight: str, says: str) -> None:
    stored = stored_format("x", config)
    assert stored.weight == weight and says in stored.misfit and bool(stored.misfit) != bool(weight)
    if weight and not weight.startswith("fp8"):
        assert resolve("", "fp16", checkpoint=stored).spec == f"bf16+stored:{weight}+threads:1"
    if not weight:
        with pytest.raises(NotSupported, match=r"dequantised"):
            resolve("", "fp16", checkpoint=stored)
        assert resolve("dequantised", "bf16", checkpoint=stored).spec == "bf16+dequantised+threads:1"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"quant_method": "bitsandbytes"}, "bitsandbytes"),
        ({"quant_method": "awq", "version": "gemv"}, "gemv"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "marlin"),
        ({**GPTQ, "dynamic": {r"+:.*down_proj": {"bits": 8}}}, "dynamic"),
        ({**GPTQ, "bits": 5}, "5 bits"),
        ({**GPTQ, "bits": "four"}, "bits"),
        ({**GPTQ, "group_size": 0}, "group_size"),
        ({**GPTQ, "dynamic": {"-:(": {}}}, "regular expression"),
        ({**GPTQ, "dynamic": {"-:(a+)+$": {}}}, "repeats"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "0 schemes"),
        ({"quant_method": "compressed-tensors"}, "config_groups"),
        ([1, 2], "object"),
        ({**scheme("pack-quantized", 4, 32, True), "format": "nvfp4-pack-quantized"}, "nvfp4"),
    ],
)
def test_what_is_not_read_is_named(config: object, says: str) -> None:
    with pytest.raises(RidgeError, match=says) as caught:
        stored_format("x", config)
    assert "x:" in str(caught.value)


CHECKPOINT = stored_format("x", GPTQ)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("", "bf16+stored:int4:g128"),
        ("stored", "bf16+stored:int4:g128"),
        ("bf16+stored:int4:g128", "bf16+stored:int4:g128"),
        ("dequantised", "fp16+dequantised"),
        ("fp32+dequantised", "fp32+dequantised"),
        ("int8", "bf16+dequantised+int8"),
        ("int4:gptq", "bf16+dequantised+int4:g32:gptq"),
        ("int8:layers=0-1", "bf16+stored:int4:g128+int8:layers=0-1"),
        ("dequantised+int4:g32:gptq:layers=0", "bf16+dequantised+int4:g32:gptq:layers=0"),
    ],
)
def test_sides_of_a_quantised_checkpoint(text: str, spec: str) -> None:
    side = resolve(text, "fp16", checkpoint=CHECKPOINT)
    assert side.spec == f"{spec}+threads:1"
    assert resolve(side.spec, "fp32", checkpoint=CHECKPOINT) == resolve(side.spec, "fp32") == side


@pytest.mark.parametrize(
    ("text", "says"),
    [("fp32", r"fp32\+dequantised"), ("int4:g32:gptq:layers=0", "choose codes anew"), ("stored:nf5", "nf5"),
     ("stored+dequantised", "both settle"), ("dequantised:int8", "no option")],
)  # fmt: skip
def test_sides_that_cannot_be(text: str, says: str) -> None:
    with pytest.raises(RidgeError, match=says):
        resolve(text, "fp16", checkpoint=CHECKPOINT)


@pytest.mark.parametrize("text", ["stored", "dequantised", "stored:int8"])
def test_a_plain_checkpoint_has_nothing_to_dequantise(text: str) -> None:
    model = load_model("pocket")
    with pytest.raises(NotSupported, match="pocket is not quantised"):
        resolve(text, model.dtype, checkpoint=model.stored).plan(model, decode(1, 8))


# --- broken files ---------------------------------------------------------------------------------------------------


def first(state: dict[str, torch.Tensor], leaf: str) -> str:
    return next(name for name in sorted(state) if name.endswith(f".{leaf}"))


def _changed(leaf: str, change):
    def broken(state: dict[str, torch.Tensor]) -> str:
        name = first(state, leaf)
        state[name] = change(state[name])
        return name

    return broken


def _dropped(leaf: str):
    def broken(state: dict[str, torch.Tensor]) -> str:
        name = first(state, leaf)
        del state[name]
        return name

    return broken


def _added(leaf: str, tensor: torch.Tensor):
    def broken(state: dict[str, torch.Tensor]) -> str:
        name = f"model.layers.0.mlp.down_proj.{leaf}"
        state[name] = tensor
        return name

    return broken


def nan(t: torch.Tensor) -> torch.Tensor:
    out = t.clone()
    out.view(-1)[3] = float("nan")
    return out


BROKEN = {
    "no scales": ("gptq", _dropped("scales"), "no tensor"),
    "no codes": ("awq", _dropped("qweight"), "no tensor"),
    "no shape": ("pack-quantized", _dropped("weight_shape"), "no tensor"),
    "no zero points": ("gptq", _dropped("qzeros"), "no tensor"),
    "codes cut": ("gptq", _changed("qweight", lambda t: t[:-1]), "config.json asks for"),
    "codes turned": ("awq", _changed("qweight", lambda t: t.t().contiguous()), "config.json asks for"),
    "scales of another group": ("gptq", _changed("scales", lambda t: t.repeat(2, 1)), "config.json asks for"),
    "codes as int64": ("gptq", _changed("qweight", lambda t: t.long()), "is int64; this layout has int32"),
    "codes as floats": ("pack-quantized", _changed("weight_packed", lambda t: t.float()), "is float32"),
    "scales as integers": ("awq", _changed("scales", lambda t: t.int()), "is int32"),
    "a scale that is no number": ("gptq", _changed("scales", nan), "not finite"),
    "an infinite scale": ("awq", _changed("scales", lambda t: t * float("inf")), "not finite"),
    "a negative scale": ("pack-quantized", _changed("weight_scale", lambda t: -t), "negative"),
    "a zero point beyond the codes": (
        "gptq",
        _changed("qzeros", lambda t: t | -1),
        "zero point 16; possible is 1 to 15",
    ),
    "zero points of symmetric codes": (
        "gptq_v2",
        _changed("qzeros", lambda t: t & 0),
        "zero point of symmetric codes 0",
    ),
    "a group that is not there": ("gptq", _changed("g_idx", lambda t: t + 7), "holds the group"),
    "act-order nobody told of": ("gptq", _changed("g_idx", lambda t: t.flip(0)), "puts input 0 into group"),
    "another shape": ("pack-quantized", _changed("weight_shape", lambda t: t + 1), "says"),
    "a code of more than 4 bits": ("naive-quantized", _changed("down_proj.weight", lambda t: t | 64), "holds the code"),
    "a bias nobody asked for": ("gptq", _added("bias", torch.ones(128)), "is not zero"),
    "a tensor of no place": ("gptq", _added("perm", torch.ones(4)), "has no place"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model in every layout, with a text long enough for an interval."""
    folder = tmp_path_factory.mktemp("whole")
    source = tiny(folder / "source")
    chosen = rounded(source=source)
    return {
        name: write(source, folder / name, name, chosen, True)
        for name in ("gptq", "gptq_v2", "awq", "pack-quantized", "naive-quantized")
    }


def broken_copy(source: Path, folder: Path, change) -> str:
    """The checkpoint with a change; the name of the tensor that it touches."""
    state = load_file(source / "model.safetensors")
    name = change(state)
    folder.mkdir(exist_ok=True)
    save_file({key: t.contiguous() for key, t in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    return name


def build(folder: Path, text: str = "") -> None:
    model = load_model(str(folder))
    directory = weights_directory(str(folder))
    build_weights(model, resolve(text, model.dtype, checkpoint=model.stored), decode(1, 8), {}, str(directory))


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_checkpoint_names_file_and_tensor(case: str, whole: dict[str, Path], tmp_path: Path) -> None:
    layout, change, says = BROKEN[case]
    name = broken_copy(whole[layout], tmp_path / "broken", change)
    with pytest.raises(BadInput) as caught:
        build(tmp_path / "broken")
    message = str(caught.value)
    assert name in message and str(tmp_path / "broken") in message and says in message
    assert "no tensor" in says or "model.safetensors" in message


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_truncated_and_flipped_files_say_so(whole: dict[str, Path], data: st.DataObject) -> None:
    """Any cut, and any byte of the header or of a tensor: read, or refused in one line; never a traceback."""
    source = whole[data.draw(st.sampled_from(sorted(whole)))]
    raw = bytearray((source / "model.safetensors").read_bytes())
    header = 8 + int.from_bytes(raw[:8], "little")
    cut = data.draw(st.booleans())
    if cut:
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, header - 1) | st.integers(0, len(raw) - 1))
            raw[at] ^= data.draw(st.integers(1, 255))
    folder = source.parent / "fuzzed"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    (folder / "model.safetensors").write_bytes(bytes(raw))
    try:
        build(folder)
    except RidgeError as error:
        assert str(error).isprintable() and str(folder) in str(error)
    else:
        assert not cut


# --- from the command line ------------------------------------------------------------------------------------------


TARGET = str(Path(__file__).parent / "data" / "test-target.calibrated.toml")


def test_why_of_a_quantised_directory(ridge, whole: dict[str, Path]) -> None:
    """Speed and accuracy of the checkpoint as it is stored beside its dequantised weights."""
    text = str(POCKET / "heldout.txt")
    ran = ridge("why", whole["awq"], "dequantised..stored", "--on", TARGET, "--isl", "16", "--batch", "1", "--seconds", "0.2",
                "--text", text, "--windows", "8", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    answer = json.loads(ran.out)
    assert answer["bet"]["a"]["spec"] == "bf16+dequantised+threads:1"
    assert answer["bet"]["b"][0]["spec"] == "bf16+stored:int4:g128+threads:1"
    assert answer["bet"]["random_weights"] is False and answer["points"][0]["measured_speedup"] > 0
    assert answer["accuracy"]["measured"] is True
    assert abs(answer["accuracy"]["sides"]["stored"]["difference"]) < 0.01


def test_commands_refuse_a_broken_checkpoint_in_one_line(ridge, whole: dict[str, Path], tmp_path: Path) -> None:
    _, change, _ = BROKEN["no scales"]
    name = broken_copy(whole["gptq"], tmp_path / "broken", change)
    ran = ridge("why", tmp_path / "broken", "dequantised..stored", "--on", TARGET, "--isl", "8", "--batch", "1",
                "--seconds", "0.2")  # fmt: skip
    assert ran.code == 2 and name in ran.complaint
    ran = ridge("measure", tmp_path / "broken", "--on", TARGET, "--isl", "8", "--batch", "1", "--seconds", "0.2")
    assert ran.code == 2 and name in ran.complaint
