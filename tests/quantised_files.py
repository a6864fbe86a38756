"""Writes quantised checkpoints as GPTQ's, AWQ's and compressed-tensors' published layouts describe them, word by word."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ridgepoint.workload import weights_directory

POCKET = weights_directory("pocket")

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


@dataclass
class Integers:
    """weight[n, k] = (q - zero[group]) * scale[group]; q and zero unsigned."""

    q: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    bits: int
    group: int

    def weight(self, group_of: torch.Tensor | None = None) -> torch.Tensor:
        k = self.q.shape[1]
        of = torch.arange(k) // (self.group or k) if group_of is None else group_of
        return (self.q.double() - self.zero.double()[:, of]) * self.scale.double()[:, of]


def integers(
    weight: torch.Tensor, bits: int, group: int, symmetric: bool, dtype: torch.dtype = torch.float16
) -> Integers:
    """Rounded to nearest, with integer zero points from 1 on, which every layout can hold."""
    n, k = weight.shape
    w, top = weight.double().reshape(n, -1, group or k), 2**bits - 1
    if symmetric:
        scale = (w.abs().amax(-1) / (2 ** (bits - 1) - 1)).clamp(min=1e-4).to(dtype)
        zero = torch.full_like(scale, 2 ** (bits - 1), dtype=torch.int32)
    else:
        low, high = w.amin(-1).clamp(max=0), w.amax(-1).clamp(min=0)
        scale = ((high - low) / top).clamp(min=1e-4).to(dtype)
        zero = (-low / scale.double()).round().clamp(1, top).int()
    q = (w / scale.double()[..., None]).round() + zero[..., None]
    return Integers(q.clamp(0, top).reshape(n, k).int(), scale, zero, bits, group)


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """values[r, c] -> int32[r, ceil(c bits / 32)]: the lowest bit of the first value is the lowest of the first word."""
    rows, columns = values.shape
    lowest_first = ((values.astype(np.uint8)[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1).reshape(rows, -1)
    padded = np.pad(lowest_first, ((0, 0), (0, -(columns * bits) % 32)))
    return np.packbits(padded, axis=1, bitorder="little").view("<i4")


def awq_packed(values: np.ndarray) -> np.ndarray:
    """values[r, n] -> int32[r, n/8]: nibble i of a word is column AWQ_ORDER[i] of eight."""
    rows, columns = values.shape
    words = np.zeros((rows, columns // 8), np.uint32)
    for word in range(columns // 8):
        for i, column in enumerate(AWQ_ORDER):
            words[:, word] |= values[:, 8 * word + column].astype(np.uint32) << np.uint32(4 * i)
    return words.view(np.int32)


def _int32(words: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(words))


def gptq_tensors(
    x: Integers, version: int = 1, group_of: torch.Tensor | None = None, bias: bool = False
) -> dict[str, torch.Tensor]:
    """`gptq` stores zero points less one."""
    n, k = x.q.shape
    zeros = (x.zero - (1 if version == 1 else 0)).t().numpy()
    of = torch.arange(k) // (x.group or k) if group_of is None else group_of
    found = {
        "qweight": _int32(packed(x.q.numpy(), x.bits).T),
        "qzeros": _int32(packed(zeros, x.bits)),
        "scales": x.scale.t().contiguous(),
        "g_idx": of.int(),
    }
    return {**found, "bias": torch.zeros(n, dtype=torch.float16)} if bias else found


def awq_tensors(x: Integers) -> dict[str, torch.Tensor]:
    return {
        "qweight": _int32(awq_packed(x.q.t().numpy())),
        "qzeros": _int32(awq_packed(x.zero.t().numpy())),
        "scales": x.scale.t().contiguous(),
    }


def packed_tensors(x: Integers, symmetric: bool) -> dict[str, torch.Tensor]:
    """compressed-tensors' pack-quantized."""
    found = {
        "weight_packed": _int32(packed(x.q.numpy(), x.bits)),
        "weight_scale": x.scale.clone(),
        "weight_shape": torch.tensor(x.q.shape),
    }
    return found if symmetric else {**found, "weight_zero_point": _int32(packed(x.zero.t().numpy(), x.bits).T)}


def plain_tensors(x: Integers, symmetric: bool) -> dict[str, torch.Tensor]:
    """compressed-tensors' int-quantized and naive-quantized."""
    middle = 2 ** (x.bits - 1)
    found = {"weight": (x.q - middle).to(torch.int8), "weight_scale": x.scale.clone()}
    return found if symmetric else {**found, "weight_zero_point": (x.zero - middle).to(torch.int8)}


def scheme(layout: str, bits: int, group: int, symmetric: bool, **more: object) -> dict[str, object]:
    """A `quantization_config`."""
    if layout in ("gptq", "gptq_v2"):
        return {"quant_method": "gptq", "bits": bits, "group_size": group or -1, "desc_act": False, "sym": symmetric,
                "checkpoint_format": layout, **more}  # fmt: skip
    if layout == "awq":
        return {"quant_method": "awq", "bits": bits, "group_size": group or -1, "zero_point": True, "version": "gemm",
                **more}  # fmt: skip
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group" if group else "channel",
               "group_size": group or None}  # fmt: skip
    return {"quant_method": "compressed-tensors", "format": layout, "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, **more}}}  # fmt: skip


def tensors(layout: str, x: Integers, symmetric: bool) -> dict[str, torch.Tensor]:
    if layout in ("gptq", "gptq_v2"):
        return gptq_tensors(x, 1 if layout == "gptq" else 2)
    if layout == "awq":
        return awq_tensors(x)
    return packed_tensors(x, symmetric) if layout == "pack-quantized" else plain_tensors(x, symmetric)


def write(
    source: Path, directory: Path, layout: str, chosen: dict[str, Integers], symmetric: bool, **more: object
) -> Path:
    """The checkpoint in `source` with the linear layers of `chosen` (by path) in `layout`, its other tensors as they are."""
    directory.mkdir(parents=True, exist_ok=True)
    first = next(iter(chosen.values()))
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = scheme(layout, first.bits, first.group, symmetric, **more)
    (directory / "config.json").write_text(json.dumps(config))
    state = load_file(source / "model.safetensors")
    for path, x in chosen.items():
        del state[f"{path}.weight"]
        state |= {f"{path}.{leaf}": tensor for leaf, tensor in tensors(layout, x, symmetric).items()}
    save_file(state, directory / "model.safetensors")
    for extra in source.glob("*.txt"):
        (directory / extra.name).write_bytes(extra.read_bytes())
    return directory


def paths(state: dict[str, torch.Tensor]) -> list[str]:
    """Of the linear layers of decoder layers."""
    return [n.removesuffix(".weight") for n in state if n.rpartition(".")[0].rpartition(".")[2] in LINEARS]


def rounded(
    bits: int = 4, group: int = 128, symmetric: bool = True, layers: int = 5, source: Path = POCKET
) -> dict[str, Integers]:
    state = load_file(source / "model.safetensors")
    return {
        p: integers(state[f"{p}.weight"], bits, group, symmetric) for p in paths(state) if int(p.split(".")[2]) < layers
    }


def tiny(folder: Path) -> Path:
    """Two layers of random weights, in the names of pocket."""
    config = json.loads((POCKET / "config.json").read_text())
    config |= {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    state, generator = {}, torch.Generator().manual_seed(7)
    for name, like in load_file(POCKET / "model.safetensors").items():
        if not name.startswith(("model.layers.2", "model.layers.3", "model.layers.4")):
            shape = tuple({256: 128, 640: 256}.get(size, size) for size in like.shape)
            shape = (256, 128) if "embed" in name else shape
            state[name] = torch.ones(shape).bfloat16() if len(shape) == 1 else (
                torch.randn(shape, generator=generator) * 0.05).bfloat16()  # fmt: skip
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 2}))
    return folder
