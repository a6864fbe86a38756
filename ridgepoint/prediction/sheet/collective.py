"""Collectives from the datasheet: what devices of a node tell each other."""

from ridgepoint.errors import NotSupported
from ridgepoint.hardware import node_of
from ridgepoint.prediction.physics.collective import CollectiveParameters, collective_time, direct_kernels, links_of
from ridgepoint.prediction.sheet.context import Sheet, Timed, parameters_for
from ridgepoint.prediction.sheet.linear import alike
from ridgepoint.workload import Collective

__all__ = ["collective_op_time"]

_IN_A_GRAPH = "graph"
"""Steps of a serving stack are CUDA graphs, and so are their collectives."""


def collective_op_time(sheet: Sheet, op: Collective) -> Timed:
    """One call among devices of one node; NotSupported for more than the largest node of the catalogue joins."""
    device, node = sheet.device, node_of(sheet.device.name)
    if node is not None and node.count is not None and op.devices > node.count:
        raise NotSupported(
            f"{op.name}: {op.devices} devices are more than the {node.count} of {node.name}, the largest node of "
            f"{device.name} in the catalogue; across nodes nothing is predicted yet"
        )
    dtypes = (*alike(op.dtype), "bf16", "fp16")
    p, found = parameters_for(
        sheet, "collective", tuple(dict.fromkeys(dtypes)), CollectiveParameters, f"{op.collective} {_IN_A_GRAPH}"
    )
    direct = direct_kernels(found.fit.framework, device.arch)
    return Timed(
        collective_time(links_of(device), p, op.collective, float(op.devices), op.payload_bytes, direct), found
    )
