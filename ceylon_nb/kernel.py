"""The kernel, if there is one, and its SIGINT: what ■ sends, and Ctrl-C.

Nothing here knows of our work.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import math
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


def in_ipython() -> Any:
    """The IPython shell whose cells run in this thread, the main one; None elsewhere."""
    if "IPython" not in sys.modules or threading.current_thread() is not threading.main_thread():
        return None
    from IPython import get_ipython

    return get_ipython()  # type: ignore[no-untyped-call, unused-ignore]


def in_kernel() -> bool:
    """Whether this is a Jupyter kernel's main thread: the place where something can be displayed in a cell."""
    return hasattr(in_ipython(), "kernel")


def this_cell() -> str:
    """What the cell that is executed here is known by. Its number would not do: nbval leaves it at 1."""
    parent: dict[str, Any] = in_ipython().get_parent()
    return str(parent.get("header", {}).get("msg_id"))


_executing = False


def watch_cells(shell: Any) -> None:
    """Know from now on whether a cell is being executed; called in one."""
    _begun()
    shell.events.register("pre_run_cell", _begun)
    shell.events.register("post_run_cell", _ended)


def executing() -> bool:
    """Whether a cell is being executed, after `watch_cells`."""
    return _executing


def _begun(*_: object) -> None:
    global _executing
    _executing = True


def _ended(*_: object) -> None:
    global _executing
    _executing = False


# -- interrupts -----------------------------------------------------------------------------------------------------

GRACE = 1.0
"""Seconds after an interrupt in which another one changes nothing: what was stopped is given time to end.

One that hits a kernel while it shows the first, or replies, costs the reply, and all cells after it.
"""

_pressed = -math.inf


def pressed() -> float:
    """When an interrupt last did its work, by `time.monotonic`; below 0 for never."""
    return _pressed


class _Patient:
    """A handler of SIGINT that ignores it until GRACE is over, and raises KeyboardInterrupt from then on."""

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if time.monotonic() - _pressed > GRACE:
            signal.default_int_handler(number, frame)


_patient = _Patient()


def ignore_repeats() -> None:
    """After an interrupt of a sync cell; the kernel sets the handler anew for the next one."""
    global _pressed
    if in_kernel() and raises(signal.getsignal(signal.SIGINT)):
        _pressed = time.monotonic()
        signal.signal(signal.SIGINT, _patient)


def raises(handler: object) -> bool:
    """Whether a handler of SIGINT raises KeyboardInterrupt, as in a script or a sync cell."""
    return handler is signal.default_int_handler or handler is _patient


@contextmanager
def cancelled_by_sigint(task: asyncio.Task[Any], *, then_raised: bool = True) -> Iterator[Callable[[], bool]]:
    """SIGINT cancels the task; one more, later than GRACE, is raised, or else cancels again. Yields whether one came.

    The handler that was there is not called: an async cell's would cancel the cell's own task in the midst of its step,
    and the kernel with it. In a kernel, if one came, repeats of it stay without effect afterwards.
    """
    began = time.monotonic()

    def interrupted() -> bool:
        return _pressed >= began

    def interrupt(number: int, frame: FrameType | None) -> None:
        global _pressed
        if interrupted():
            if time.monotonic() - _pressed < GRACE:
                return
            if then_raised:
                raise KeyboardInterrupt
        _pressed = time.monotonic()
        task.get_loop().call_soon_threadsafe(task.cancel)

    handler = signal.signal(signal.SIGINT, interrupt)
    in_a_cell = raises(handler) and in_kernel()
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, _patient if in_a_cell and interrupted() else handler)


def see_cells_through(kernel: Any) -> None:
    """Have a kernel's async cells interrupted by `cancelled_by_sigint`, from their beginning until they are replied to.

    ipykernel's own way puts Python's handler back before it replies, and counts a cell's first interrupt only.
    """
    if not (hasattr(kernel, "_cancel_on_sigint") and hasattr(kernel, "_restore_input")):
        return
    kernel._cancel_on_sigint = functools.partial(cancelled_by_sigint, then_raised=False)
    handler = signal.getsignal(signal.SIGINT)
    if raises(handler) or not callable(handler):
        return

    # This very cell is an async one, and has begun in ipykernel's own way, whose end it calls `_restore_input` after.
    began, restore_input = time.monotonic(), kernel._restore_input

    def interrupt(number: int, frame: FrameType | None) -> None:
        global _pressed
        _pressed = time.monotonic()
        handler(number, frame)

    def restore() -> None:
        if _pressed >= began:
            signal.signal(signal.SIGINT, _patient)
        kernel._restore_input = restore_input
        restore_input()

    signal.signal(signal.SIGINT, interrupt)
    kernel._restore_input = restore


_interrupted: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
"""Loops in which SIGINT ended a call that blocked them, and which have not come round since."""


def just_interrupted() -> bool:
    """Whether SIGINT ended a call that blocked the running loop, in this very round: nobody may block it again."""
    return asyncio.get_running_loop() in _interrupted


def interruptibly(block: Callable[[], object]) -> None:
    """Call what blocks a running loop; SIGINT ends it.

    The handler of `asyncio.run`, or ipykernel's for a cell that awaits, leaves everything to the loop, which is what
    waits here: so what waits is cancelled, as if it had awaited.
    """
    loop = asyncio.get_running_loop()
    if loop in _interrupted:
        raise asyncio.CancelledError
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler) or raises(handler):
        block()
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, handler)
        handler(number, frame)
        _interrupted.add(loop)
        loop.call_soon(_interrupted.discard, loop)
        raise asyncio.CancelledError

    try:
        signal.signal(signal.SIGINT, interrupt)
        block()
    finally:
        signal.signal(signal.SIGINT, handler)


def cancel_on_ctrl_c(shell: Any) -> None:
    """Have IPython's prompt in a terminal cancel what it awaits, as a kernel does.

    Its own runner lets KeyboardInterrupt leave the loop in the middle of everything, with all requests open.
    """
    helpers: Any = importlib.import_module("IPython.core.async_helpers")

    def run(cell: Coroutine[Any, Any, Any]) -> Any:
        loop = helpers.get_asyncio_loop()
        task = loop.create_task(cell)
        with cancelled_by_sigint(task):
            return loop.run_until_complete(task)

    if shell.loop_runner is getattr(helpers, "_asyncio_runner", None):  # and not trio's, or the user's own
        shell.loop_runner = run
