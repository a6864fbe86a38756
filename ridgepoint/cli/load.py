"""`ridge load`: what the users of a loaded server see, on machines that are known from their datasheets."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ridgepoint.cli import options
from ridgepoint.errors import BadInput

if TYPE_CHECKING:
    from ridgepoint.study.serving import LoadAnswer

__all__ = ["load"]

_SERVER, _DEVICES = "Server", "Devices"


def _option(name: str, words: str, panel: str) -> Any:
    return typer.Option(name, help=words, show_default=False, rich_help_panel=panel)


On = Annotated[str, typer.Option("--on", help="Targets separated by commas; each gets a table.", show_default=False)]
Users = Annotated[str, typer.Option("--users", help="Users at once, separated by commas.")]
Isl = Annotated[int, typer.Option("--isl", help="Tokens of each prompt.")]
Osl = Annotated[int, typer.Option("--osl", help="Tokens of each answer.")]
Slo = Annotated[str, typer.Option("--slo", help="Means to keep: ttft, tpot, latency, as tpot=40ms,ttft=0.5s.")]
MaxBatch = Annotated[
    int | None, _option("--max-batch", "Sequences that run at most at once; default: the stack's.", _SERVER)
]
Chunk = Annotated[int | None, _option("--chunk", "Tokens of prompts in a step; default: the stack's.", _SERVER)]
KvDtype = Annotated[str, _option("--kv-dtype", "bf16, fp8, int8 or int4; default: the base dtype.", _SERVER)]
Rounds = Annotated[
    float,
    _option(
        "--rounds", "Requests of each user, the first all at once; default: a server that has run for long.", _SERVER
    ),
]
Stack = Annotated[str, _option("--stack", "vllm (default), sglang, trtllm, as trtllm:1.0.0.", _SERVER)]
Tp = Annotated[int, _option("--tp", "Devices that share each layer's matrices.", _DEVICES)]
Pp = Annotated[int, _option("--pp", "Stages of a pipeline.", _DEVICES)]
Ep = Annotated[int, _option("--ep", "Devices that share the experts.", _DEVICES)]
AttentionDp = Annotated[int, _option("--attention-dp", "Groups with sequences of their own.", _DEVICES)]


def load(
    model: options.Model,
    on: On,
    users: Users = "1,8,64",
    isl: Isl = 1024,
    osl: Osl = 256,
    with_: options.With = "",
    slo: Slo = "",
    max_batch: MaxBatch = None,
    chunk: Chunk = None,
    kv_dtype: KvDtype = "",
    rounds: Rounds = float("inf"),
    stack: Stack = "",
    tp: Tp = 1,
    pp: Pp = 1,
    ep: Ep = 1,
    attention_dp: AttentionDp = 1,
    as_json: options.Json = False,
) -> int:
    """TTFT, TPOT and throughput of a server with so many users, in closed form; the most users within an SLO."""
    from ridgepoint.study.serving import loaded_server, parse_slo
    from ridgepoint.workload import Parallel

    _check(max_batch, chunk, rounds)
    answer = loaded_server(
        model, options.names("--on", on), users=options.integers("--users", users), isl=isl, osl=osl, with_=with_,
        stack=stack, parallel=Parallel(tp, pp, ep, attention_dp), slo=parse_slo(slo), most_running=max_batch, chunk=chunk,
        rounds=rounds, kv_dtype=kv_dtype,
    )  # fmt: skip
    _print(answer, as_json)
    return 0


def _check(max_batch: int | None, chunk: int | None, rounds: float) -> None:
    for option, value in (("--max-batch", max_batch), ("--chunk", chunk)):
        if value is not None and not 1 <= value <= 2**20:
            raise BadInput(f"{option} is {value}; possible is 1 to {2**20}")
    if not rounds >= 1:
        raise BadInput(f"--rounds is {rounds:g}; possible is 1 or more")


def _print(answer: "LoadAnswer", as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(asdict(answer), indent=1, default=_plain) + "\n")
        return
    from rich.console import Console

    from ridgepoint.report.serving_terminal import load_table

    Console().print(load_table(answer))


def _plain(value: Any) -> Any:
    """Dates and prices, which JSON has no form for."""
    import msgspec

    return msgspec.to_builtins(value)
