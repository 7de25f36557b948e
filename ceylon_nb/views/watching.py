"""Who is watching: a person at a live front end, or a program that executes notebooks."""

from __future__ import annotations

import os
import sys


def someone_watches() -> bool:
    """Whether a live front end shows this kernel's output: a Jupyter server's session, VS Code or Colab.

    Under nbclient, papermill and nbval nobody watches.
    """
    return "JPY_SESSION_NAME" in os.environ or "VSCODE_PID" in os.environ or "google.colab" in sys.modules
