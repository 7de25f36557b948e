"""■: an interrupt that reached our work says in one line what became of it, and stays the very exception it is.

* A cell that awaits is interrupted by a CancelledError. Raising anything else in its place would break
  `asyncio.timeout`, `gather` and TaskGroup, or kill the kernel: so it is dressed, and let through.
* Where another CancelledError reaches the cell (a TaskGroup raises its own, so does `wait_for` on Python 3.11, and in
  the body of an ``async for`` it is the user's await that is interrupted), the cell's traceback is asked for: IPython
  calls `show`, which dresses that one too.
* A second and a third press, while the first one is dealt with, change nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from . import kernel
from .loop import running

Line = Callable[[], str]

_shell: Any = None
"""The IPython whose tracebacks of interrupts we are asked for."""

_said: tuple[float, str] = (-1.0, "")
"""When something of ours was last interrupted, and the line that says what."""

_open: dict[asyncio.Task[Any], list[Line]] = {}
"""Of each task, what the generators say that it reads now: they do not see what interrupts the body of its loop."""


@contextmanager
def explained(line: Line, *, left: Callable[[], object] | None = None) -> Iterator[None]:
    """Dress an interrupt of the block in one line.

    Parameters
    ----------
    line : callable
        Gives it.
    left : callable, optional
        For the block of a generator, whose reader may be interrupted in the body of its loop, where the generator does
        not see it, and may keep the generator in a variable, which then is never closed: called when such a reader has
        ended.
    """
    listen()
    reader = asyncio.current_task() if left is not None else None
    cancels = reader.cancelling() if reader is not None else 0

    def ended(reader: asyncio.Task[Any]) -> None:
        if left is not None and reader.cancelling() > cancels:
            _say(line())
            left()

    if reader is not None:
        _open.setdefault(reader, []).append(line)
        reader.add_done_callback(ended)
    try:
        yield
    except (asyncio.CancelledError, KeyboardInterrupt) as interrupt:
        dress(interrupt, line())
        raise
    finally:
        if reader is not None:
            reader.remove_done_callback(ended)
            _open[reader].remove(line)
            if not _open[reader]:
                del _open[reader]


def dress(interrupt: BaseException, line: str) -> None:
    """Have an interrupt say this line, and IPython show nothing else of it."""
    interrupt.args = interrupt.args or (line,)  # what somebody else said stays: anyio knows its own by it
    interrupt._ceylon_nb = line  # type: ignore[attr-defined]
    interrupt._render_traceback_ = lambda line=line: [line]  # type: ignore[attr-defined]
    _say(line)


def explain(interrupt: BaseException, task: asyncio.Task[Any] | None) -> str | None:
    """Dress an interrupt that reached the end of a task undressed, if it was ours; returns the line it says."""
    if not hasattr(interrupt, "_ceylon_nb"):
        lines = [line() for line in _open.get(task, ())] if task else []
        when, said = _said
        if not lines and when >= kernel.pressed() > 0:  # said of this press of ■, and not of some time limit before
            lines = [said]
        if lines:
            dress(interrupt, lines[-1])
    line: str | None = getattr(interrupt, "_ceylon_nb", None)
    return line


def _say(line: str) -> None:
    global _said
    _said = time.monotonic(), line


def listen() -> None:
    """In IPython: be asked for the traceback of a CancelledError, and see to it that interrupts do their work.

    A kernel has to survive repeated ones; at the prompt in a terminal, what is awaited has to be cancelled at all. Also
    mends IPython where an ExceptionGroup is the first error of a kernel: it looks for a traceback that was never kept,
    and the cell never ends.
    """
    global _shell
    if _shell is None:
        _shell = kernel.in_ipython()
        if _shell is None:
            return
        if not hasattr(_shell, "_last_traceback"):
            _shell._last_traceback = None
        if hasattr(_shell, "kernel"):
            kernel.see_cells_through(_shell.kernel)
            kernel.watch_cells(_shell)
        else:
            kernel.cancel_on_ctrl_c(_shell)
    if asyncio.CancelledError not in _shell.custom_exceptions:  # or not any more: there is one such handler only
        _show_interrupts(_shell)


def _show_interrupts(shell: Any) -> None:
    """Have IPython call us for the traceback of a CancelledError; for others it calls whom it called before."""
    others, handler = shell.custom_exceptions, shell.CustomTB

    def show(
        shell: Any,
        kind: type[BaseException],
        error: BaseException,
        traceback: TracebackType | None,
        tb_offset: int | None = None,
    ) -> Any:
        if isinstance(error, others):
            return handler(kind, error, traceback, tb_offset)
        explain(error, asyncio.current_task() if running() else None)
        return shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)

    shell.set_custom_exc((*others, asyncio.CancelledError), show)
