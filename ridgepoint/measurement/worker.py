"""The measuring child process: JSON requests in by line, JSON messages out by line; it dies with its parent."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from ridgepoint.errors import RidgeError
from ridgepoint.measurement.limits import die_with_parent
from ridgepoint.measurement.request import (
    AccuracyRequest,
    CalibrationRequest,
    CurveRequest,
    MixedRequest,
    PairRequest,
    SingleRequest,
    TasksRequest,
    TraceRequest,
)

__all__ = ["main"]

Request = (
    PairRequest
    | SingleRequest
    | TraceRequest
    | AccuracyRequest
    | MixedRequest
    | CurveRequest
    | TasksRequest
    | CalibrationRequest
)


def main() -> None:
    """Answer requests until standard input ends. Every answer closes with a `done` or an `error` message.

    The argument is the parent's process id: it may have ended before this process could ask for it.
    """
    die_with_parent(int(sys.argv[1]) if len(sys.argv) > 1 else None)
    from ridgepoint.measurement.bench import Bench

    bench = Bench()
    out = sys.stdout
    sys.stdout = sys.stderr  # whatever a library prints must not reach the protocol
    for line in sys.stdin:
        for message in _answer(bench, line):
            out.write(json.dumps(message) + "\n")
            out.flush()


def _answer(bench: Any, line: str) -> Iterator[dict[str, Any]]:
    try:
        request = msgspec.json.decode(line, type=Request)
        if isinstance(request, CalibrationRequest):
            yield from bench.calibrate(request)
        elif isinstance(request, PairRequest):
            yield from bench.pair(request)
        elif isinstance(request, TraceRequest):
            yield from bench.trace(request)
        elif isinstance(request, AccuracyRequest):
            yield from bench.accuracy(request)
        elif isinstance(request, MixedRequest):
            yield from bench.mixed(request)
        elif isinstance(request, CurveRequest):
            yield from bench.curve(request)
        elif isinstance(request, TasksRequest):
            yield from bench.tasks(request)
        else:
            yield from bench.single(request)
    except RidgeError as error:
        yield {"kind": "error", "type": type(error).__name__, "message": str(error)}
    except ImportError as error:
        text = f"measuring needs a package that is not here: {error}; pip install 'ridgepoint[metal]'"
        yield {"kind": "error", "type": "NotSupported", "message": text}
    except MemoryError:
        yield {"kind": "error", "type": "DoesNotFit", "message": "out of memory while building or running the model"}
    except RuntimeError as error:
        # torch reports an allocation that failed, and a kernel that refuses its input, as RuntimeError
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        kind = "DoesNotFit" if "allocate" in text or "out of memory" in text else "NotSupported"
        yield {"kind": "error", "type": kind, "message": text}
        if text.startswith("CUDA error"):
            raise SystemExit(1) from None  # the device's context is lost; the next request starts a fresh process


if __name__ == "__main__":
    main()
