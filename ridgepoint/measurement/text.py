"""Text as windows of tokens: by bytes or by the model's own tokenizer, cut by a protocol that has an id."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ridgepoint.errors import BadInput, NotSupported, UnknownName
from ridgepoint.measurement.request import TextRequest
from ridgepoint.measurement.tokens import tokens_of
from ridgepoint.workload import Decoder

__all__ = ["PROTOCOLS", "Protocol", "check_text", "text_tokens", "windows_of"]

_MOST_TEXT_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a text becomes windows of `length` tokens that do not overlap; the rest at its end is dropped."""

    length: int
    definition: str


PROTOCOLS: dict[str, Protocol] = {
    "windows": Protocol(
        256,
        "loss.windows256.v1: windows of 256 tokens that do not overlap, each token given those before it in its window",
    ),
    "gptq": Protocol(
        2048,
        "perplexity.gptq.v1: the whole text tokenised at once, windows of 2048 tokens that do not overlap, the rest dropped "
        "(Frantar et al., arXiv 2210.17323, its published evaluation)",
    ),
}
"""Perplexity is exp of the mean loss."""


def check_text(path: Path | None, protocol: str) -> None:
    """Refuse a protocol that does not exist and a text that is no file, before anything runs."""
    if protocol not in PROTOCOLS:
        raise UnknownName("protocol", protocol, PROTOCOLS)
    if path is not None and not path.is_file():
        raise BadInput(f"--text {path}: {'no file' if path.exists() else 'no such file'}; give a text file in UTF-8")


def windows_of(decoder: Decoder, directory: str, text: TextRequest) -> list[list[int]]:
    """Windows of tokens, drawn by the seed and in the order of the text; BadInput for a text without a whole one."""
    if text.protocol not in PROTOCOLS:
        raise UnknownName("protocol", text.protocol, PROTOCOLS)
    length = PROTOCOLS[text.protocol].length
    limit = decoder.max_position_embeddings
    if length > limit:
        raise NotSupported(f"{decoder.name} takes {limit} positions; the protocol {text.protocol} needs {length}")
    tokens = text_tokens(Path(text.path), Path(directory), decoder.vocab_size)
    count = len(tokens) // length
    if not count:
        raise BadInput(f"{text.path}: {len(tokens)} tokens; a window of the protocol {text.protocol} has {length}")
    chosen = sorted(random.Random(text.seed).sample(range(count), min(text.windows, count)))
    return [list(tokens[i * length : (i + 1) * length]) for i in chosen]


def text_tokens(path: Path, model: Path, vocabulary: int) -> Any:
    """Tokens of the file, a sequence of integers: bytes for a model of 256 of them without a tokenizer, else by its
    `tokenizer.json`."""
    try:
        if path.stat().st_size > _MOST_TEXT_BYTES:
            raise BadInput(f"{path}: more than {_MOST_TEXT_BYTES // 2**20} MiB of text; give a part of it")
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    if vocabulary == 256 and not (model / "tokenizer.json").is_file():
        _text_of(path, data)
        return data
    return tokens_of(model, vocabulary).encode(_text_of(path, data), True)


def _text_of(path: Path, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadInput(f"{path}: not UTF-8 text") from None
