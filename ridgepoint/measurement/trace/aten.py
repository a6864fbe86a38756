"""What an ATen operator costs, by its name and the shapes of its tensors: the kind of operator and its sizes.

Known operators are met whole (`aten.linear`, not its view, product and addition), because that is how they are called in
inference mode; composite ones that are not known here are taken apart by the tracer.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

__all__ = ["RULES", "Described", "described", "is_view", "may_be_view", "passed_over", "tensors_of"]


@dataclass(frozen=True, slots=True)
class Described:
    """A kind of operator (that of a workload), its sizes at this batch and what else decides its time.

    Of passes over tensors `traffic` is in bytes here; the workload counts it in elements of the call's dtype.
    """

    kind: str
    sizes: dict[str, float]
    options: dict[str, int | bool | str] = field(default_factory=dict)


Args = Sequence[Any]
Rule = Callable[[Args, Mapping[str, Any], Any], Described]


def described(name: str, args: Args, kwargs: Mapping[str, Any], out: Any) -> Described | None:
    """The call of `aten.<name>` with these arguments that gave `out`; None for an operator that is not known.

    In-place forms (`add_`) are like the others.
    """
    rule = RULES.get(name.rstrip("_"))
    return rule(args, kwargs, out) if rule is not None else None


def is_view(args: Args, out: Any) -> bool:
    """Whether every tensor that came out shares its memory with one that went in."""
    given = {t.untyped_storage()._cdata for t in tensors_of(args)}
    made = tensors_of((out,))
    return bool(made) and all(t.untyped_storage()._cdata in given for t in made)


def passed_over(args: Args, out: Any) -> Described:
    """An operator that nobody described: one pass over its tensors."""
    return _elementwise("pass")(args, {}, out)


def tensors_of(values: Any) -> list[Tensor]:
    """All tensors among values and lists of them."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [t for value in values for t in tensors_of(value)]
    return []


def _stored(t: Tensor) -> int:
    """Bytes that are there: an expanded size counts once."""
    return t.element_size() * math.prod(n for n, step in zip(t.shape, t.stride(), strict=True) if step)


def _written(out: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors_of(out))


def _first(out: Any) -> Tensor:
    return tensors_of((out,))[0]


def _argument(args: Args, kwargs: Mapping[str, Any], index: int, name: str, default: Any = None) -> Any:
    return args[index] if len(args) > index else kwargs.get(name, default)


def _linear(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
    x, weight = args[0], args[1]
    n, k = (weight.shape[0], weight.shape[1]) if weight.dim() == 2 else (1, weight.shape[0])
    bias = _argument(args, kwargs, 2, "bias") is not None
    if not _folds(x):
        return _unfolded(x, n, k)
    return Described("linear", {"m": x.numel() // max(k, 1), "n": n, "k": k}, {"bias": bias})


def _product(first: int) -> Rule:
    """x[..., k] z[k, n], its two factors from argument `first` on; one before them is added."""

    def rule(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
        return _matmul(args[first:], {}, out)

    return rule


def _matmul(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
    x, z = args[0], args[1]
    k = x.shape[-1]
    if z.dim() <= 2:
        n = z.shape[1] if z.dim() == 2 else 1
        if not _folds(x):
            return _unfolded(x, n, k)
        return Described("linear", {"m": x.numel() // max(k, 1), "n": n, "k": k}, {"bias": False})
    m = x.shape[-2] if x.dim() > 1 else 1
    n = z.shape[-1]
    return Described("matmul", {"batch": out.numel() // max(m * n, 1), "m": m, "n": n, "k": k}, {"shared": False})


def _folds(x: Tensor) -> bool:
    """Whether all sizes but the last can be seen as one (`should_fold` in aten/src/ATen/native/LinearAlgebra.cpp)."""
    steps, sizes = x.stride(), x.shape
    return all(steps[i] == steps[i + 1] * sizes[i + 1] for i in range(x.dim() - 2))


def _unfolded(x: Tensor, n: int, k: int) -> Described:
    """A product for each of the leading sizes, all with the same matrix."""
    m = x.shape[-2]
    return Described("matmul", {"batch": x.numel() // max(m * k, 1), "m": m, "n": n, "k": k}, {"shared": True})


def _conv(transposed: bool | None) -> Rule:
    """Convolutions; `transposed` None: the sixth argument says (`aten.convolution`)."""

    def rule(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
        x, weight = args[0], args[1]
        bias = _argument(args, kwargs, 2, "bias") is not None
        stride = _argument(args, kwargs, 3, "stride", 1)
        if transposed is None:
            dilation, turned, groups = args[5], bool(args[6]), int(args[8])
        elif transposed:
            turned, groups = True, int(_argument(args, kwargs, 6, "groups", 1))
            dilation = _argument(args, kwargs, 7, "dilation", 1)
        else:
            turned, groups = False, int(_argument(args, kwargs, 6, "groups", 1))
            dilation = _argument(args, kwargs, 5, "dilation", 1)
        dims = weight.dim() - 2
        batched = x.dim() == dims + 2
        pixels_in, pixels_out = math.prod(x.shape[-dims:]), math.prod(out.shape[-dims:])
        sizes = {"batch": x.shape[0] if batched else 1, "pixels_in": pixels_in, "pixels_out": pixels_out}
        n = weight.shape[1] * groups if turned else weight.shape[0]
        channels = weight.shape[0] if turned else weight.shape[1] * groups
        return Described("conv", sizes, {
            "channels_in": channels, "n": n, "window": math.prod(weight.shape[2:]), "groups": groups,
            "spread": _any_above_one(stride) or _any_above_one(dilation), "transposed": turned, "bias": bias,
            "layout": "",
        })  # fmt: skip

    return rule


def _any_above_one(value: Any) -> bool:
    return any(v > 1 for v in value) if isinstance(value, list | tuple) else value > 1


def _attention(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
    q, k, v = args[:3]
    causal = bool(_argument(args, kwargs, 5, "is_causal", False))
    heads, kv_heads = (q.shape[-3], k.shape[-3]) if q.dim() > 3 else (1, 1)
    batch = q.numel() // max(1, heads * q.shape[-2] * q.shape[-1])
    options = {
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": q.shape[-1],
        "value_dim": v.shape[-1],
        "causal": causal,
    }
    return Described("attention", {"batch": batch, "new": q.shape[-2], "keys": k.shape[-2]}, options)


def _elementwise(kind: str) -> Rule:
    """One pass: rows are items, cols the elements of one; traffic the bytes that are there to be read and written."""

    def rule(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
        made = tensors_of((out,)) or tensors_of(args)
        if not made:
            return Described("view", {"rows": 0, "cols": 0})
        whole = sum(t.numel() for t in made)
        rows = made[0].shape[0] if made[0].dim() else 1
        given = tensors_of(args)
        traffic = sum(map(_stored, given)) + sum(t.numel() * t.element_size() for t in made)
        single = kind == "add" and (len(given) < 2 or min(t.numel() for t in given) <= 1)  # the other is a number
        return Described("scale" if single else kind, {"rows": rows, "cols": whole // max(rows, 1), "traffic": traffic})

    return rule


def _copy(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
    """A copy; `transpose` where a tensor is read in another order than it lies in memory."""
    tensors = tensors_of(args)
    if tensors and is_view(args, out):
        return Described("view", {"rows": 0, "cols": 0})
    turned = any(
        t.numel() * t.element_size() == _stored(t) and not t.is_contiguous() and _reordered(t) for t in tensors
    )
    return _elementwise("transpose" if turned else "copy")(args, kwargs, out)


def _reordered(t: Tensor) -> bool:
    """Whether neighbours along the last size larger than 1 are apart in memory."""
    steps = [step for n, step in zip(t.shape, t.stride(), strict=True) if n > 1]
    return bool(steps) and steps[-1] != 1


def _copied_into(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
    """`copy_(to, from)`: writes a tensor that was there."""
    return _elementwise("copy")((args[1],), kwargs, args[0])


def _by_last(kind: str) -> Rule:
    """Norms and softmax over the last sizes: a row is what is normalised together."""

    def rule(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
        x = args[0]
        cols = math.prod(args[1]) if kind != "softmax" else x.shape[int(_argument(args, kwargs, 1, "dim", -1))]
        return Described(kind, {"rows": x.numel() // max(cols, 1), "cols": cols})

    return rule


def _batch_norm(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
    x = args[0]
    rows = x.shape[0] * (x.shape[1] if x.dim() > 1 else 1)
    return Described("batch_norm", {"rows": rows, "cols": x.numel() // max(rows, 1)})


def _group_norm(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
    x = args[0]
    rows = x.shape[0] * int(args[1])
    return Described("group_norm", {"rows": rows, "cols": x.numel() // max(rows, 1), "pixels": _pixels(x)})


def _pixels(x: Any) -> int:
    """Of an image, whose channels may lie last in memory; of other tensors 0."""
    return x.shape[2] * x.shape[3] if x.dim() == 4 else 0


def _instance_norm(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
    x = args[0]
    rows = x.shape[0] * x.shape[1]
    return Described("instance_norm", {"rows": rows, "cols": x.numel() // max(rows, 1)})


def _reduce(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
    x, rows = args[0], _first(out).numel()
    return Described("reduce", {"rows": rows, "cols": x.numel() // max(rows, 1), "traffic": _stored(x) + _written(out)})


def _pool(kind: str) -> Rule:
    """Windows of a fixed size."""

    def rule(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
        x, made, window = args[0], _first(out), args[1]
        dims = len(window) if isinstance(window, list | tuple) and len(window) > 1 else made.dim() - 2
        size = (
            math.prod(window) if isinstance(window, list | tuple) and len(window) > 1 else _int(window) ** max(dims, 1)
        )
        return _windows(kind, x, made, size)

    return rule


def _windows(kind: str, x: Any, made: Any, size: int) -> Described:
    sizes = {"rows": made.numel(), "cols": size, "traffic": _stored(x) + _written(made), "pixels": _pixels(made)}
    return Described(kind, sizes)


def _int(value: Any) -> int:
    return int(value[0]) if isinstance(value, list | tuple) else int(value)


def _adaptive_pool(kind: str) -> Rule:
    """Windows that cover the input: of one output per channel it is a reduction."""

    def rule(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
        x, made = args[0], _first(out)
        cols = max(1, x.numel() // max(made.numel(), 1))
        return _reduce(args, kwargs, out) if cols > _WIDE_WINDOW else _windows(kind, x, made, cols)

    return rule


_WIDE_WINDOW = 16


def _embedding(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
    return Described("embedding", {"rows": args[1].numel(), "cols": args[0].shape[-1]})


def _gelu(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
    kind = "gelu" if kwargs.get("approximate", "none") == "tanh" else "gelu_erf"
    return _elementwise(kind)(args, {}, out)


def _recurrent(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
    """A layer of an LSTM or GRU in one operator: for each of the steps a product with the same matrices."""
    x, over_input, over_state = args[0], args[1], args[2]
    steps, items = x.shape[0], x.shape[1]
    k = over_input.shape[1] + over_state.shape[1]
    return Described(
        "matmul", {"batch": steps, "m": items, "n": over_input.shape[0], "k": k}, {"shared": True, "guessed": True}
    )


def _trilinear(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
    """nn.Bilinear, w[o, i, j] between x[m, i] and z[m, j]: as the product of x with all of w."""
    x, w = args[0], args[1]
    k = x.shape[-1]
    sizes = {"batch": 1, "m": x.numel() // max(k, 1), "n": w.numel() // max(k, 1), "k": k}
    return Described("matmul", sizes, {"shared": True, "guessed": True})


def _nothing(args: Args, kwargs: Mapping[str, Any], out: Any) -> Described:
    return Described("view", {"rows": 0, "cols": 0})


RULES: dict[str, Rule] = {
    "linear": _linear,
    "mm": _product(0),
    "mv": _product(0),
    "addmm": _product(1),
    "matmul": _matmul,
    "bmm": _matmul,
    "baddbmm": _product(1),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _conv(False)),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _conv(True)),
    "convolution": _conv(None),
    "scaled_dot_product_attention": _attention,
    "mkldnn_rnn_layer": _recurrent,
    "_trilinear": _trilinear,
    "embedding": _embedding,
    "layer_norm": _by_last("layer_norm"),
    "rms_norm": _by_last("rms_norm"),
    **dict.fromkeys(("softmax", "_softmax", "log_softmax", "_log_softmax"), _by_last("softmax")),
    "batch_norm": _batch_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "gelu": _gelu,
    **dict.fromkeys(
        ("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "threshold", "leaky_relu", "prelu", "hardswish",
         "hardsigmoid", "abs", "sign", "floor", "ceil", "round"), _elementwise("relu"),
    ),
    **dict.fromkeys(
        ("sigmoid", "tanh", "exp", "expm1", "silu", "log", "log1p", "log2", "elu", "selu", "celu", "softplus", "mish", "sin",
         "cos", "erf", "pow", "log_sigmoid", "logsigmoid"), _elementwise("sigmoid"),
    ),
    **dict.fromkeys(
        ("neg", "sqrt", "rsqrt", "reciprocal", "square", "rsub", "logical_not", "bitwise_not"), _elementwise("scale"),
    ),
    **dict.fromkeys(
        ("add", "sub", "mul", "div", "maximum", "minimum", "where", "lerp", "addcmul", "addcdiv", "eq", "ne", "lt", "le", "gt",
         "ge", "logical_and", "logical_or", "bitwise_and", "bitwise_or", "masked_fill", "remainder", "floor_divide"),
        _elementwise("add"),
    ),
    **dict.fromkeys(
        ("clone", "contiguous", "to", "_to_copy", "type_as", "cat", "concat", "stack", "pad", "constant_pad_nd", "roll", "flip",
         "repeat", "reshape", "flatten", "index_select", "index", "gather", "repeat_interleave", "tril", "triu"), _copy,
    ),
    "copy": _copied_into,
    **dict.fromkeys(
        ("zeros", "ones", "full", "arange", "empty", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like",
         "scalar_tensor", "linspace", "eye", "fill", "zero"), _elementwise("copy"),
    ),
    **dict.fromkeys(
        ("mean", "sum", "amax", "amin", "max", "min", "var", "var_mean", "std", "norm", "linalg_vector_norm", "argmax", "argmin",
         "all", "any", "logsumexp", "prod", "cumsum"), _reduce,
    ),
    **dict.fromkeys(
        ("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "max_pool3d_with_indices"), _pool("pool")
    ),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _pool("avg_pool")),
    **dict.fromkeys(
        ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d"),
        _adaptive_pool("avg_pool"),
    ),
    **dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d"), _adaptive_pool("pool")),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "detach", "lift_fresh", "_local_scalar_dense"), _nothing),
}  # fmt: skip


def may_be_view(name: str) -> bool:
    """Whether an operator of that name can return another view of its argument's memory, or nothing new."""
    packet = getattr(torch.ops.aten, name, None)
    if packet is None or RULES.get(name) is _nothing:
        return packet is not None
    returned = [r for x in packet.overloads() for r in getattr(packet, x)._schema.returns]
    return any(r.alias_info is not None and not r.alias_info.is_write for r in returned)
