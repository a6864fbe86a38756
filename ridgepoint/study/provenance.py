"""Where the numbers of this run come from: machine, versions with the commit, and the definitions of the metrics."""

import subprocess
from functools import cache
from pathlib import Path

import ridgepoint
from ridgepoint.measurement.machine import fingerprint, machine_id
from ridgepoint.measurement.session import STEADY
from ridgepoint.result import METRICS
from ridgepoint.store import Provenance

__all__ = ["commit", "provenance"]


@cache
def provenance() -> Provenance:
    """Gathered once per process."""
    found = fingerprint()
    versions = {str(k): str(v) for k, v in dict(found.pop("versions", {})).items()}
    versions["python"] = str(found.get("python", ""))
    if here := commit(Path(ridgepoint.__file__).parents[1]):
        versions["commit"] = here
    machine = {**found, "machine_id": machine_id(found), "environment": STEADY}
    return Provenance(machine, versions, {name: metric.definition for name, metric in METRICS.items()})


def commit(checkout: Path) -> str:
    """The commit of a git checkout, with `-dirty` where files differ from it; "" for an installed package."""
    if not (checkout / ".git").exists():
        return ""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()
