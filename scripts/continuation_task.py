"""Build the local task `continuation` from the text that ships with pocket: which of four continuations is the real one.

python scripts/continuation_task.py tests/data/tasks/continuation/items.jsonl
"""

import json
import random
import sys
from pathlib import Path

from ridgepoint.workload import heldout_text

ITEMS, CONTEXT, LENGTH, NEAR, SEED = 240, 64, 48, 4096, 0
"""Wrong continuations start within `NEAR` bytes of the right one, so that they speak of the same things."""


def items(text: str) -> list[dict[str, object]]:
    """`ITEMS` places of the text with `CONTEXT` characters before, the right and three wrong continuations in random order."""
    draw = random.Random(SEED)
    starts = range(CONTEXT, len(text) - LENGTH)
    out: list[dict[str, object]] = []
    for at in sorted(draw.sample(starts, ITEMS)):
        near = [s for s in range(at - NEAR, at + NEAR) if s in starts and abs(s - at) > LENGTH]
        places = [at, *draw.sample(near, 3)]
        draw.shuffle(places)
        choices = [text[s : s + LENGTH] for s in places]
        out.append({"context": text[at - CONTEXT : at], "choices": choices, "answer": places.index(at)})
    return out


def main() -> None:
    """Write the items to the file that is named."""
    source = heldout_text("pocket")
    if source is None or len(sys.argv) != 2:
        raise SystemExit(__doc__)
    text = source.read_text(encoding="ascii", errors="ignore")
    Path(sys.argv[1]).write_text("".join(json.dumps(item) + "\n" for item in items(text)), encoding="utf-8")


if __name__ == "__main__":
    main()
