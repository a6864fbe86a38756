"""Models and weight formats as published tables of whole systems spell them, in the names of this package."""

import re
from dataclasses import replace
from difflib import get_close_matches

from ridgepoint.errors import BadInput, NotSupported, RidgeError, UnknownName
from ridgepoint.workload import Decoder, Linear, Op, Plan, catalogue_names, format_named, load_model

__all__ = ["catalogue_model", "format_in_name", "in_format", "load_published", "weight_format"]

_TUNED = re.compile(
    r"[-_](instruct|chat|it|hf|base|thinking|dynamic|static|block|tensor|modelopt|nim|"
    r"fp8|fp4|nvfp4|mxfp4|bf16|fp16|int8|int4|awq|gptq|w4a16|w8a8|kv|quantized|"
    r"\d{4}|v\d(\.\d)?)$"
)
"""What a name carries behind the model itself: tuning, formats, dates, versions."""
_SAME_SHAPE = {
    "llama-7b": "llama-2-7b", "llama-70b": "llama-2-70b", "llama-3-8b": "llama-3.1-8b", "llama-3-70b": "llama-3.1-70b",
    "llama-3.3-70b": "llama-3.1-70b", "deepseek-r1": "deepseek-v3", "deepseek-v3.1": "deepseek-v3",
    "deepseek-v3.1-terminus": "deepseek-v3", "deepseek-r1-distill-llama-70b": "llama-3.1-70b",
    "deepseek-r1-distill-llama-8b": "llama-3.1-8b", "deepseek-r1-distill-qwen-32b": "qwen2.5-32b",
    "deepseek-r1-distill-qwen-14b": "qwen2.5-14b", "qwq-32b": "qwen2.5-32b", "deepseek-v2-lite-chat": "deepseek-v2-lite",
    "deepseek-coder-v2-lite": "deepseek-v2-lite", "qwen1.5-moe": "qwen1.5-moe-a2.7b",
}  # fmt: skip
"""Models that a catalogue entry has the shapes of: steps of both take the same time."""


def catalogue_model(name: str) -> str:
    """`catalogue_model("meta-llama/Llama-3.1-8B-Instruct") == "llama-3.1-8b"`; BadInput naming the nearest."""
    known = {_plain(have): have for have in catalogue_names()}
    plain = _plain(name)
    plain = _SAME_SHAPE.get(plain, plain)
    if plain in known or plain in known.values():
        return known.get(plain, plain)
    nearest = get_close_matches(plain, known, n=3, cutoff=0.0)
    raise BadInput(
        f"{name}: no model of the catalogue has its shapes; the nearest names are "
        f"{', '.join(known[x] for x in nearest)}; `ridge` takes any config.json of a known family"
    )


def _plain(name: str) -> str:
    """The last part of a path in lower case, without vendor, tuning, format and date."""
    text = re.sub(r"[\s_]+", "-", name.strip().rstrip("/").rsplit("/", 1)[-1].lower())
    text = text.removeprefix("meta-").removeprefix("nvidia-").removeprefix("hf-")
    text = re.sub(r"^llama-?(\d)", r"llama-\1", text)
    text = re.sub(r"^qwen-(\d)", r"qwen\1", text)
    while (shorter := _TUNED.sub("", text)) != text:
        text = shorter
    return text


def load_published(name: str) -> Decoder:
    """The decoder behind a published name: of the catalogue, or the path of a config."""
    try:
        model = load_model(catalogue_model(name))
    except BadInput:
        if not (name.endswith(".json") or name.startswith(("/", "./", "~"))):
            raise
        model = load_model(name)
    if not isinstance(model, Decoder):
        raise NotSupported(f"{name} is no decoder-only language model")
    return model


_FORMATS = {
    "": "", "bfloat16": "bf16", "bf16": "bf16", "float16": "fp16", "fp16": "fp16", "half": "fp16", "fp8": "fp8",
    "fp8_static": "fp8",
    "fp8_ootb": "fp8", "fp8_block": "fp8:block", "fp8-block": "fp8:block", "nvfp4": "nvfp4", "fp4": "nvfp4", "int8": "int8",
    "int8_wo": "int8", "int4": "int4:g128", "int4_wo": "int4:g128", "w4a16": "int4:g128", "awq": "int4:g128",
    "gptq": "int4:g128", "sq": "int8:dyn:token", "w8a8": "int8:dyn:token", "int4-g32": "int4:g32", "int4-g128": "int4:g128",
}  # fmt: skip


def weight_format(spelled: str, model: str) -> str:
    """Format of the weights from a table's column, or, where that is blank, from the model's name; "" is the checkpoint's.

    DeepSeek-V3 and its like are published in fp8 blocks.
    """
    name = spelled.strip().lower()
    if name not in _FORMATS:
        raise UnknownName("weight format", spelled, [x for x in _FORMATS if x])
    return _FORMATS[name] or format_in_name(model)


def format_in_name(model: str) -> str:
    """`format_in_name("nvidia/Llama-3.1-70B-Instruct-FP8") == "fp8"`; "" where the name has none."""
    text = model.rsplit("/", 1)[-1].lower()
    words = re.split(r"[-_.\s]+", text)
    for word, form in (
        ("nvfp4", "nvfp4"),
        ("fp4", "nvfp4"),
        ("fp8", "fp8"),
        ("awq", "int4:g128"),
        ("gptq", "int4:g128"),
    ):
        if word in words:
            return form
    return "fp8:block" if re.match(r"deepseek-(v3|r1)(?!-distill)", text) else ""


def in_format(plan: Plan, weight: str) -> Plan:
    """The plan with every linear layer but the head in a format; fixed products stay. NotSupported for one without bytes."""
    if weight in ("", "bf16", "fp16", "fp32"):
        return replace(plan, dtype=weight) if weight else plan
    try:
        format_named(weight)
    except RidgeError:
        raise NotSupported(f"{weight}: its bytes are not known to this package") from None

    def rewrite(op: Op) -> Op:
        kept = not isinstance(op, Linear) or op.fixed or op.role == "head" or op.name in ("router", "shared_gate")
        return op if kept else replace(op, weight=weight)  # type: ignore[type-var]

    return plan.rewritten(rewrite)
