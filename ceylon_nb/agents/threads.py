"""Functions that block: each call in a thread of its own, never on the loop.

* No pool: a function that asks synchronously, and so waits for another, would fill it and wait for itself.
* Daemons: a function that hangs does not keep Python from ending.
* Whoever waits can be cancelled, a thread cannot: the wait ends at once, the thread when it likes. Who has to know that
  (a mesh gives an agent its next message then, not before) puts a list into `running`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar, copy_context
from typing import Any

from ..errors import CeylonError, ungrouped
from ..kernel import just_interrupted
from ..loop import call_in

running: ContextVar[list[asyncio.Future[None]] | None] = ContextVar("running", default=None)
"""Where one is set, `in_thread` appends a future for each thread that it begins: done when the thread has ended."""


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a thread of its own, with the context variables of here, and wait for what it returns.

    A cancelled wait ends at once; what the thread then comes to is dropped.

    Raises
    ------
    CeylonError
        The function wanted to end Python, which would take the kernel along: ``sys.exit()``.
    """
    result, error = await _outcome(function, args)
    if error is None:
        return result
    try:
        raise _survivable(error)
    finally:
        del error  # its traceback holds this frame: a circle


async def _outcome(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    """What the function returns in a thread, or raises: a future would refuse a StopIteration."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    waiting = [answer]  # emptied: an error's traceback holds the frames of its thread, which must not hold the error
    ended: asyncio.Future[None] = loop.create_future()
    threads, context = running.get(), copy_context()
    context.run(running.set, None)  # what it begins on other loops is not for this one to wait for

    def work() -> None:
        call_in(loop, finish, context.run(_tried, function, args))

    def finish(outcome: tuple[Any, BaseException | None]) -> None:
        ended.set_result(None)
        future = waiting.pop()
        if not future.done():
            future.set_result(outcome)
        elif inspect.iscoroutine(outcome[0]):
            outcome[0].close()  # or Python says that nobody awaited it

    threading.Thread(target=work, name=f"ceylon-nb {_name(function)}", daemon=True).start()
    if threads is not None:
        threads.append(ended)
    return await answer


def _tried(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    try:
        return function(*args), None
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is for whoever called
        return None, error


async def call(function: Callable[..., Any], *args: Any, named: Mapping[str, Any] | None = None) -> Any:
    """Call any function: an async one here, another in a thread; an awaitable that it returns is awaited here.

    Raises
    ------
    BaseException
        What the function raises; of an ExceptionGroup the first, as a group can hang a kernel.
    CeylonError
        It wanted to end Python.
    """
    try:
        if is_async(function):
            return await function(*args, **(named or {}))
        result = await in_thread(functools.partial(function, *args, **(named or {})))
        return await result if inspect.isawaitable(result) else result
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and just_interrupted():
            raise
        failure = _survivable(error)
        failure = ungrouped(failure) if isinstance(failure, Exception) else failure
    try:
        raise failure
    finally:
        del failure


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it runs nothing yet: an ``async def``, or an object whose ``__call__`` is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _survivable(error: BaseException) -> BaseException:
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        return CeylonError(f"The function wanted to end Python: {error!r}")
    return error


def _name(function: Callable[..., Any]) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))
