"""Trains `pocket`, the small causal language model that ships with the package, on Python's own standard library.

    python scripts/train_pocket.py --out DIR [--minutes 60] [--threads 2]
    python scripts/train_pocket.py --out DIR --calibration
    python scripts/train_pocket.py --out tests/data/eight --layers 8 --hidden 64 --minutes 12 --fp32

Bytes are tokens. Every 40th file (by the hash of its path) is held out; the first 96 KiB of those become heldout.txt.
DIR gets config.json, model.safetensors (bf16), heldout.txt, training.json (what was trained on, and the losses) and
calibration.txt, pieces of the training text by which quantisers choose codes; --calibration writes that file alone.
"""

import argparse
import hashlib
import json
import math
import platform
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import torch
import transformers

CONFIG = {
    "vocab_size": 256, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 5, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 512, "tie_word_embeddings": True,
    "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
LENGTH, BATCH, RATE, WARMUP_SHARE = 256, 24, 2e-3, 0.02
HELD_OUT_BYTES = 96 * 1024
PIECES, PIECE_BYTES = 128, 512
EVERY = 40
_LEFT_OUT = {"test", "tests", "site-packages", "encodings"}
"""Folders without prose or program: tests, other people's packages, and tables of characters."""


def main() -> None:
    """Train for a number of minutes, then evaluate and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calibration", action="store_true")
    parser.add_argument("--layers", type=int, default=CONFIG["num_hidden_layers"])
    parser.add_argument(
        "--hidden", type=int, default=CONFIG["hidden_size"], help="the feed-forward layer is 2.5 as wide"
    )
    parser.add_argument("--fp32", action="store_true", help="where bf16 is slow")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    train, held_out, about = corpus()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "calibration.txt").write_bytes(calibration(train))
    if options.calibration:
        return
    shape = {"num_hidden_layers": options.layers, "hidden_size": options.hidden,
             "intermediate_size": options.hidden * 5 // 2, "head_dim": options.hidden // 4}  # fmt: skip
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**CONFIG, **shape}))
    losses = fit(model, train, options.minutes * 60, not options.fp32)
    model = model.to(torch.bfloat16).float().eval()
    loss = evaluate(model, held_out)
    sys.stdout.write(f"held-out loss {loss:.4f} nats a byte, {loss / math.log(2):.3f} bits\n")
    write(options.out, model, held_out, {**about, "losses": losses, "held_out_nats_per_byte": loss})


def corpus() -> tuple[np.ndarray, bytes, dict[str, object]]:
    """Bytes to train on, held-out bytes, and where they come from."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [p for p in sorted(root.rglob("*.py")) if not _LEFT_OUT & set(p.parts)]
    rest, held = [], []
    for path in files:
        name = path.relative_to(root).as_posix()
        chosen = int(hashlib.sha256(name.encode()).hexdigest(), 16) % EVERY == 0
        (held if chosen else rest).append(path.read_bytes())
    text, held_text = b"\x00".join(rest), b"\x00".join(held)[:HELD_OUT_BYTES]
    about = {
        "python": platform.python_version(), "files": len(rest), "bytes": len(text),
        "sha256": hashlib.sha256(text).hexdigest(), "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip
    sys.stdout.write(f"{about}\n")
    return np.frombuffer(text, np.uint8), held_text, about


def calibration(text: np.ndarray) -> bytes:
    """Pieces of the training text, drawn by a seed; bytes beyond ASCII are left out, so that any cut is UTF-8."""
    starts = np.sort(np.random.default_rng(1).integers(0, len(text) - PIECE_BYTES, PIECES))
    return bytes(b for s in starts for b in text[s : s + PIECE_BYTES].tobytes() if b < 128)


def fit(model: torch.nn.Module, text: np.ndarray, seconds: float, half: bool) -> list[float]:
    """AdamW with a warm-up and a cosine by time; returns the mean loss of each hundred steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    random, begin, losses, recent = np.random.default_rng(0), time.monotonic(), list[float](), list[float]()
    while (share := (time.monotonic() - begin) / seconds) < 1.0:
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(share / WARMUP_SHARE + 0.01, 0.5 * (1 + math.cos(math.pi * share)) + 0.02)
        starts = random.integers(0, len(text) - LENGTH - 1, BATCH)
        block = torch.from_numpy(np.stack([text[s : s + LENGTH + 1] for s in starts]).astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(block[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.float().reshape(-1, 256), block[:, 1:].reshape(-1))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        recent.append(float(loss.detach()))
        if len(recent) == 100:
            losses.append(round(sum(recent) / 100, 4))
            recent.clear()
            sys.stdout.write(f"{len(losses) * 100:6d} steps, {100 * share:3.0f} %: {losses[-1]}\n")
            sys.stdout.flush()
    return losses


@torch.no_grad()
def evaluate(model: torch.nn.Module, text: bytes) -> float:
    """Mean loss in nats per byte over windows of LENGTH, each byte with what stands before it in its window."""
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    windows = data[: len(data) // LENGTH * LENGTH].view(-1, LENGTH)
    total = 0.0
    for block in windows.split(32):
        logits = model(block[:, :-1]).logits
        total += float(torch.nn.functional.cross_entropy(logits.reshape(-1, 256), block[:, 1:].reshape(-1))) * len(
            block
        )
    return total / len(windows)


def write(folder: Path, model: transformers.PreTrainedModel, held_out: bytes, about: dict[str, object]) -> None:
    """The files that the package ships."""
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "heldout.txt").write_bytes(held_out)
    (folder / "training.json").write_text(json.dumps(about, indent=1))


if __name__ == "__main__":
    main()
