"""A module of the user's own to be run: built by their file, converted by the side, called on their example's inputs."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ridgepoint.errors import NotSupported
from ridgepoint.workload import Attention, Conv, Plan, Traced

if TYPE_CHECKING:
    from ridgepoint.measurement.trace.load import Built

__all__ = ["around", "build_user_module", "file_of", "module_call"]


def file_of(traced: Traced) -> tuple[str, str]:
    """(path, name) of `FILE.py:NAME`."""
    path, _, name = traced.name.rpartition(":")
    return path, name


def build_user_module(traced: Traced, plan: Plan) -> "Built":
    """The module as the file builds it, on the plan's device. Runs the file."""
    import torch

    from ridgepoint.measurement.trace.load import build_module

    torch.backends.mha.set_fastpath_enabled(False)  # as it was traced
    built = build_module(*file_of(traced))
    built.module.to(plan.device)
    return built


def module_call(plan: Plan, built: "Built") -> Callable[[Any], object]:
    """One call of the module on the step's items, to be made inside of `around`."""
    from ridgepoint.kernels.ladder import TORCH_DTYPES
    from ridgepoint.measurement.trace.load import inputs_for

    if plan.step.phase == "train":
        raise NotSupported("a training step of a module is not measured; leave --phase out")
    args, kwargs = inputs_for(built, int(plan.step.sequences), TORCH_DTYPES[plan.dtype], plan.device)
    convs = [op for op in plan.ops if isinstance(op, Conv)]
    if convs:
        last = any(op.layout == "last" for op in convs)
        args, kwargs = tuple(_laid_out(x, last) for x in args), {key: _laid_out(x, last) for key, x in kwargs.items()}
    return lambda module: module(*args, **kwargs)


def around(plan: Plan) -> Callable[[Callable[[Any], object]], Callable[[Any], object]]:
    """What stands around a step and inside of no compiled graph: what torch records, and the pinned kernel of attention."""
    import torch

    recording = {"inference": torch.inference_mode, "no-grad": torch.no_grad, "grad": torch.enable_grad}[plan.autograd]
    math = isinstance(plan.workload, Traced) and any(
        isinstance(op, Attention) and op.kernel == "math" for op in plan.ops
    )

    def wrapped(call: Callable[[Any], object]) -> Callable[[Any], object]:
        recorded = recording()(call)
        return _by_math(recorded) if math else recorded

    return wrapped


def _laid_out(x: Any, last: bool) -> Any:
    """Images in the order of the plan's convolutions."""
    import torch

    order = torch.channels_last if last else torch.contiguous_format
    return x.contiguous(memory_format=order) if isinstance(x, torch.Tensor) and x.dim() == 4 else x


def _by_math(call: Callable[[Any], object]) -> Callable[[Any], object]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def pinned(module: Any) -> object:
        with sdpa_kernel(SDPBackend.MATH):
            return call(module)

    return pinned
