"""The process of one run: ``python -m crossreid.engine.sweeps.child PARENT`` and the words of ``crossreid train``.

It ends when its launcher is killed, so that nothing goes on writing beside a run that another has taken over.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys

from crossreid.datasets.pool import end_with

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux


def follow(parent: int) -> None:
    """End this process as soon as its parent is gone."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    end_with(parent)


if __name__ == "__main__":
    follow(int(sys.argv[1]))
    from crossreid.engine.training.launch import main

    main(sys.argv[2:])
