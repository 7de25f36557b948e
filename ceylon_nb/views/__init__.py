"""Views: they listen to a batch and draw."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..kernel import in_kernel

if TYPE_CHECKING:
    from ..engine import Batch


def attach(run: Batch, view: str) -> None:
    """Show a batch: ``"auto"``, ``"line"`` (a line in the cell) or ``"terminal"`` (a progress bar).

    ``"auto"`` is the line in a notebook and nothing elsewhere. CEYLON_NB_VIEW=off switches every view off.
    """
    if os.environ.get("CEYLON_NB_VIEW", "").lower() == "off":
        return
    if view == "terminal":
        from . import terminal

        terminal.show(run)
    elif in_kernel():
        from . import line

        line.show(run, asked_for=view == "line")
