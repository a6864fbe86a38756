"""A model by what the user wrote: a module of their own (`FILE.py:NAME`) is traced, every other name is looked up."""

import msgspec

from ridgepoint.errors import BadInput
from ridgepoint.measurement.request import Subject, TraceRequest
from ridgepoint.measurement.session import Session
from ridgepoint.study.units import MODULE, is_module
from ridgepoint.workload import Encoder, Plan, Traced, Workload, load_model

__all__ = ["not_modelled", "step_words", "subject_named", "traced_module"]


def subject_named(name: str, dtypes: tuple[str, ...] = ("",)) -> Subject | Encoder:
    """The workload; a module of the user's is traced in these dtypes ("" is its own)."""
    if is_module(name):
        return traced_module(name, dtypes)
    if name.endswith(".py") or ".py:" in name:
        raise BadInput(f"{name[:200]!r} names no module: write FILE.py:NAME, for example ./my_model.py:build")
    return load_model(name)


def traced_module(name: str, dtypes: tuple[str, ...] = ("",)) -> Traced:
    """The module that `FILE.py:NAME` builds, traced in a process of its own: the file is the user's, and is run."""
    match = MODULE.fullmatch(name)
    assert match is not None, "asked of a name that `is_module` took"
    request = TraceRequest(path=match["path"], name=match["name"], dtypes=dtypes)
    with Session() as session:
        message = [m for m in session.ask(request) if m["kind"] == "done"][-1]
    return msgspec.convert(message["traced"], Traced)


def step_words(plan: Plan) -> str:
    """The step of a result: a module's is of items, which have no tokens."""
    if isinstance(plan.workload, Traced):
        return f"forward of {float(plan.step.sequences):g} items"
    return str(plan.step)


def not_modelled(workload: Workload) -> tuple[str, ...]:
    """What of the model its formulas leave out, as flags."""
    return tuple(f"not modelled: {what}" for what in getattr(workload, "not_modelled", ()))
