"""Bytes of weights on one device: each matrix in its format, sliced or repeated as the split says."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ridgepoint.errors import NotSupported
from ridgepoint.prediction.capacity_split import Split, Stage
from ridgepoint.workload import DTYPE_BYTES, Block, Decoder, Linear, Op, Plan, Pointwise, Role, decode, format_named

__all__ = ["PARTS", "Stored", "largest_layer", "layer_weights", "outer_weights", "stage_weights", "summed"]

PARTS = ("embedding", "attention", "feed-forward", "experts", "router", "norms", "head")
_UNQUANTISED = ("router", "shared_gate")
"""Layers that quantised checkpoints of mixtures leave in the base dtype; they decide which expert a token takes."""
_REPEATED = ("q_a_proj", "kv_a_proj", *_UNQUANTISED)
"""Projections that every device of a tensor-parallel group holds whole: their outputs are small and all devices need them."""
_KEYS_VALUES = ("k_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class Stored:
    """What one device holds of one part in one format; `adapter` is r(n + k) of its matrices, for r = 1 (LoRA)."""

    part: str
    form: str
    elements: float
    bytes: float
    adapter: float = 0.0
    largest: float = 0.0
    """Elements of its largest single matrix."""


def layer_weights(model: Decoder, block: Block, plan: Plan, split: Split) -> tuple[Stored, ...]:
    """One layer of a block. Its rewrites are those of the plan, which routers are spared."""
    found: list[Stored] = []
    for op in block.ops(decode(1, 1), model.hidden_size, plan.dtype):
        if isinstance(op, Linear):
            kept = op if op.name in _UNQUANTISED else _rewritten(plan, op)
            found.append(_matrix(kept, block, split))
        elif isinstance(op, Pointwise) and op.weight_bytes:
            width = DTYPE_BYTES[plan.dtype]
            found.append(Stored("norms", plan.dtype, float(op.weight_bytes) / width, float(op.weight_bytes)))
    return summed(found)


def outer_weights(model: Decoder, plan: Plan, split: Split, first: bool, last: bool) -> tuple[Stored, ...]:
    """Tables before the layers, on the first stage, and norm and head behind them, on the last.

    The vocabulary is sliced by tp (Megatron-LM, arXiv 1909.08053, section 3). A tied head is the table itself, unless the
    two stand on different stages or a choice stores the head in another format.
    """
    dtype, width = plan.dtype, DTYPE_BYTES[plan.dtype]
    inner = model.embedding_size or model.hidden_size
    vocab = -(-model.vocab_size // split.tp)
    found: list[Stored] = []
    if first:
        elements = float(vocab * inner) + model.positions * model.hidden_size
        found.append(Stored("embedding", dtype, elements, elements * width))
        if model.embedding_size:
            found.append(_outer("embedding", plan, "project_in", "other", model.hidden_size, inner))
    if last:
        if model.final_norm:
            norm = float(model.hidden_size * (2 if model.norm == "layer_norm" else 1))
            found.append(Stored("norms", dtype, norm, norm * width))
        head = _outer("head", plan, "lm_head", "head", vocab, inner)
        if not (model.tie_word_embeddings and first and head.form == dtype):
            found.append(head)
        if model.embedding_size:
            found.append(_outer("head", plan, "project_out", "other", inner, model.hidden_size))
    return summed(found)


def stage_weights(
    model: Decoder, stage: Stage, plan: Plan, split: Split, first: bool, last: bool
) -> tuple[Stored, ...]:
    """All that one device of the stage holds, by part and format."""
    layers = [_times(stored, count) for block, count in stage for stored in layer_weights(model, block, plan, split)]
    return summed([*layers, *outer_weights(model, plan, split, first, last)])


def largest_layer(model: Decoder, stage: Stage, plan: Plan, split: Split) -> float:
    """Elements of the largest layer of the stage on one device."""
    return max(sum(x.elements for x in layer_weights(model, block, plan, split)) for block, _ in stage)


def summed(stored: Iterable[Stored]) -> tuple[Stored, ...]:
    """One entry for each part and format, in the order of `PARTS`."""
    rows: dict[tuple[str, str], Stored] = {}
    for x in stored:
        old = rows.get((x.part, x.form), Stored(x.part, x.form, 0.0, 0.0))
        rows[x.part, x.form] = Stored(
            x.part, x.form, old.elements + x.elements, old.bytes + x.bytes, old.adapter + x.adapter,
            max(old.largest, x.largest),
        )  # fmt: skip
    return tuple(sorted(rows.values(), key=lambda x: PARTS.index(x.part)))


def _outer(part: str, plan: Plan, name: str, role: Role, n: int, k: int) -> Stored:
    """A matrix outside the layers, in the format that the plan's choices give it."""
    op = _rewritten(plan, Linear(name, role, 1, n, k, plan.dtype, plan.dtype))
    return Stored(part, op.weight, float(n * k), float(op.stored_bytes), n + k, float(n * k))


def _times(stored: Stored, count: int) -> Stored:
    return replace(stored, elements=count * stored.elements, bytes=count * stored.bytes, adapter=count * stored.adapter)


def _rewritten(plan: Plan, op: Linear) -> Linear:
    kept: Op = op
    for rewrite in plan.rewrites:
        new = rewrite(kept)
        if isinstance(new, tuple):
            raise NotSupported("formats of some layers only are not itemised here; `ridge predict` has their memory")
        kept = new
    assert isinstance(kept, Linear), "a choice of weights keeps a linear layer linear"
    return kept


def _matrix(op: Linear, block: Block, split: Split) -> Stored:
    """A linear layer on one device: outputs sliced, or inputs where it leads out of attention or feed-forward layer."""
    n, k, experts = int(op.n), int(op.k), op.experts
    biases = n if op.bias else 0
    if op.experts > 1:
        experts, n, k = -(-op.experts // split.ep), *_sliced(op, n, k, split.expert_tp)
        biases = (n if op.bias else 0) * experts
    elif op.name in _REPEATED:
        pass
    elif op.name in _KEYS_VALUES or op.name == "qkv_proj":
        n = _heads_out(op, block, split.tp)
        biases = n if op.bias else 0
    else:
        n, k = _sliced(op, n, k, split.tp)
        biases = n if op.bias else 0
    size = float(format_named(op.weight).weight_bytes(n, k)) * experts + biases * DTYPE_BYTES[op.dtype]
    return Stored(_part(op), op.weight, float(n * k * experts + biases), size, (n + k) * experts, float(n * k))


def _sliced(op: Linear, n: int, k: int, tp: int) -> tuple[int, int]:
    return (n, k // tp) if op.role in ("attention.out", "mlp.out") else (n // tp, k)


def _heads_out(op: Linear, block: Block, tp: int) -> int:
    """Outputs of a projection to keys or values, of which each device keeps at least one head."""
    attention = block.attention
    kept = max(1, attention.num_key_value_heads // tp) * attention.head_dim
    return attention.num_attention_heads // tp * attention.head_dim + 2 * kept if op.name == "qkv_proj" else kept


def _part(op: Linear) -> str:
    if op.name in _UNQUANTISED:
        return "router"
    if op.experts > 1:
        return "experts"
    return "attention" if op.role.startswith("attention") else "feed-forward"
