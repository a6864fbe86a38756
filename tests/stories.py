"""Reads llama2.c's stories260K and its tokenizer, and writes them as a checkpoint that the engine loads."""

import json
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

SHARED = Path(__file__).resolve().parents[2] / "shared"
BIN, TOK = SHARED / "weights" / "stories260K.bin", SHARED / "weights" / "tok512.bin"


def write_checkpoint(folder):
    """config.json and model.safetensors; q and k rows go from llama2.c's pairs of neighbours to Hugging Face's halves."""
    data = BIN.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, length = struct.unpack("<7i", data[:28])
    values, at = np.frombuffer(data, "<f4", offset=28), 0

    def take(*shape):
        nonlocal at
        size = int(np.prod(shape))
        at += size
        return torch.from_numpy(values[at - size : at].reshape(shape).copy())

    head = dim // heads

    def halves(rows):
        return rows.view(-1, head // 2, 2, dim).transpose(1, 2).reshape(-1, dim).contiguous()

    kv = kv_heads * head
    tensors = {"model.embed_tokens.weight": take(vocab, dim)}
    parts = {
        "input_layernorm": (dim,), "self_attn.q_proj": (dim, dim), "self_attn.k_proj": (kv, dim),
        "self_attn.v_proj": (kv, dim), "self_attn.o_proj": (dim, dim), "post_attention_layernorm": (dim,),
        "mlp.gate_proj": (hidden, dim), "mlp.down_proj": (dim, hidden), "mlp.up_proj": (hidden, dim),
    }  # fmt: skip
    for name, shape in parts.items():
        stacked = take(layers, *shape)
        for i in range(layers):
            turned = name in ("self_attn.q_proj", "self_attn.k_proj")
            tensors[f"model.layers.{i}.{name}.weight"] = halves(stacked[i]) if turned else stacked[i].clone()
    tensors["model.norm.weight"] = take(dim)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    config = {
        "model_type": "llama", "hidden_size": dim, "intermediate_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab, "tie_word_embeddings": True,
        "max_position_embeddings": length, "torch_dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def pieces():
    """(score, bytes) of each token."""
    data, at, found = TOK.read_bytes(), 4, []
    while at < len(data):
        score, length = struct.unpack_from("<fi", data, at)
        found.append((score, data[at + 8 : at + 8 + length]))
        at += 8 + length
    return found


def encode(text):
    """Tokens of the text: bytes or characters joined, best score first (llama2.c's BPE), with a leading 1 (BOS)."""
    known = pieces()
    number = {piece: i for i, (_, piece) in reversed(list(enumerate(known)))}
    tokens = []
    for letter in " " + text:
        raw = letter.encode()
        tokens += [number[raw]] if raw in number else [b + 3 for b in raw]
    while True:
        pairs = [
            (known[number[joined]][0], i)
            for i in range(len(tokens) - 1)
            if (joined := known[tokens[i]][1] + known[tokens[i + 1]][1]) in number
        ]
        if not pairs:
            return [1, *tokens]
        best = max(pairs, key=lambda pair: pair[0])[1]
        tokens[best : best + 2] = [number[known[tokens[best]][1] + known[tokens[best + 1]][1]]]


def decode(tokens):
    """The text that tokens stand for."""
    known = pieces()
    return b"".join(known[t][1] for t in tokens if t > 2).decode(errors="replace")


@torch.inference_mode()
def told(model, decoder, count, length, seed):
    """Token windows [count, length] that the model itself tells, one token after the other, at temperature 1."""
    from ridgepoint.engine.cache import KvCache

    generator = torch.Generator().manual_seed(seed)
    tokens = torch.ones(count, 1, dtype=torch.long)
    cache = KvCache(decoder, count, length, "fp32")
    for i in range(length - 1):
        chances = model(tokens[:, -1:], cache, i).float().softmax(-1)
        tokens = torch.cat((tokens, torch.multinomial(chances, 1, generator=generator)), 1)
    return tokens
