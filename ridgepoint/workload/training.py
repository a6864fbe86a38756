"""A training step on paper: the forward operators, the loss, their gradients, and the optimizer's update."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ridgepoint.quantity import Array
from ridgepoint.workload.adapter import adapted, bare, rank_parameters, thin
from ridgepoint.workload.collective import Collective
from ridgepoint.workload.op import POINTWISE, Attention, Linear, Op, Pointwise

__all__ = ["layer_ops", "trained_parameters", "training_ops"]

_Gradient = tuple[Op, bool]
"""An operator, and whether it gives the gradient of its layer's input: the first layer may do without it."""


def training_ops(
    forward: tuple[Op, ...], parameters: int, recompute: bool = False, tied: bool = False
) -> tuple[Op, ...]:
    """Forward, loss, gradients of inputs and weights in reverse order, then AdamW over what is trained.

    `forward` says of each operator whether it is trained and the rank of its adapter; `parameters` are those of the model.
    Each linear costs two more products of its own size: dX[m, k] = dY W and, if it is trained, dW[n, k] = dYᵀ X. A frozen
    one with an adapter has both only for the two thin products. Where several operators read one tensor, their gradients
    are added. Nothing in front of the first trained operator has a gradient; calls of the first layer are rows of their own
    (`q_proj.dx.first`), because that is where models with a frozen embedding end.
    `recompute`: layers keep their input only and run forward again before their gradients (Chen et al. 2016, arXiv
    1604.06174), up to the last operator that keeps something. `tied`: the head is the token table, whose two gradients are
    added. Ignored: gradient clipping, dropout, loss scaling.
    """
    forward = tuple(op for op in forward if op.role != "cache")  # a training step has none
    head = next((op for op in forward if op.role == "head" and isinstance(op, Linear)), None)
    loss = (Pointwise("loss", "head", "cross_entropy", head.m, head.n, head.dtype),) if head is not None else ()
    again = {id(op) for op in layer_ops(forward)} if recompute else set()
    reached, early = _reached(forward), _early(forward)
    gradients: list[Op] = [replace(op, name=f"{op.name}.grad", sweep="grad_input") for op in loss]
    redone = [_redone(part) for op in _kept_last(forward, again) for part in adapted((op,))]
    redone += [_hooks(forward, again)] if redone else []
    for number in range(len(forward) - 1, -1, -1):
        op = forward[number]
        if redone and id(op) in again:
            gradients += redone
            redone = []
        gradients += _split_first(_gradients(forward, number), reached[number], number < early)
    both = _table_sum(forward) if tied else ()
    return (*adapted(forward), *loss, *gradients, *both, _update(forward, parameters))


def _table_sum(forward: Sequence[Op]) -> tuple[Op, ...]:
    head = next((op for op in forward if op.role == "head" and isinstance(op, Linear)), None)
    if head is None or not head.trained:
        return ()
    return (_sum("tied", head.n, head.k, replace(head, count=1)),)


def layer_ops(forward: Sequence[Op]) -> tuple[Op, ...]:
    """Operators inside the layers: behind the embedding, and before the last norm and the head."""
    start = next((i for i, op in enumerate(forward) if op.role in ("norm", "attention.in", "attention.core")), 0)
    end = max((i for i, op in enumerate(forward) if op.role == "residual"), default=len(forward) - 1)
    return tuple(forward[start : end + 1])


def trained_parameters(forward: Sequence[Op], parameters: int) -> float:
    """Elements that the optimizer updates: all of the model's, or those of the adapters."""
    frozen = any(isinstance(op, Linear | Pointwise) and not op.trained for op in forward)
    return rank_parameters(forward) if frozen else float(parameters)


def _reached(forward: Sequence[Op]) -> list[str]:
    """How far gradients reach, for each operator: "all" its calls, "later" layers only, or "none"."""
    reached, moving = [], False
    group: tuple[object, ...] | None = None
    for op in forward:
        trains = _trains(op)
        same = isinstance(op, Linear) and group == (op.role, op.count)
        if moving and not same:
            reached.append("all")
            continue
        # the first operators that train have inputs without a gradient; in later layers, of the same rows, they have one
        reached.append("later" if isinstance(op, Linear) or op.count > 1 else "none")
        if trains:
            moving = True
            group = (op.role, op.count) if isinstance(op, Linear) else None
            if not isinstance(op, Linear):
                reached[-1] = "all"
    return reached


def _trains(op: Op) -> bool:
    if isinstance(op, Linear):
        return op.trained or op.rank > 0
    return isinstance(op, Pointwise) and op.trained and (op.kind == "embedding" or bool(POINTWISE[op.kind].weights))


def _early(forward: Sequence[Op]) -> int:
    """How many operators there are up to the first layer's projections: what a frozen embedding can spare."""
    start = next((i for i, op in enumerate(forward) if isinstance(op, Linear)), 0)
    role = forward[start].role
    behind = (i for i in range(start, len(forward)) if not isinstance(forward[i], Linear) or forward[i].role != role)
    return next(behind, len(forward))


def _split_first(gradients: Sequence[_Gradient], reached: str, early: bool) -> Iterator[Op]:
    """Gradients of an operator's input, of `early` ones the first layer's in a row of its own, if it is wanted at all."""
    for op, of_input in gradients:
        first = early and op.count > 1
        if not of_input:
            yield op
        elif reached == "all":
            yield replace(op, count=op.count - first)  # type: ignore[type-var]
            if first:
                yield replace(op, name=f"{op.name}.first", count=1)  # type: ignore[type-var]
        elif reached == "later" and first:
            yield replace(op, count=op.count - 1)  # type: ignore[type-var]


def _gradients(forward: Sequence[Op], number: int) -> tuple[_Gradient, ...]:
    op = forward[number]
    if isinstance(op, Linear):
        return (*_linear_gradients(op), *_sums(forward, number))
    if isinstance(op, Attention | Collective):
        return ((replace(op, name=f"{op.name}.grad", sweep="grad_input"), True),)
    assert isinstance(op, Pointwise), f"no gradient rule for {op}"
    plain = bare(op)
    assert isinstance(plain, Pointwise)
    if op.kind == "embedding":
        return ((replace(plain, name=f"{op.name}.dw", sweep="grad_weight"), False),) if op.trained else ()
    if op.role == "residual":  # its own gradients are views; that of the stream is added to that of the layer beside it
        return ((_sum(op.name, op.rows, op.cols, op), True),)
    rows: list[_Gradient] = [(replace(plain, name=f"{op.name}.grad", sweep="grad_input"), True)]
    if op.trained and POINTWISE[op.kind].weights:
        rows.append((replace(plain, name=f"{op.name}.dw", kind="norm_weight", sweep="grad_weight"), False))
    return tuple(rows)


def _linear_gradients(op: Linear) -> tuple[_Gradient, ...]:
    plain = bare(op)
    assert isinstance(plain, Linear)
    own = _products(plain, trained=op.trained)
    if not op.rank:
        return own
    down, up, add = thin(op)
    scaled = replace(add, name=f"{add.name}.grad", sweep="grad_input")
    behind = tuple(
        (x, False) for x, _ in _products(up, trained=True)
    )  # towards A, which is trained in the first layer too
    return ((scaled, False), *behind, *_products(down, trained=True), *own, (_sum(op.name, op.m, op.k, op), True))


def _products(op: Linear, trained: bool) -> tuple[_Gradient, ...]:
    dx = replace(op, name=f"{op.name}.dx", n=op.k, k=op.n, bias=False, sweep="grad_input")
    if not trained:
        return ((dx, True),)
    dw = replace(
        op, name=f"{op.name}.dw", m=op.n, n=op.k, k=op.m, weight=op.dtype, kernel="", bias=False, sweep="grad_weight"
    )
    return (dx, True), (dw, False)


def _sums(forward: Sequence[Op], number: int) -> tuple[_Gradient, ...]:
    """Of the layers that read one tensor each but one adds its gradient to those of the others."""
    op = forward[number]
    before = forward[number - 1] if number else None
    if isinstance(op, Linear) and isinstance(before, Linear) and (before.role, before.k) == (op.role, op.k):
        return ((_sum(f"{op.name}.and", op.m, op.k, op), True),)
    return ()


def _sum(name: str, rows: Array, cols: Array, like: Linear | Pointwise) -> Pointwise:
    return Pointwise(f"{name}.sum", "residual", "add", rows, cols, like.dtype, like.count, sweep="grad_input")


def _redone(op: Op) -> Op:
    return replace(op, name=f"{op.name}.again", sweep="recompute")  # type: ignore[type-var]


def _hooks(forward: Sequence[Op], again: set[int]) -> Pointwise:
    """What keeping a layer's tensors back costs beside running it again, a call per layer: torch calls Python for each."""
    inside = [op for op in forward if id(op) in again]
    layers = max(op.count for op in inside)
    tensors = sum(op.count * _kept_tensors(op) for op in inside) / layers
    return Pointwise(
        "layers.kept_back", "other", "recompute_hooks", tensors, 1, inside[0].dtype, layers, sweep="recompute"
    )


def _kept_tensors(op: Op) -> int:
    """Tensors that autograd keeps of one call: operands, results and statistics, weights among them."""
    if isinstance(op, Linear):
        return 1 + op.trained + (4 if op.rank else 0)
    if isinstance(op, Attention):
        return 5
    assert isinstance(op, Pointwise | Collective)
    return _KEPT_TENSORS.get(op.kind, 0)


_KEPT_TENSORS = {"rms_norm": 6, "layer_norm": 5, "rope": 4, "silu_mul": 3, "gelu_mul": 3, "gelu": 1, "relu": 1}


def _kept_last(forward: Sequence[Op], again: set[int]) -> tuple[Op, ...]:
    """What runs again: all up to the last product that keeps its input; behind it nothing is kept, and torch stops there."""
    inside = [op for op in forward if id(op) in again]
    last = max((i for i, op in enumerate(inside) if isinstance(op, Linear)), default=-1)
    rows = inside[: last + 1]
    # the last product itself keeps only its operands; with an adapter beside it the adapter's operands come after it
    return tuple(rows if rows and isinstance(rows[-1], Linear) and rows[-1].rank else rows[:-1])


def _update(forward: Sequence[Op], parameters: int) -> Pointwise:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) in one fused pass: a row per tensor, in the dtype of the weights."""
    elements = trained_parameters(forward, parameters)
    tensors = max(1.0, sum(float(op.count * _tensors(op, elements < parameters)) for op in forward))
    dtype = next((op.dtype for op in forward), "fp32")
    return Pointwise("adamw", "optimizer", "adamw", tensors, elements / tensors, dtype, sweep="update")


def _tensors(op: Op, adapters: bool) -> int:
    if isinstance(op, Linear):
        return (2 if op.rank else 0) if adapters else 1 + op.bias
    if not isinstance(op, Pointwise) or adapters:
        return 0
    return int(op.kind == "embedding") + int(POINTWISE[op.kind].weights)
