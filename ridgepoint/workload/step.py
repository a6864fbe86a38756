"""One step of a model: which sequences take part, with how many new and how many cached tokens each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ridgepoint.errors import BadInput
from ridgepoint.quantity import Array

__all__ = ["Group", "Phase", "Step", "decode", "forward", "mixed", "prefill", "train"]

Phase = Literal["decode", "prefill", "mixed", "forward", "train"]


@dataclass(frozen=True, slots=True)
class Group:
    """`count` sequences that each add `new` tokens to `cached` ones; scalars, or arrays that broadcast."""

    count: Array
    new: Array
    cached: Array

    def __post_init__(self) -> None:
        for name in ("count", "new", "cached"):
            value = getattr(self, name)
            if isinstance(value, np.ndarray | np.generic):  # products of 32-bit counts would overflow
                object.__setattr__(self, name, value.astype(np.float64))

    @property
    def tokens(self) -> Array:
        """New tokens of the whole group."""
        return self.count * self.new

    @property
    def attended(self) -> Array:
        """Query-key pairs under a causal mask: each new token sees the cached ones and those before it."""
        return self.pairs()

    def pairs(self, window: int = 0, causal: bool = True) -> Array:
        """Query-key pairs of the whole group. `window`: a token sees at most so many keys, itself included (0: all);
        not causal: each new token sees all keys."""
        if not causal:
            return self.count * self.new * self.context
        if not window:
            return self.count * self.new * (self.cached + (self.new + 1) / 2)
        growing = np.clip(window - np.asarray(self.cached, float), 0, self.new)  # tokens that see less than the window
        inside = growing * (self.cached + (growing + 1) / 2)
        return self.count * (inside + (self.new - growing) * window)

    def keys(self, window: int = 0) -> Array:
        """Keys per sequence that the new tokens see together: with a window, its own and those of the first of them."""
        return np.minimum(self.context, window - 1 + self.new) if window else self.context

    @property
    def context(self) -> Array:
        """Keys per sequence after the step."""
        return self.cached + self.new


@dataclass(frozen=True, slots=True)
class Step:
    """A forward pass (`train`: forward, both gradients, optimizer) over groups of like sequences.

    A sweep is a step whose groups hold arrays: batch, new and cached broadcast against each other.
    `logits` says for which tokens the head is computed: the last of each sequence, or all.
    """

    phase: Phase
    groups: tuple[Group, ...]
    logits: Literal["last", "all"] = "last"

    @property
    def sequences(self) -> Array:
        """Number of sequences (the batch)."""
        return sum((g.count for g in self.groups), start=0.0)

    @property
    def tokens(self) -> Array:
        """New tokens: the m of every linear layer but the head's."""
        return sum((g.tokens for g in self.groups), start=0.0)

    @property
    def head_tokens(self) -> Array:
        """Tokens whose logits are computed: the m of the head."""
        return self.sequences if self.logits == "last" else self.tokens

    def with_batch(self, batch: Array) -> "Step":
        """The same step with another number of like sequences; only for a step of one group."""
        if len(self.groups) != 1:
            raise BadInput("a mixed step has no single batch; give the new and cached tokens of each sequence")
        return replace(self, groups=(replace(self.groups[0], count=batch),))

    def __str__(self) -> str:
        parts = [f"{_num(g.count)}x(new {_num(g.new)}, cached {_num(g.cached)})" for g in self.groups]
        return f"{self.phase} {' + '.join(parts)}"


def decode(batch: Array, context: Array) -> Step:
    """Each of `batch` sequences adds one token to `context` cached ones."""
    return Step("decode", (Group(batch, 1, context),))


def prefill(batch: Array, new: Array, cached: Array = 0) -> Step:
    """Each of `batch` sequences adds a prompt (or a chunk of it) of `new` tokens; logits of the last only."""
    return Step("prefill", (Group(batch, new, cached),))


def forward(batch: Array, new: Array) -> Step:
    """`prefill` without a cache and with the logits of every token, as for scoring text."""
    return Step("forward", (Group(batch, new, 0),), logits="all")


def train(batch: Array, new: Array) -> Step:
    """Forward, gradients of inputs and of weights, and the optimizer's update, on `batch` sequences of `new` tokens."""
    return Step("train", (Group(batch, new, 0),), logits="all")


def mixed(new: Sequence[int], cached: Sequence[int]) -> Step:
    """One continuous-batching step: `new[i]` and `cached[i]` tokens of sequence i (prefill chunks and decodes)."""
    if len(new) != len(cached) or not len(new):
        raise BadInput(
            f"a mixed step needs as many cached as new counts, and at least one; got {len(new)} and {len(cached)}"
        )
    pairs, counts = np.unique(np.stack([np.asarray(new), np.asarray(cached)], axis=1), axis=0, return_counts=True)
    if (pairs[:, 0] < 1).any() or (pairs[:, 1] < 0).any():
        raise BadInput("each sequence of a mixed step needs at least 1 new token and at least 0 cached ones")
    return Step("mixed", tuple(Group(int(c), int(n), int(k)) for (n, k), c in zip(pairs, counts, strict=True)))


def _num(value: Array) -> str:
    return f"{value:g}" if np.ndim(value) == 0 else f"[{np.min(value):g}…{np.max(value):g}]"
