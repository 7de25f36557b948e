"""Timeouts that know of a busy cell: a deadline that passes while it keeps the loop is not the server's fault."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from types import TracebackType

STALL = 0.25
"""Seconds a timer may be late before the loop counts as having been kept busy."""


def patient_timeout(seconds: float | None) -> contextlib.AbstractAsyncContextManager[None]:
    """Like `asyncio.timeout`, but a deadline that passes while the loop is blocked moves by as much as it was late.

    Raises
    ------
    TimeoutError
        The block took longer.
    """
    return contextlib.nullcontext() if seconds is None else _PatientTimeout(seconds)


class _PatientTimeout:
    """What `patient_timeout` gives. No generator: each request has one, and a generator takes twice as many objects."""

    __slots__ = ("_guard", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._guard = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._guard.__aenter__()
        self._timer = PatientTimer(self._seconds, self._expire)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.stop()
        del self._timer  # it holds this, which would hold it: a circle
        try:
            await self._guard.__aexit__(kind, error, traceback)
        except TimeoutError as expired:
            expired.args = (f"Not done within {self._seconds:g} s.",)
            raise

    def _expire(self) -> None:
        self._guard.reschedule(asyncio.get_running_loop().time())


class TimeLimit(contextlib.AbstractContextManager[None]):
    """A patient time limit for several waits of one task and all that lies between them; leaving it ends it.

    Attributes
    ----------
    over : bool
        Whether the time has passed.
    """

    def __init__(self, seconds: float | None) -> None:
        self.over = False
        self._seconds = seconds
        self._guard: asyncio.Timeout | None = None
        self._stop: Callable[[], None] = lambda: None

    def __enter__(self) -> None:
        if self._seconds is not None:
            self._stop = PatientTimer(self._seconds, self._pass).stop

    def __exit__(self, *_: object) -> None:
        self._stop()

    @contextlib.asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Wait for something, while there is time.

        Raises
        ------
        TimeoutError
            The time is over.
        """
        async with asyncio.timeout(0 if self.over else None) as self._guard:
            try:
                yield
            finally:
                self._guard = None

    def _pass(self) -> None:
        self.over = True
        if self._guard is not None:
            self._guard.reschedule(asyncio.get_running_loop().time())


class PatientTimer:
    """Calls `function` on the running loop so many seconds from now; if that comes late, later by as much again.

    When a timer fires late, a cell kept the loop busy, and answers may lie ready in their sockets. If it is late for a
    second time, they are given a moment more, and that is all. `moved` is told by how many seconds the moment moves.

    A class, not a closure: a function that hands itself to the loop is garbage in a circle, twice for every request.
    """

    __slots__ = ("_due", "_function", "_grants", "_loop", "_moved", "_timer")

    def __init__(
        self, seconds: float, function: Callable[[], None], moved: Callable[[float], None] | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._function = function
        self._moved = moved
        self._due = self._loop.time() + max(seconds, 0.0)
        self._grants = 2
        self._timer = self._loop.call_at(self._due, self._ring)

    def stop(self) -> None:
        """Call nothing any more."""
        self._timer.cancel()

    def _ring(self) -> None:
        late = self._loop.time() - self._due
        if late <= STALL or not self._grants:
            self._function()
            return
        self._grants -= 1
        moves = late + (late if self._grants else STALL)
        self._due += moves
        self._timer = self._loop.call_at(self._due, self._ring)
        if self._moved is not None:
            self._moved(moves)
