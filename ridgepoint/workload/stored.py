"""How a checkpoint that is quantised already keeps its linear layers, from the `quantization_config` of its config.json."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from ridgepoint.errors import BadInput, NotSupported
from ridgepoint.workload.format import INT4_GROUPS

__all__ = ["METHODS", "StoredFormat", "stored_format", "stored_of"]

METHODS = ("gptq", "awq", "compressed-tensors", "fp8")
_PARENTS = {"attention.in": "self_attn", "attention.out": "self_attn", "mlp.in": "mlp", "mlp.out": "mlp"}
_MOST_NAMES, _LONGEST_NAME = 20_000, 300
_NESTED = re.compile(r"\([^()]*[*+}][^()]*\)[*+{]")
"""A repetition inside of a repetition, which can take a regular expression years."""


@dataclass(frozen=True)
class StoredFormat:
    """`layout`: gptq, gptq_v2, awq, the compressed-tensors formats, or fp8 (scales per 128 x 128 weights).

    `group`: inputs that share a scale, 0 for a whole row. `weight`: the weight format whose kernels hold these codes, ""
    where none does, and then `misfit` says why. `targets`, `left_out`: which modules are quantised, by Hugging Face's names
    or, behind `re:`, by a regular expression from their start; no `targets` are all. `head`: whether that includes the head.
    """

    layout: str
    bits: int
    group: int
    symmetric: bool
    weight: str
    misfit: str = ""
    targets: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    head: bool = False
    floating: bool = False
    """Whether codes are floating-point numbers (fp8)."""

    def holds(self, path: str) -> bool:
        """Whether the linear layer of that name, as `model.layers.0.mlp.up_proj`, is quantised."""
        if path == "lm_head" and not self.head:
            return False
        return (not self.targets or _matches(self.targets, path)) and not _matches(self.left_out, path)

    def layers_of(self, role: str, name: str, layers: tuple[int, ...]) -> frozenset[int]:
        """Those of the decoder layers whose operator of that role and name is quantised."""
        return _held(self, role, name.partition("@")[0].partition("#")[0], layers)


@cache
def _held(stored: StoredFormat, role: str, name: str, layers: tuple[int, ...]) -> frozenset[int]:
    if role not in _PARENTS:
        return frozenset()
    return frozenset(i for i in layers if stored.holds(f"model.layers.{i}.{_PARENTS[role]}.{name}"))


def _matches(patterns: tuple[str, ...], path: str) -> bool:
    names, expressions = _compiled(patterns)
    return path in names or any(expression.match(path) for expression in expressions)


@cache
def _compiled(patterns: tuple[str, ...]) -> tuple[frozenset[str], tuple[re.Pattern[str], ...]]:
    expressions = tuple(re.compile(p.removeprefix("re:")) for p in patterns if p.startswith("re:"))
    return frozenset(p for p in patterns if not p.startswith("re:")), expressions


def stored_of(workload: object) -> StoredFormat | None:
    """The format of a workload's checkpoint; None for one that is not quantised, and for what has no checkpoint."""
    return getattr(workload, "stored", None)


class _Gptq(msgspec.Struct, kw_only=True):
    """Fields of GPTQModel's and AutoGPTQ's quantize_config that say what is in the file."""

    bits: int
    group_size: int = -1
    desc_act: bool = False
    static_groups: bool = False
    sym: bool = True
    lm_head: bool = False
    checkpoint_format: str | None = None
    format: str | None = None
    dynamic: dict[str, dict[str, Any]] | None = None
    modules_in_block_to_quantize: list[Any] | None = None


class _Awq(msgspec.Struct, kw_only=True):
    """Fields of AutoAWQ's quant_config; older files say w_bit and q_group_size."""

    bits: int | None = None
    w_bit: int | None = None
    group_size: int | None = None
    q_group_size: int | None = None
    zero_point: bool = True
    version: str | None = None
    format: str | None = None
    modules_to_not_convert: list[str] | None = None


class _Args(msgspec.Struct, kw_only=True):
    """compressed-tensors' QuantizationArgs."""

    num_bits: int = 8
    type: str = "int"
    symmetric: bool = True
    group_size: int | None = None
    strategy: str | None = None
    dynamic: bool | str = False
    actorder: str | bool | None = None
    block_structure: list[int] | None = None


class _Scheme(msgspec.Struct, kw_only=True):
    targets: list[str] = []
    weights: _Args | None = None
    input_activations: _Args | None = None
    format: str | None = None


class _Compressed(msgspec.Struct, kw_only=True):
    """compressed-tensors' QuantizationConfig."""

    config_groups: dict[str, _Scheme]
    format: str = "dense"
    ignore: list[str] | None = None


class _Fp8(msgspec.Struct, kw_only=True):
    """Fields of DeepSeek-V3's and transformers' FineGrainedFP8Config."""

    weight_block_size: list[int] | None = None
    activation_scheme: str = "dynamic"
    modules_to_not_convert: list[str] | None = None


def stored_format(name: str, config: Mapping[str, Any] | None) -> StoredFormat | None:
    """The format that a `quantization_config` describes; None where there is none.

    NotSupported for a method or a layout whose tensors are not read here at all, BadInput for what is malformed. What is
    read but has no kernel is no error yet: it can be computed dequantised.
    """
    if not config:
        return None
    if not isinstance(config, Mapping):
        raise BadInput(f"{name}: config.json: quantization_config must hold an object")
    method = str(config.get("quant_method", "unnamed"))[:40]
    readers: dict[str, Callable[[str, Mapping[str, Any]], StoredFormat]] = {
        "gptq": _gptq,
        "awq": _awq,
        "compressed-tensors": _compressed,
        "fp8": _fp8,
    }
    if method not in readers:
        raise NotSupported(
            f"{name}: its checkpoint is already quantised ({method}), in a way that is not read; {', '.join(METHODS)} are: "
            "give the model that it was made from"
        )
    return readers[method](name, config)


def _convert(name: str, config: Mapping[str, Any], kind: Any) -> Any:
    try:
        return msgspec.convert(config, kind)
    except msgspec.ValidationError as error:
        raise BadInput(f"{name}: config.json: quantization_config: {error}") from None


def _gptq(name: str, config: Mapping[str, Any]) -> StoredFormat:
    c: _Gptq = _convert(name, config, _Gptq)
    layout = (c.checkpoint_format or c.format or "gptq").lower()
    if layout not in ("gptq", "gptq_v2"):
        raise NotSupported(f"{name}: GPTQ weights laid out for {layout[:40]} are not read; gptq and gptq_v2 are")
    _check_integers(name, c.bits, c.group_size, (2, 3, 4, 8))
    rules = c.dynamic or {}
    if any(not rule.startswith("-:") for rule in rules):
        raise NotSupported(f"{name}: GPTQ with other bits for some layers (dynamic) is not read; one format for all is")
    inside = [
        part for row in c.modules_in_block_to_quantize or () for part in (row if isinstance(row, list) else [row])
    ]
    weight, misfit = _integers(c.bits, max(c.group_size, 0), c.sym)
    if c.desc_act and c.group_size > 0 and not c.static_groups:
        weight, misfit = (
            "",
            "act-order (desc_act) deals the inputs of a group out over the row, which no kernel here reads",
        )
    targets = _patterns(name, [f"re:.*\\.{re.escape(str(part))}$" for part in inside])
    left_out = _patterns(name, [f"re:{rule.removeprefix('-:')}" for rule in rules])
    return StoredFormat(layout, c.bits, max(c.group_size, 0), c.sym, weight, misfit, targets, left_out, c.lm_head)


def _awq(name: str, config: Mapping[str, Any]) -> StoredFormat:
    c: _Awq = _convert(name, config, _Awq)
    layout = (c.version or c.format or "gemm").lower()
    if layout != "gemm":
        raise NotSupported(f"{name}: AWQ weights laid out for {layout[:40]} are not read; gemm is")
    bits = c.bits if c.bits is not None else c.w_bit if c.w_bit is not None else 4
    group = c.group_size if c.group_size is not None else c.q_group_size if c.q_group_size is not None else 128
    _check_integers(name, bits, group, (4,))
    weight, misfit = _integers(bits, max(group, 0), not c.zero_point)
    left_out = _patterns(name, [f"re:.*{re.escape(key)}" for key in c.modules_to_not_convert or ()])
    return StoredFormat("awq", bits, max(group, 0), not c.zero_point, weight, misfit, (), left_out)


def _check_integers(name: str, bits: int, group: int, known: tuple[int, ...]) -> None:
    if bits not in known:
        raise NotSupported(f"{name}: {bits} bits a weight are not read; {', '.join(map(str, known))} are")
    if group != -1 and not 1 <= group <= 2**17:
        raise BadInput(f"{name}: config.json: group_size is {group}; possible is -1 (a whole row) or 1 to {2**17}")


def _integers(bits: int, group: int, symmetric: bool) -> tuple[str, str]:
    """The weight format of a kernel that holds such codes, or "" and the reason why there is none."""
    groups = ", ".join(map(str, INT4_GROUPS))
    if bits == 4:
        if group in INT4_GROUPS:
            return f"int4:g{group}", ""
        what = f"groups of {group}" if group else "one scale per row"
        return "", f"int4 with {what} has no kernel here; groups of {groups} do"
    if bits == 8 and not group and symmetric:
        return "int8", ""
    if bits == 8:
        what = f"groups of {group}" if group else "zero points"
        return "", f"int8 with {what} has no kernel here; int8 with one scale per row and no zero point does"
    return "", f"{bits}-bit weights have no kernel here; int4 in groups of {groups} do"


def _compressed(name: str, config: Mapping[str, Any]) -> StoredFormat:
    c: _Compressed = _convert(name, config, _Compressed)
    schemes = [(s, s.weights) for s in c.config_groups.values() if s.weights is not None]
    if len(schemes) != 1:
        raise NotSupported(
            f"{name}: compressed-tensors with {len(schemes)} schemes of weights is not read; one scheme for all layers is"
        )
    ((scheme, args),) = schemes
    layout, group = scheme.format or c.format, _compressed_group(name, args)
    known = ("pack-quantized", "int-quantized", "naive-quantized", "float-quantized")
    if layout not in known:
        raise NotSupported(f"{name}: the compressed-tensors format {layout[:40]} is not read; {', '.join(known)} are")
    if args.type == "float":
        weight, misfit = "fp8", ""
    else:
        weight, misfit = _integers(args.num_bits, group, args.symmetric)
    if scheme.input_activations is not None:
        weight, misfit = _with_activations(weight, misfit, scheme.input_activations)
    if args.actorder is True or args.actorder == "group":
        weight, misfit = (
            "",
            "act-order by group deals the inputs of a group out over the row, which no kernel here reads",
        )
    everything = not scheme.targets or "Linear" in scheme.targets
    return StoredFormat(
        layout, args.num_bits, group, args.symmetric, weight, misfit,
        () if everything else _patterns(name, scheme.targets), _patterns(name, c.ignore or ()), head=True,
        floating=args.type == "float",
    )  # fmt: skip


def _compressed_group(name: str, args: _Args) -> int:
    """Inputs that share a scale, after a look at whether such weights are read."""
    strategy = args.strategy or ("group" if args.group_size and args.group_size > 0 else "tensor")
    if strategy not in ("tensor", "channel", "group") or args.type not in ("int", "float"):
        raise NotSupported(
            f"{name}: compressed-tensors with {args.type[:20]} weights and scales by {strategy[:20]} is not read"
        )
    group = (args.group_size or 0) if strategy == "group" else 0
    if args.type == "int":
        _check_integers(name, args.num_bits, group or -1, tuple(range(2, 9)))
    elif (args.num_bits, group) != (8, 0):
        raise NotSupported(f"{name}: floating-point weights of {args.num_bits} bits in groups are not read; fp8 is")
    return group


def _with_activations(weight: str, misfit: str, args: _Args) -> tuple[str, str]:
    """The same where activations are quantised too."""
    if weight == "fp8" and args.type == "float" and args.num_bits == 8 and args.dynamic is True:
        return "fp8", ""
    if weight == "int8" and args.type == "int" and args.num_bits == 8 and args.dynamic is True and args.symmetric:
        return {"token": ("int8:dyn:token", ""), "tensor": ("int8:dyn", "")}.get(
            args.strategy or "", ("", f"activations quantised by {str(args.strategy)[:20]} have no kernel here")
        )
    if misfit:
        return weight, misfit
    how = "" if args.dynamic is True else "with scales fixed beforehand "
    return "", f"weights of this format with {args.num_bits}-bit {args.type[:20]} activations {how}have no kernel here"


def _fp8(name: str, config: Mapping[str, Any]) -> StoredFormat:
    c: _Fp8 = _convert(name, config, _Fp8)
    block = c.weight_block_size
    if block not in (None, [128, 128]) or c.activation_scheme != "dynamic":
        raise NotSupported(
            f"{name}: fp8 with blocks of {block} and {c.activation_scheme[:20]} activations is not modelled"
        )
    left_out = _patterns(name, [f"re:.*{re.escape(key)}" for key in c.modules_to_not_convert or ()])
    return StoredFormat("fp8", 8, 128 if block else 0, True, "fp8:block" if block else "fp8",
                        left_out=left_out, floating=True)  # fmt: skip


def _patterns(name: str, patterns: Any) -> tuple[str, ...]:
    """The same names and regular expressions, after a look at whether they can be used."""
    if len(patterns) > _MOST_NAMES or any(len(p) > _LONGEST_NAME for p in patterns):
        raise BadInput(f"{name}: config.json: quantization_config names too many modules, or one by too long a name")
    for pattern in patterns:
        if not pattern.startswith("re:"):
            continue
        try:
            re.compile(pattern.removeprefix("re:"))
        except (re.error, OverflowError, RecursionError):
            raise BadInput(f"{name}: config.json: {pattern[:60]!r} is no regular expression") from None
        if _NESTED.search(pattern):
            raise BadInput(f"{name}: config.json: {pattern[:60]!r} repeats a repetition; write it simpler")
    return tuple(patterns)
