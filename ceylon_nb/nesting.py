"""`enable_nesting`: a script that calls `asyncio.run` works inside a cell, where a loop already runs.

* Opt-in, and for the whole process: it patches asyncio, by nest-asyncio2. Nothing in this library needs it.
* nest-asyncio 1.6.0 (archived) drops messages that reach an ipykernel 7 during a nested run: there it is refused.
* In a nested run SIGINT would be raised in whichever task is at work, a background batch's too. As in a plain
  `asyncio.run`, the first one cancels what is being run, and nothing else.
* Where no loop runs, `asyncio.run` stays Python's own: a loop of its own, closed at its end.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from .errors import ConfigurationError
from .interrupts import dress, explain
from .kernel import cancelled_by_sigint, raises
from .loop import retrieve, running

T = TypeVar("T")

_plain_run: Callable[..., Any] | None = None
"""Python's own `asyncio.run`, once nesting is enabled."""


def enable_nesting() -> None:
    """Let ``asyncio.run(main())`` and ``loop.run_until_complete(…)`` work in a cell; call it once, in any cell.

    It patches asyncio for the whole process, by nest-asyncio2 (https://github.com/Chaoses-Ib/nest-asyncio2).
    ``await main()`` in a cell needs none of it.

    Raises
    ------
    ConfigurationError
        The loop is not asyncio's own (uvloop cannot be nested); or nest-asyncio is applied already, on ipykernel 7 or
        newer.

    Examples
    --------
    >>> import asyncio
    >>> import ceylon_nb
    >>> async def main():
    ...     await asyncio.sleep(0)
    ...     return "done"
    >>> ceylon_nb.enable_nesting()
    >>> asyncio.run(main())
    'done'
    """
    global _plain_run
    if _archived() and _ipykernel() >= 7:
        raise ConfigurationError(
            "nest_asyncio.apply() was called here, and on ipykernel 7 and newer it silently drops queued cells and "
            "clicks. Restart the kernel and call ceylon_nb.enable_nesting() alone: it uses nest-asyncio2, which keeps "
            "them."
        )
    plain_run = asyncio.run  # noqa: TID251 - it is what is being replaced
    loop = running()
    if loop is not None:
        _nestable(loop)
    else:
        loop = asyncio.new_event_loop()
        _nestable(loop)
        loop.close()
    if _plain_run is None:
        _plain_run = plain_run
    asyncio.run = _run  # noqa: TID251 - likewise


def _archived() -> bool:
    """Whether nest-asyncio, and not nest-asyncio2, was applied here."""
    return hasattr(asyncio, "_nest_patched") and not hasattr(asyncio, "_nest_asyncio2")


def _ipykernel() -> int:
    """Which ipykernel this runs in; 0 for none."""
    found = sys.modules.get("ipykernel")
    return int(found.version_info[0]) if found else 0


def _nestable(loop: asyncio.AbstractEventLoop) -> None:
    """Have loops of this kind run within themselves, and be interrupted there."""
    if not isinstance(loop, asyncio.BaseEventLoop):
        raise ConfigurationError(
            f"A loop of {type(loop).__module__.partition('.')[0]} cannot run within itself: write `await main()` in "
            "place of `asyncio.run(main())`, or use asyncio's own loop."
        )
    importlib.import_module("nest_asyncio" if _archived() else "nest_asyncio2").apply(loop)
    kind: Any = type(loop)
    if not hasattr(kind.run_until_complete, "_ceylon_nb"):
        kind.run_until_complete = _interruptible(kind.run_until_complete)


def _run(main: Coroutine[Any, Any, T], *, debug: bool | None = None, **options: Any) -> T:
    """As `asyncio.run`; where a loop runs, on that one, whose debug mode is what it was before in the end."""
    assert _plain_run is not None
    loop = running()
    if loop is None:
        result: T = _plain_run(main, debug=debug, **options)
        return result
    if not asyncio.iscoroutine(main):
        raise ValueError(f"a coroutine was expected, got {main!r}")
    try:
        _nestable(loop)
    except ConfigurationError:
        main.close()
        raise
    before = loop.get_debug()
    if debug is not None:
        loop.set_debug(debug)
    try:
        return loop.run_until_complete(main)
    finally:
        loop.set_debug(before)


def _interruptible(nested: Callable[..., Any]) -> Callable[..., Any]:
    """`run_until_complete` that SIGINT ends by cancelling what it runs, where it runs within a loop."""

    @functools.wraps(nested)
    def run_until_complete(loop: asyncio.AbstractEventLoop, future: Any) -> Any:
        handler = signal.getsignal(signal.SIGINT)
        on_main_thread = threading.current_thread() is threading.main_thread()
        if running() is None or not on_main_thread or not callable(handler):
            return nested(loop, future)
        task = asyncio.ensure_future(future, loop=loop)
        task.add_done_callback(retrieve)
        with cancelled_by_sigint(task) as interrupted:
            try:
                return nested(loop, task)
            except asyncio.CancelledError as error:
                if not (interrupted() and raises(handler)):
                    raise
                line = explain(error, task)
        interrupt = KeyboardInterrupt()  # what a sync cell expects, where an async one is cancelled
        if line is not None:
            dress(interrupt, line)
        raise interrupt

    run_until_complete._ceylon_nb = True  # type: ignore[attr-defined]
    return run_until_complete
