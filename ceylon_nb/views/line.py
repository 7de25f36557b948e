"""One line in the cell that began the batch, kept up to date. It stands in until the panel exists."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from IPython import get_ipython
from IPython.display import DisplayHandle

if TYPE_CHECKING:
    from ..engine import Batch

_shown_in: WeakKeyDictionary[Batch, int] = WeakKeyDictionary()
"""The number of the cell that last showed each batch."""


def show(run: Batch, *, asked_for: bool = False) -> None:
    """Show the line if a person may be watching, or if it was asked for by name.

    Under nbclient, papermill and nbval nobody watches, and what they keep must be the same each time: nothing is
    shown there, and `repr(run)` says how it ended.
    """
    if not (asked_for or someone_watches()):
        return
    shell = get_ipython()
    _shown_in[run] = shell.execution_count
    shell.display_formatter.ipython_display_formatter.for_type_by_name("ceylon_nb.engine", "Batch", _show_again)
    handle = DisplayHandle()  # type: ignore[no-untyped-call]
    handle.display({"text/plain": text(run)}, raw=True)  # type: ignore[no-untyped-call]

    def paint(batch: Batch) -> None:
        handle.update({"text/plain": text(batch)}, raw=True)  # type: ignore[no-untyped-call]

    run.subscribe(paint)


def _show_again(run: Batch) -> bool:
    """What a cell shows whose last line is a batch: nothing if the line stands there already, else the line."""
    if _shown_in.get(run) != get_ipython().execution_count:
        show(run, asked_for=True)
    return True


def someone_watches() -> bool:
    """Whether a live front end shows this kernel's output: a Jupyter server's session, VS Code or Colab."""
    return "JPY_SESSION_NAME" in os.environ or "VSCODE_PID" in os.environ or "google.colab" in sys.modules


def text(run: Batch) -> str:
    """``Classify the review… · 1,854 of 3,000 · 24 failed · 8 in flight · 31/s · 0:37 left``."""
    counts = run.counts
    done = counts["ok"] + counts["failed"]
    title = " ".join(run.title.split())
    parts = [title if len(title) <= 40 else f"{title[:39]}…"]
    if run.from_store:
        parts.append(f"{run.from_store:,} from the store; fresh=True asks anew")
    parts.append(f"{done:,} of {run.total:,}" if run.total is not None else f"{done:,}")
    parts += [f"{counts[name]:,} {name}" for name in ("failed", "cancelled", "in flight") if counts[name]]
    rate = (done - run.from_store) / run.elapsed if run.elapsed else 0.0
    if run.finished:
        parts.append(f"{run.state} in {_minutes(run.elapsed)}")
    elif run.state == "paused":
        parts.append("paused")
    elif rate:
        parts.append(f"{rate:,.1f}/s")
        if run.total is not None:
            parts.append(f"{_minutes((run.total - done) / rate)} left")
    return " · ".join(parts)


def _minutes(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
