"""The tokens of a model: bytes where it has 256 of them and no tokenizer, else those of its own `tokenizer.json`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ridgepoint.errors import BadInput, NotSupported

__all__ = ["Tokens", "tokens_of"]


@dataclass(frozen=True, slots=True)
class Tokens:
    """Text to token ids and back; `encode` takes the text and whether special tokens are added as the model wants them."""

    encode: Callable[[str, bool], list[int]]
    decode: Callable[[Sequence[int]], str]
    first: int
    """Stands before a text that has nothing before it: the model's `bos_token_id`, else `eos_token_id`, else a newline."""
    end: int | None
    """`eos_token_id`; None where the model has none."""
    first_is: str
    """Which of the three `first` is; part of a protocol's id."""


def tokens_of(model: Path, vocabulary: int) -> Tokens:
    """The tokens of the model in this directory; BadInput where it has more than bytes and no `tokenizer.json`."""
    rules = model / "tokenizer.json"
    if not rules.is_file():
        if vocabulary != 256:
            raise BadInput(f"{model}: no tokenizer.json there, so text cannot become its tokens")
        return Tokens(lambda text, _: list(text.encode()), _text_of_bytes, 10, None, "newline")
    tokenizer = _tokenizer(rules)

    def encode(text: str, special: bool) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=special).ids)

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    ends = config.get("eos_token_id")
    end = ends[0] if isinstance(ends, list) and ends else ends if isinstance(ends, int) else None
    begin = config.get("bos_token_id")
    if isinstance(begin, int):
        first, first_is = begin, "bos_token_id"
    elif end is not None:
        first, first_is = end, "eos_token_id"
    else:
        found = encode("\n", False)
        if not found:
            raise BadInput(f"{rules}: its model has no bos_token_id, no eos_token_id and no token for a newline")
        first, first_is = found[0], "newline"
    return Tokens(encode, lambda ids: str(tokenizer.decode(list(ids))), first, end, first_is)


def _text_of_bytes(ids: Sequence[int]) -> str:
    return bytes(ids).decode(errors="replace")


def _tokenizer(rules: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise NotSupported(
            "reading tokenizer.json needs the package tokenizers; pip install 'ridgepoint[hub]'"
        ) from None
    try:
        return Tokenizer.from_file(str(rules))
    except Exception as error:  # the library raises a bare Exception for a malformed file
        raise BadInput(f"{rules}: {str(error)[:200]}") from None
