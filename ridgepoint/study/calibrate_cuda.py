"""Calibrates a GPU stage by stage, each a request of its own: a stage that fails, hangs or dies costs only itself."""

import threading
import time
from collections.abc import Callable
from typing import Any

from ridgepoint.errors import RidgeError
from ridgepoint.measurement.calibrate.cuda_grid import CudaStage, stages
from ridgepoint.measurement.request import CalibrationRequest
from ridgepoint.measurement.session import Session

__all__ = ["cuda_samples"]

_GRACE_S = 40.0
"""Beyond a stage's own limit, for starting CUDA and for the point in flight; then its process is ended."""
_LEAST_S = 2.0


def cuda_samples(
    on_sample: Callable[[str, int], None], limit_s: float, rehearse: bool, session: Session
) -> tuple[list[dict[str, Any]], str]:
    """(samples, load) of all stages that `limit_s` leaves time for; a stage left out is an `absent` sample.

    Raises what the first stage raises: without a device there is nothing to calibrate.
    """
    samples: list[dict[str, Any]] = []
    load, until = "", time.monotonic() + limit_s
    for stage in stages(rehearse):
        left = until - time.monotonic()
        if left < _LEAST_S and samples:
            samples.append(_absent(stage, f"the calibration's {limit_s:.0f} s were used up"))
            continue
        try:
            load = _stage(session, stage, min(stage.seconds, left), rehearse, samples, on_sample) or load
        except RidgeError as error:
            if not samples:
                raise
            samples.append(_absent(stage, str(error)))
    return samples, load


def _stage(
    session: Session, stage: CudaStage, limit_s: float, rehearse: bool,
    samples: list[dict[str, Any]], on_sample: Callable[[str, int], None],
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
                on_sample(message["title"], len(samples))
            elif message["kind"] == "done":
                load = str(message["load"])
    finally:
        watchdog.cancel()
    return load


def _absent(stage: CudaStage, reason: str) -> dict[str, Any]:
    return {"probe": "absent", "of": stage.name, "absent": reason}
