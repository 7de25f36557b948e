"""Views: they listen to a batch and draw."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from ..kernel import in_kernel
from .watching import someone_watches

if TYPE_CHECKING:
    from ..handle import Batch
    from .watched import Watched

log = logging.getLogger("ceylon_nb")


def attach(run: Batch, view: str) -> None:
    """Show a batch.

    ``"auto"``: in a notebook the panel, or where nobody watches (nbclient, papermill, nbval) a summary in the end; and
    nothing elsewhere. ``"panel"``, ``"static"``: one of these, whoever watches. ``"terminal"``: a progress bar.
    CEYLON_NB_VIEW=off switches every view off.
    """
    if switched_off():
        return
    if view == "terminal":
        from . import terminal

        terminal.show(run)
    elif in_kernel():
        from . import cell

        if view == "panel" or (view == "auto" and someone_watches()):
            cell.show_panel(run)
        else:
            cell.show_summary(run)


def needed() -> tuple[str, ...]:
    """The modules that take 0.1 s to import when the first batch is shown; none where nobody will see one."""
    seen = in_kernel() and not switched_off() and someone_watches()
    return (f"{__name__}.cell", f"{__name__}.panel", "numpy") if seen else ()


def display(run: Watched) -> None:
    """What a notebook shows of a batch that is a cell's last line.

    Raises
    ------
    NotImplementedError
        Nothing but its repr; IPython knows what that means.
    """
    shown = False
    if in_kernel() and not switched_off():
        from . import cell

        try:
            shown = cell.show_again(run)
        except Exception:
            log.exception("%r could not be shown", run)
    if not shown:
        raise NotImplementedError


def switched_off() -> bool:
    """Whether CEYLON_NB_VIEW says that nothing is to be shown."""
    return os.environ.get("CEYLON_NB_VIEW", "").lower() == "off"
