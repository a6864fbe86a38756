"""Memory of training steps in words: each item as predicted, and the peak as predicted and as counted."""

from collections.abc import Iterator

from ridgepoint.quantity import show_bytes
from ridgepoint.report.words import clean, signed
from ridgepoint.study.document import Answer, Bet, SideCard

__all__ = ["predicted_training_lines", "training_lines"]

_ITEMS = ("weights", "adapters", "gradients", "optimizer", "kept")
_WORDS = {"adapters": "of them adapters", "kept": "activations kept"}


def predicted_training_lines(bet: Bet) -> Iterator[tuple[str, str]]:
    """(side, items) of every side at the largest batch; none for a step that trains nothing."""
    for side in (bet.a, *bet.b):
        if side.memory_items:
            batch = max(side.memory_items, key=int)
            yield clean(side.text), f"at batch {batch}: {_items(side, batch)}"


def _items(side: SideCard, batch: str) -> str:
    items = side.memory_items[batch]
    parts = [f"{_WORDS.get(name, name)} {show_bytes(items[name])}" for name in _ITEMS if items.get(name)]
    return f"{', '.join(parts)}; at most {show_bytes(items['peak'])} at a time"


def training_lines(answer: Answer) -> Iterator[str]:
    """Predicted and counted peak of both sides at every measured point."""
    cards = {side.text: side for side in (answer.bet.a, *answer.bet.b)}
    for point in answer.points:
        for name, side in (("a", point.a), ("b", point.b)):
            held, card = point.held.get(name), cards.get(side)
            if not held or card is None or str(point.batch) not in card.memory_items:
                continue
            foretold = card.memory_items[str(point.batch)]["peak"]
            error = signed(foretold / held["peak"] - 1)
            kept = f"kept {show_bytes(held['kept'])}"
            yield (
                f"{clean(side)} at batch {point.batch}: peak {show_bytes(held['peak'])} counted, {show_bytes(foretold)} "
                f"predicted ({error}); {kept}"
            )
