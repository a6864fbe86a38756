"""Names of machines and stacks in published tables of whole systems that say more than a name: a power limit, a version."""

import re

import msgspec

from ridgepoint.errors import BadInput, RidgeError
from ridgepoint.hardware import Target, load_target
from ridgepoint.workload import Parallel

__all__ = ["parallel_named", "published_target", "stack_named"]

_LIMIT = re.compile(r"\s+(\d+)\s*W$")
_STACKS = {"tensorrt-llm": "trtllm", "vllm": "vllm", "sglang": "sglang", "pytorch": "pytorch"}
_SPLIT = re.compile(r"(tp|pp|ep)(\d+)")


def published_target(name: str) -> Target:
    """`published_target("A100-80GB SXM 330W")`: the target without its limit, with 330 W in place of its power."""
    try:
        return load_target(name)
    except RidgeError:
        limit = _LIMIT.search(name)
        if limit is None:
            raise
        target = load_target(_LIMIT.sub("", name))
    figures = tuple(
        msgspec.structs.replace(x, value=float(limit[1]), scope=f"limited to {limit[1]} W") if x.name == "tdp_w" else x
        for x in target.figures
    )
    return msgspec.structs.replace(target, figures=figures)


def stack_named(text: str) -> tuple[str, str]:
    """`stack_named("TensorRT-LLM 0.9") == ("trtllm", "0.9")`; another stack keeps its own first word."""
    words = text.lower().split()
    first = words[0] if words else ""
    version = words[1] if len(words) > 1 and words[1][:1].isdigit() else ""
    return _STACKS.get(first, first), version


def parallel_named(text: str) -> Parallel:
    """`parallel_named("tp8 pp2") == Parallel(tp=8, pp=2)`; words of other kinds, as fsdp8, are not of the model's split."""
    found = {name: int(count) for name, count in _SPLIT.findall(text.lower().replace("fsdp", ""))}
    if any(count < 1 for count in found.values()):
        raise BadInput(f"a split of {text!r} has no devices")
    return Parallel(found.get("tp", 1), found.get("pp", 1), found.get("ep", 1))
