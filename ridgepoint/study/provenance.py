"""Where the numbers of this run come from: machine, versions, and the definitions of the metrics."""

from functools import cache

from ridgepoint.measurement.machine import fingerprint, machine_id
from ridgepoint.measurement.session import STEADY
from ridgepoint.result import METRICS
from ridgepoint.store import Provenance

__all__ = ["provenance"]


@cache
def provenance() -> Provenance:
    """Gathered once per process."""
    found = fingerprint()
    versions = {str(k): str(v) for k, v in dict(found.pop("versions", {})).items()}
    versions["python"] = str(found.get("python", ""))
    machine = {**found, "machine_id": machine_id(found), "environment": STEADY}
    return Provenance(machine, versions, {name: metric.definition for name, metric in METRICS.items()})
