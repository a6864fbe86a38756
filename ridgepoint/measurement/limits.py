"""Limits a measuring process puts on itself: end with its parent, use so many threads, take so much memory."""

import ctypes
import os
import signal
import sys
import threading
import time

from ridgepoint.errors import BadInput

__all__ = ["die_with_parent", "limit_address_space", "set_threads"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_POLL_S = 0.5  # two wake-ups a second cannot be seen in a measurement


def die_with_parent(parent: int | None = None) -> None:
    """End this process when its parent ends: by the kernel on Linux, elsewhere by watching for a new parent.

    `parent` is the parent's process id where the child was told it; a parent that ended before this call is noticed
    only then. On Linux it is the thread that started this process whose end counts, so start workers from a thread
    that lasts.
    """
    expected = os.getppid() if parent is None else parent
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            _watch_parent(expected)
    else:
        _watch_parent(expected)
    if os.getppid() != expected:
        os._exit(1)


def set_threads(count: int) -> None:
    """Compute with `count` threads: in libraries loaded from now on and in children, and in torch if it is loaded."""
    if count < 1:
        raise BadInput(f"cannot compute with {count} threads; the least is 1")
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def limit_address_space(count_bytes: int) -> None:
    """Fail allocations beyond `count_bytes` of address space, instead of being killed; macOS ignores it.

    Address space is more than memory: libraries and reserved arenas count, a few GiB with torch.
    """
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (count_bytes if hard == resource.RLIM_INFINITY else min(count_bytes, hard), hard)
    )


def _watch_parent(expected: int) -> None:
    def watch() -> None:
        while os.getppid() == expected:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()
