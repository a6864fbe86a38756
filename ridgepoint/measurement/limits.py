"""A measuring process ends with its parent."""

import ctypes
import os
import signal
import sys
import threading
import time

__all__ = ["die_with_parent"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
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


def _watch_parent(expected: int) -> None:
    def watch() -> None:
        while os.getppid() == expected:
            time.sleep(_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, name="die-with-parent", daemon=True).start()
