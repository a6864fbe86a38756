"""Whether a fit saw a file: by its content where that is on record, since another file may bear the same name."""

from pathlib import Path

from ridgepoint.hardware import load_arch
from ridgepoint.prediction.physics.found import Found
from ridgepoint.study.published.table import fingerprint

__all__ = ["fitted_on"]


def fitted_on(found: Found, path: Path, machine: str) -> bool:
    """Whether the parameters were fitted to this very file, by whatever name, with rows of this machine in it.

    A part of the file, or a copy that was changed, is not recognised. Of a file without a fingerprint the name decides.
    """
    if machine not in found.fit.gpus:
        return False
    sources, content = load_arch(found.arch).sources, fingerprint(path)
    return any(
        content in sources.get(file, "") or ("sha256" not in sources.get(file, "") and file == path.name)
        for file in found.fit.files
    )
