"""A decoder of the engine as the language model that lm-eval asks; imports lm-eval, so it is imported only where tasks run.

Shapes: B sequences at once, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ridgepoint.engine.cache import KvCache
from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.measurement.tokens import Tokens
from ridgepoint.workload import Decoder

__all__ = ["EngineLM", "Scored"]

_ROWS = 4096
"""Tokens in one forward pass, where one sequence is not longer."""
_NEW = 256
"""Tokens that are generated at most where a task does not say, as lm-eval's own models do."""

Scored = tuple[float, bool]
"""Sum of log p of a continuation's tokens in nats, and whether each of them is the most likely one."""


@dataclass(frozen=True, slots=True)
class _Row:
    """The last `new` of `ids` are scored, each given those before it."""

    ids: tuple[int, ...]
    new: int


class EngineLM(TemplateLM):
    """Log-likelihoods and greedy texts of one model of `engine.models`, in its own tokens.

    A context that is too long for the `positions` that the model was built for loses its beginning. `dtype` is that of the
    KV cache.
    Ignored: chat templates; sampling is refused (NotSupported), since its items would not pair.
    """

    def __init__(self, model: Any, decoder: Decoder, dtype: str, tokens: Tokens, positions: int):
        super().__init__()
        self._model, self._decoder, self._dtype, self._tokens = model, decoder, dtype, tokens
        self._limit = positions

    @property
    def eot_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        return self._tokens.first

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids, with the tokenizer's own special tokens unless told otherwise."""
        return self._tokens.encode(string, add_special_tokens is not False)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[Scored]:
        """(log p in nats, whether greedy) of each continuation given its context, without the library's progress bar."""
        return super().loglikelihood(requests, disable_tqdm=True)

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = True
    ) -> list[Scored]:
        return self._scored([self._row(context, new) for _, context, new in requests])

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[float]:
        """log p of each whole text in nats, in windows of as many positions; the last has its full context."""
        sums = []
        for request in requests:
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self._limit, 1)
            rows = [self._row(*make_disjoint_window(window)) for window in windows]
            sums.append(sum(value for value, _ in self._scored(rows)))
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[str]:
        """The most likely next token again and again, up to the first of the stop texts, which is cut off."""
        return [self._generated(*request.args) for request in requests]

    def _row(self, context: list[int], new: list[int]) -> _Row:
        if len(new) > self._limit:
            raise NotSupported(
                f"{self._decoder.name} is asked with up to {self._limit} positions; a continuation of the task has "
                f"{len(new)} tokens"
            )
        return _Row(tuple([*context, *new][-(self._limit + 1) :]), len(new))

    @torch.inference_mode()
    def _scored(self, rows: Sequence[_Row]) -> list[Scored]:
        """In blocks of rows of like length, padded behind, where no causal model looks."""
        out: list[Scored] = [(0.0, True)] * len(rows)
        order = sorted((i for i, row in enumerate(rows) if row.new), key=lambda i: -len(rows[i].ids))
        while order:
            longest = len(rows[order[0]].ids) - 1
            take = max(1, _ROWS // longest)
            block, order = order[:take], order[take:]
            padded = [[*rows[i].ids[:-1], *[0] * (longest + 1 - len(rows[i].ids))] for i in block]
            logits_BTV = self._model(torch.tensor(padded), self._cache(len(block), longest), 0, "all")
            for at, i in enumerate(block):
                out[i] = _likelihood(logits_BTV[at], rows[i])
        return out

    def _cache(self, batch: int, length: int) -> KvCache:
        return KvCache(self._decoder, batch, length, self._dtype)

    @torch.inference_mode()
    def _generated(self, context: str, settings: dict[str, Any]) -> str:
        if settings.get("do_sample") or settings.get("temperature"):
            raise NotSupported("the task samples its answers; ridge takes the most likely token, so that items pair")
        stops = settings.get("until") or []
        stops = [stops] if isinstance(stops, str) else [s for s in stops if s]
        most = min(int(settings.get("max_gen_toks", _NEW)), self._limit - 1)
        if most < 1:
            raise BadInput(f"max_gen_toks is {most}; a task that generates takes at least one token")
        ids = (self.tok_encode(context) or [self._tokens.first])[-(self._limit - most) :]
        cache = self._cache(1, len(ids) + most)
        new: list[int] = []
        feed, position = torch.tensor([ids]), 0
        while len(new) < most:
            token = int(self._model(feed, cache, position, "last")[0].argmax())
            position += feed.shape[1]
            if token == self._tokens.end:
                break
            new.append(token)
            text = self._tokens.decode(new)
            if found := [at for s in stops if (at := text.find(s)) >= 0]:
                return text[: min(found)]
            feed = torch.tensor([[token]])
        return self._tokens.decode(new)


def _likelihood(logits_TV: torch.Tensor, row: _Row) -> Scored:
    end = len(row.ids) - 1
    log_NV = logits_TV[end - row.new : end].float().log_softmax(-1)
    wanted_N = torch.tensor(row.ids[-row.new :])
    value = log_NV.gather(-1, wanted_N[:, None]).double().sum()
    return float(value), bool((log_NV.argmax(-1) == wanted_N).all())
