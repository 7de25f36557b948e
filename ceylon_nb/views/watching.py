"""Who is watching: a person at a live front end, or a program that executes notebooks."""

from __future__ import annotations

import contextlib
import functools
import os
import sys

import psutil


def someone_watches() -> bool:
    """Whether a live front end shows this kernel's output: a Jupyter server's session, VS Code or Colab.

    Under nbclient, papermill and nbval nobody watches, also where a notebook's cell has started them.
    """
    served = "JPY_SESSION_NAME" in os.environ or "VSCODE_PID" in os.environ or "google.colab" in sys.modules
    return served and not _begun_by_a_kernel()


@functools.cache
def _begun_by_a_kernel() -> bool:
    """Whether another kernel is among the processes above this one: what it has in its environment is not ours."""
    with contextlib.suppress(psutil.Error):
        return any("ipykernel_launcher" in " ".join(process.cmdline()) for process in psutil.Process().parents())
    return False
