"""as_completed: your own tasks, in the order in which they end, told apart."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Iterable, Mapping
from typing import Any, Generic, NoReturn, TypeVar

from .loop import FAREWELL, awake

T = TypeVar("T")


def as_completed(tasks: Iterable[Awaitable[T]] | Mapping[Any, Any]) -> Completions[T]:
    """Yield the very tasks that were given, done, in the order in which they end.

    ``async for task in as_completed(tasks): item = tasks[task]; result = await task``

    Parameters
    ----------
    tasks : iterable of tasks, futures or coroutines; or a mapping
        Of a mapping, the keys. A coroutine is wrapped, and its task is yielded. One given twice is yielded once.

    Notes
    -----
    Leaving the loop early cancels only what was started here, the wrapped coroutines. An interrupt while waiting
    cancels every task that is not done, once, and waits a moment for them to end.
    """
    return Completions(tasks)


class Completions(Generic[T]):
    """What `as_completed` returns: to be read with ``async for``, once."""

    def __init__(self, tasks: Iterable[Awaitable[T]] | Mapping[Any, Any]) -> None:
        if isinstance(tasks, (str, bytes)) or not isinstance(tasks, Iterable):
            raise TypeError(f"as_completed takes the tasks in a list, a dict or the like, not {type(tasks).__name__}.")
        self._given = list(dict.fromkeys(tasks))
        for each in self._given:
            if not isinstance(each, Awaitable):
                raise TypeError(f"as_completed takes tasks or coroutines, not {type(each).__name__}: {each!r:.80}")

    def __iter__(self) -> NoReturn:
        raise TypeError(
            "A plain `for` cannot know which task ends next. Write: async for task in as_completed(tasks): "
            "result = await task"
        )

    async def __aiter__(self) -> AsyncGenerator[asyncio.Future[T], None]:
        started: list[asyncio.Future[T]] = []
        futures: list[asyncio.Future[T]] = []
        for each in self._given:
            future = asyncio.ensure_future(each)
            futures.append(future)
            if future is not each:
                started.append(future)
        done: deque[asyncio.Future[T]] = deque()
        news = asyncio.Event()

        def ended(future: asyncio.Future[T]) -> None:
            done.append(future)
            news.set()

        for future in futures:
            future.add_done_callback(ended)
        try:
            for _ in futures:
                while not done:
                    news.clear()
                    with awake():
                        await news.wait()
                yield done.popleft()
        except asyncio.CancelledError:
            await _stop(futures)
            raise
        finally:
            for future in futures:
                future.remove_done_callback(ended)
            for future in started:
                if not future.done() and not _cancelling(future):
                    future.cancel()
                future.add_done_callback(_retrieve)


async def _stop(futures: Iterable[asyncio.Future[Any]]) -> None:
    """Cancel each that is not done, once, and wait a bounded time."""
    running = [future for future in futures if not future.done()]
    for future in running:
        if not _cancelling(future):
            future.cancel()
    if running:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(running, timeout=FAREWELL)


def _cancelling(future: asyncio.Future[Any]) -> bool:
    return isinstance(future, asyncio.Task) and future.cancelling() > 0


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
