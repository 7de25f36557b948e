"""Workers: as many tasks as may be in flight at once, all pulling from one source of items.

O(at once) tasks however many items there are. Everything here happens on one loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from .answers import CANCELLED, FAILED, OK, WAITING, Answers
from .errors import CeylonError, InvalidItem, RequestError
from .frames import Source
from .loop import clock
from .messages import Reply
from .retry import attempts_made, time_left

RAMP = 32
RAMP_PAUSE = 0.002
"""So many workers begin, and so many seconds later the next: a thousand connections at once would freeze the loop."""

ALIKE = 5
"""So many failures of one kind and no success mean that the rest would fail too."""


class Workers:
    """The tasks of one batch.

    Parameters
    ----------
    call : async callable
        Takes an item, returns its reply.
    source : Source
        Where items come from.
    answers : Answers
        Where replies and errors go.
    limit : int
        How many rows may be in flight at once. May be changed at any time; `spawn` then.
    left : callable
        Seconds until the batch's deadline.
    on_answer, on_idle, on_lost : callable
        Called after each answer; when no worker is left; and with a row's position and the reason when a worker was
        ended by something else than `abort` (its row waits again).
    """

    def __init__(
        self,
        call: Callable[[Any], Awaitable[Any]],
        source: Source,
        answers: Answers,
        limit: int,
        left: Callable[[], float],
        on_answer: Callable[[], None],
        on_idle: Callable[[], None],
        on_lost: Callable[[int, str], None],
    ) -> None:
        self._call = call
        self.source = source
        self.answers = answers
        self.limit = limit
        self._left = left
        self._on_answer = on_answer
        self._on_idle = on_idle
        self._on_lost = on_lost
        self.pulling = False
        self.in_flight: dict[asyncio.Task[None], int] = {}
        self.source_error: Exception | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._aborted: set[asyncio.Task[None]] = set()
        self._again: deque[int] = deque()
        self._next = 0
        self._turn = asyncio.Lock()
        self._ramp: asyncio.TimerHandle | None = None
        self._alike: list[Exception] = []

    # -- control ------------------------------------------------------------------------------------------------

    def spawn(self) -> None:
        """Have as many workers as may be and are of use."""
        if self._ramp is not None or not self.pulling:
            return
        for _ in range(min(self._wanted(), RAMP)):
            task = asyncio.get_running_loop().create_task(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        if self._wanted():
            self._ramp = asyncio.get_running_loop().call_later(RAMP_PAUSE, self._climb)

    def abort(self) -> None:
        """Cancel what is in flight, each task once: a second cancel() would leak its connection."""
        self.pulling = False
        for task in self._tasks - self._aborted:
            self._aborted.add(task)
            task.cancel()

    def ask_again(self, status: int) -> None:
        """Have every row of that status wait again, in order, before any new one."""
        self._alike.clear()
        found = [position for position, code in enumerate(self.answers.status) if code == status]
        for position in found:
            self.answers.set(position, WAITING)
        self._again = deque(sorted({*self._again, *found}))

    def forget_loop(self) -> None:
        """Move to another loop: the one the workers ran on is closed, and they with it."""
        self._again.extendleft(sorted(self.in_flight.values(), reverse=True))
        self.in_flight.clear()
        self._tasks.clear()
        self._aborted.clear()
        self._turn = asyncio.Lock()
        self._ramp = None

    @property
    def idle(self) -> bool:
        """Whether no worker is left."""
        return not self._tasks and self._ramp is None

    @property
    def rows_left(self) -> bool:
        """Whether there may be rows that nobody has begun."""
        total = self.source.total
        return bool(self._again) or (self.source_error is None and (total is None or self._next < total))

    @property
    def stuck(self) -> Exception | None:
        """The first error, when everything fails like it and nothing has succeeded."""
        if len(self._alike) < ALIKE or self.answers.counts[OK]:
            return None
        kinds = {(type(error), getattr(error, "status", None)) for error in self._alike}
        return self._alike[0] if len(kinds) == 1 else None

    # -- work ---------------------------------------------------------------------------------------------------

    def _wanted(self) -> int:
        room = self.limit - len(self._tasks)
        total = self.source.total
        if self.source_error is not None or (total is not None and room > 0):
            room = min(room, len(self._again) + (0 if total is None else total - self._next))
        return max(room, 0) if self.pulling and not self.stuck else 0

    def _climb(self) -> None:
        self._ramp = None
        self.spawn()
        if self.idle:
            self._on_idle()

    async def _work(self) -> None:
        time_left.set(self._left)
        task = asyncio.current_task()
        assert task is not None
        while self.pulling and len(self._tasks) <= self.limit and not self.stuck:
            position = await self._pull()
            if position is None:
                return
            self.in_flight[task] = position
            await self._ask(task, position)
            del self.in_flight[task]
            self._on_answer()

    async def _pull(self) -> int | None:
        """The next row's position; one worker at a time, as async iterators allow no two."""
        async with self._turn:
            if not self.pulling:
                return None
            if self._again:
                return self._again.popleft()
            try:
                found = self.source_error is None and await self.source.pull(self._next)
            except Exception as error:  # noqa: BLE001 - the user's iterator failed: the rows it gave are still answered
                self.source_error = error
                return None
            if not found:
                return None
            position = self._next
            self._next += 1
            self.answers.extend_to(self._next)
            if not self.pulling:  # paused while the source took its time
                self._again.append(position)
                return None
            return position

    async def _ask(self, task: asyncio.Task[None], position: int) -> None:
        item = self.source.item(position)
        attempts_made.set(1)
        began = clock()
        try:
            reply = await self._call(item)
        except asyncio.CancelledError as error:
            if task.cancelling():
                raise
            inner = CeylonError(f"The call was cancelled from within: {error}".rstrip(": "))
            self._fail(position, item, inner, clock() - began)
        except Exception as error:  # noqa: BLE001 - an item's failure is a row, whatever it is
            self._fail(position, item, error, clock() - began)
        else:
            took = reply.latency if isinstance(reply, Reply) and reply.latency is not None else clock() - began
            self.answers.set(position, OK, reply, attempts=attempts_made.get(), latency=took)

    def _fail(self, position: int, item: Any, error: Exception, took: float) -> None:
        attempts = attempts_made.get()
        if isinstance(error, InvalidItem):
            attempts = 0
        elif len(self._alike) < ALIKE:
            self._alike.append(error)
        if isinstance(error, RequestError):
            error.item = item
            took = error.latency if error.latency is not None else took
        if isinstance(error, CeylonError):  # its story is told; tracebacks would keep every frame alive
            error.__traceback__ = None
            error.__context__ = error.__cause__ = None
        self.answers.set(position, FAILED, error=error, attempts=attempts, latency=took)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        aborted = task in self._aborted
        self._aborted.discard(task)
        reason = "cancelled" if task.cancelled() else repr(task.exception())
        position = self.in_flight.pop(task, None)
        if position is not None and aborted and not self.pulling:
            self.answers.set(position, CANCELLED)
        elif position is not None:
            self._again.appendleft(position)
            if not aborted:
                self._on_lost(position, reason)
        elif not aborted and task.cancelled():
            self._on_lost(-1, reason)
        if self.idle:
            self._on_idle()
        else:
            self.spawn()  # should several have left at once because the limit was lowered
