"""The parent's end of a measuring child process: ask, read messages as they come, survive the child's death."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import msgspec

from ridgepoint import errors
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

__all__ = ["STEADY", "ChildDied", "Session"]


STEADY = {
    "OMP_NUM_THREADS": "1",
    # glibc gives large blocks back to the kernel after each call, and then every call pays the page faults again, or
    # not, by what ran before: the same operator took 148 or 1043 µs. Kept memory makes it one number.
    "MALLOC_TRIM_THRESHOLD_": "2000000000",
    "MALLOC_MMAP_THRESHOLD_": "2000000000",
    "KINETO_LOG_LEVEL": "99",  # torch's profiler counts activations, and would announce itself on standard error
}
"""Environment of the measuring process; stored with its records."""


class ChildDied(errors.RidgeError):
    """The measuring process was killed (out of memory, most often); what it had sent before is kept."""


class Session:
    """One child process for many requests; it is started at the first, and again after it died."""

    def __init__(self, environment: dict[str, str] | None = None):
        self._environment = {**os.environ, **STEADY, **(environment or {})}
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(
        self,
        request: PairRequest
        | SingleRequest
        | TraceRequest
        | AccuracyRequest
        | MixedRequest
        | CurveRequest
        | TasksRequest
        | CalibrationRequest,
    ) -> Iterator[dict[str, Any]]:
        """Messages up to and including `done`. Raises what the child refused, or ChildDied."""
        child = self._started()
        assert child.stdin is not None and child.stdout is not None
        try:
            child.stdin.write(msgspec.json.encode(request).decode() + "\n")
            child.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None
        try:
            for line in child.stdout:
                if not line.endswith("\n"):
                    break  # killed in the middle of a message
                message = json.loads(line)
                if message["kind"] == "error":
                    raise _error(message)
                yield message
                if message["kind"] == "done":
                    return
        except (KeyboardInterrupt, GeneratorExit):
            self.kill()  # nobody waits for the rest, and it must not be read as the answer to the next request
            raise
        raise self._died()

    def close(self) -> None:
        """End the child; its models go with it."""
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(BrokenPipeError, OSError):
            if child.stdin is not None:
                child.stdin.close()
        try:
            child.wait(timeout=2)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def kill(self) -> None:
        """End the child now, from any thread: whoever waits for its answer gets ChildDied."""
        child = self._child
        if child is not None:
            child.kill()

    def _started(self) -> "subprocess.Popen[str]":
        if self._child is None or self._child.poll() is not None:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "ridgepoint.measurement.worker", str(os.getpid())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment,
                process_group=0,  # Ctrl-C at the terminal is for the parent, which decides what becomes of the child
            )  # fmt: skip
        return self._child

    def _died(self) -> ChildDied:
        child, self._child = self._child, None
        code = child.wait() if child is not None else 0
        if code == -signal.SIGKILL:
            return ChildDied("the measuring process was killed, as the kernel does when memory runs out")
        what = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return ChildDied(f"the measuring process ended with {what}; its own words are on standard error")


def _error(message: dict[str, Any]) -> errors.RidgeError:
    kind = getattr(errors, message["type"], errors.RidgeError)
    error = errors.RidgeError.__new__(kind)
    Exception.__init__(error, message["message"])
    assert isinstance(error, errors.RidgeError)
    return error
