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
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from .kernel import cancel_on_ctrl_c, cancelled_by_sigint, in_ipython
from .loop import running

_shell: Any = None
"""The IPython whose tracebacks of interrupts we are asked for."""

_said: tuple[int, str] = (-1, "")
"""The number of the cell in which something of ours was last interrupted, and the line that says what."""

_open: dict[asyncio.Task[Any], list[Callable[[], str]]] = {}
"""Of each task, the generators it reads now: they do not see what interrupts the body of its loop."""


@contextmanager
def explained(line: Callable[[], str], *, reading: bool = False) -> Iterator[None]:
    """Dress an interrupt of the block in one line.

    Parameters
    ----------
    line : callable
        Gives it.
    reading : bool
        The block is a generator's: the line is true, too, of an interrupt of the loop that reads it.
    """
    listen()
    reader = asyncio.current_task() if reading else None
    if reader is not None:
        _open.setdefault(reader, []).append(line)
    try:
        yield
    except (asyncio.CancelledError, KeyboardInterrupt) as interrupt:
        dress(interrupt, line())
        raise
    finally:
        if reader is not None:
            _open[reader].remove(line)
            if not _open[reader]:
                del _open[reader]


def dress(interrupt: BaseException, line: str) -> None:
    """Have an interrupt say this line, and IPython show nothing else of it."""
    global _said
    interrupt.args = interrupt.args or (line,)  # what somebody else said stays: anyio knows its own by it
    interrupt._render_traceback_ = lambda line=line: [line]  # type: ignore[attr-defined]
    if _shell is not None:
        _said = _shell.execution_count, line


def listen() -> None:
    """In IPython, once: be asked for the traceback of a CancelledError, and see to it that interrupts do their work.

    A kernel has to survive repeated ones; at the prompt in a terminal, what is awaited has to be cancelled at all. Also
    mends IPython where an ExceptionGroup is the first error of a kernel: it looks for a traceback that was never kept,
    and the cell never ends.
    """
    global _shell
    shell = in_ipython() if _shell is None else None
    if shell is None:
        return
    _shell = shell
    if not hasattr(shell, "_last_traceback"):
        shell._last_traceback = None
    _show_interrupts(shell)
    if not hasattr(shell, "kernel"):
        cancel_on_ctrl_c(shell)
    elif hasattr(shell.kernel, "_cancel_on_sigint"):
        shell.kernel._cancel_on_sigint = functools.partial(cancelled_by_sigint, then_raised=False)


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
        if not hasattr(error, "_render_traceback_"):
            task = asyncio.current_task() if running() else None
            lines = [line() for line in _open.get(task, ())] if task else []
            if not lines and _said[0] == shell.execution_count:
                lines = [_said[1]]
            if lines:
                dress(error, lines[-1])
        return shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)

    shell.set_custom_exc((*others, asyncio.CancelledError), show)
