"""as_completed: your own tasks, in the order in which they end, told apart."""

from __future__ import annotations

import asyncio
import contextlib
import pkgutil
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Iterable, Mapping
from typing import Any, Generic, NoReturn, TypeVar

from .interrupts import explained
from .loop import awake, cancel_once, end, retrieve
from .taskrun import TaskRun

VIEWS = "ceylon_nb.views:attach"
"""Who shows them in a panel; found by name, as nothing here imports a view."""

T = TypeVar("T")


def as_completed(tasks: Iterable[Awaitable[T]] | Mapping[Any, Any], *, panel: bool = False) -> Completions[T]:
    """Yield the very tasks that were given, done, in the order in which they end.

    Parameters
    ----------
    tasks : iterable of tasks, futures or coroutines; or a mapping
        Of a mapping, the keys. A coroutine is wrapped, and its task is yielded. One given twice is yielded once.
    panel : bool
        In a notebook, show them in the live panel: how many have ended, each one's result, and a button that cancels
        them all. What a mapping says of a task is shown beside its result.

    Returns
    -------
    Completions
        For ``async for``, once. What a task raised is raised by ``await task``, not here.

    Raises
    ------
    TypeError
        These are no tasks; or a plain ``for``, which cannot know which task ends next.

    Notes
    -----
    Leaving the loop early cancels only what was started here, the wrapped coroutines. An interrupt cancels every task
    that is not done, once, and waits a moment for them to end.

    Examples
    --------
    >>> import asyncio
    >>> from ceylon_nb import as_completed
    >>> async def boil(pot, seconds):
    ...     await asyncio.sleep(seconds)
    ...     return f"{pot} boils"
    >>> tasks = {asyncio.create_task(boil(pot, s)): pot for pot, s in [("large", 0.2), ("small", 0.01)]}
    >>> async for task in as_completed(tasks):
    ...     print(tasks[task], await task, sep=": ")
    small: small boils
    large: large boils
    """
    return Completions(tasks, panel=panel)


class Completions(Generic[T]):
    """What `as_completed` returns: to be read with ``async for``, once.

    Raises
    ------
    TypeError
        These are no tasks; or it is read by a plain ``for``.
    """

    def __init__(self, tasks: Iterable[Awaitable[T]] | Mapping[Any, Any], *, panel: bool = False) -> None:
        if isinstance(tasks, (str, bytes, Awaitable)) or not isinstance(tasks, Iterable):
            raise TypeError(f"as_completed takes the tasks in a list, a dict or the like, not {type(tasks).__name__}.")
        self._panel = panel
        self._given = list(dict.fromkeys(tasks))
        self._asked = tasks if isinstance(tasks, Mapping) else None
        wanted = "tasks or coroutines" + (" (a mapping's keys)" if isinstance(tasks, Mapping) else "")
        for each in self._given:
            if isinstance(each, AsyncIterable):  # a Batch: to await it is to own it
                raise TypeError(f"as_completed takes {wanted}; a {type(each).__name__} is read by itself.")
            if not isinstance(each, Awaitable):
                raise TypeError(f"as_completed takes {wanted}, not {type(each).__name__}: {each!r:.80}")

    def __iter__(self) -> NoReturn:
        raise TypeError(
            "A plain `for` cannot know which task ends next. Write: async for task in as_completed(tasks): "
            "result = await task"
        )

    async def __aiter__(self) -> AsyncGenerator[asyncio.Future[T], None]:
        loop, consumer = asyncio.get_running_loop(), asyncio.current_task()
        cancels = consumer.cancelling() if consumer else 0
        started: list[asyncio.Future[T]] = []
        futures: list[asyncio.Future[T]] = []
        done: deque[asyncio.Future[T]] = deque()
        news = asyncio.Event()
        shown: TaskRun | None = None

        def ended(future: asyncio.Future[T]) -> None:
            done.append(future)
            news.set()

        def cancel() -> None:
            for future in futures:
                cancel_once(future)
                future.add_done_callback(retrieve)

        def interrupted() -> str:
            finished = sum(future.done() and not future.cancelled() for future in futures)
            return f"Interrupted: {finished:,} of {len(futures):,} tasks had ended; the others are cancelled."

        with explained(interrupted, left=cancel):
            try:
                for each in self._given:
                    future = asyncio.ensure_future(each, loop=loop)
                    futures.append(future)
                    if future is not each:
                        started.append(future)
                if self._panel:
                    shown = self._show(futures)
                for future in futures:
                    future.add_done_callback(ended)
                for _ in futures:
                    while not done:
                        news.clear()
                        with awake():
                            await news.wait()
                    yield done.popleft()
            except (asyncio.CancelledError, GeneratorExit) as leaving:
                interrupted_in_body = consumer is not None and consumer.cancelling() > cancels
                if interrupted_in_body or isinstance(leaving, asyncio.CancelledError):
                    with contextlib.suppress(asyncio.CancelledError):
                        await end(futures)
                raise
            finally:
                for future in futures:
                    future.remove_done_callback(ended)
                for future in started:
                    cancel_once(future)
                    future.add_done_callback(retrieve)
                if shown is not None:
                    shown.leave()

    def _show(self, futures: list[asyncio.Future[T]]) -> TaskRun:
        """Show them by what each was given as: the key of a mapping may be the coroutine that was wrapped."""
        asked = self._asked
        if asked is not None:
            asked = {future: asked[given] for future, given in zip(futures, self._given, strict=True)}
        run = TaskRun(futures, asked)
        run.show(lambda begun: pkgutil.resolve_name(VIEWS)(begun, "auto"))
        return run
