"""Calibrates a GPU stage by stage, each a request of its own: a stage that fails, hangs or dies costs only itself."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from ridgepoint.errors import RidgeError
from ridgepoint.measurement.calibrate.cuda_grid import CudaStage, stages
from ridgepoint.measurement.request import CalibrationRequest
from ridgepoint.measurement.session import Session
from ridgepoint.study.journal import Probe

__all__ = ["cuda_probes"]

_GRACE_S = 40.0
"""Beyond a stage's own limit, for starting CUDA and for the point in flight; then its process is ended."""
_LEAST_S = 2.0


def cuda_probes(
    session: Session, sampled: Callable[[str], None], done: tuple[str, ...], loads: list[str], limit_s: float, rehearse: bool
) -> Iterator[Probe]:  # fmt: skip
    """Each stage that is not done, when it is finished; one that `limit_s` leaves no time for, or that fails, ends in
    an `absent` sample. The load during the last one is left in `loads`.

    Raises what the first stage raises: without a device there is nothing to calibrate.
    """
    until, begun = time.monotonic() + limit_s, bool(done)
    for stage in stages(rehearse):
        if stage.name in done:
            continue
        left = until - time.monotonic()
        samples = list[dict[str, Any]]()
        if left < _LEAST_S and begun:
            samples.append(_absent(stage, f"the calibration's {limit_s:.0f} s were used up"))
        else:
            try:
                loads[:] = [_stage(session, stage, min(stage.seconds, left), rehearse, samples, sampled)]
            except RidgeError as error:
                if not begun and not samples:
                    raise
                samples.append(_absent(stage, str(error)))
        begun = True
        yield Probe(stage.name, samples)


def _stage(
    session: Session, stage: CudaStage, limit_s: float, rehearse: bool,
    samples: list[dict[str, Any]], sampled: Callable[[str], None],
) -> str:  # fmt: skip
    request = CalibrationRequest(
        cache_sizes={}, cores=1, device="cuda", stage=stage.name, limit_s=limit_s, rehearse=rehearse
    )
    watchdog = threading.Timer(limit_s + _GRACE_S, session.kill)
    watchdog.daemon = True
    watchdog.start()
    load = ""
    try:
        for message in session.ask(request):
            if message["kind"] == "sample":
                samples.append(message["sample"])
                sampled(message["title"])
            elif message["kind"] == "done":
                load = str(message["load"])
    finally:
        watchdog.cancel()
    return load


def _absent(stage: CudaStage, reason: str) -> dict[str, Any]:
    return {"probe": "absent", "of": stage.name, "absent": reason}
