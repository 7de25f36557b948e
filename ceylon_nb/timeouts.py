"""Timeouts that know of a busy cell: a deadline that passes while it keeps the loop is not the server's fault."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

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


class _PatientTimeout(contextlib.AbstractAsyncContextManager[None]):
    """What `patient_timeout` gives. No generator: each request has one, and a generator takes twice as many objects."""

    __slots__ = ("_cancelling", "_expired", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._task: asyncio.Task[Any] | None = None
        self._timer: PatientTimer | _Line
        self._expired = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("A timeout is for what runs in a task.")
        self._task, self._cancelling = task, task.cancelling()
        if self._seconds >= LONG:
            self._timer = _line(self._seconds)
            self._timer.enter(self)
        else:
            self._timer = PatientTimer(self._seconds, self.expire)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.leave(self)
        del self._timer  # it holds this, which would hold it: a circle
        task, self._task = self._task, None
        if not self._expired or task is None:
            return
        only = task.uncancel() <= self._cancelling  # nobody else cancels it
        if only and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError(f"Not done within {self._seconds:g} s.") from error

    def near(self, due: float) -> None:
        """Have a timer of its own from now on: the end is near."""
        self._timer = PatientTimer(self._seconds, self.expire, due=due)

    def expire(self) -> None:
        """End the block, unless it does so itself in this round of the loop: its answer may just have come."""
        asyncio.get_running_loop().call_soon(self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._expired = True
            self._task.cancel()


class _Line:
    """Timeouts of one length on one loop, which end in the order in which they began: one timer for all of them.

    A timer for each request, a dozen objects that as good as never ring, cost more than all else that a call does
    here. One that is near its end leaves the line, and has a timer of its own.
    """

    __slots__ = ("__weakref__", "_looks", "_seconds", "_waiting")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[_PatientTimeout, float] = {}
        self._looks = False

    def enter(self, timeout: _PatientTimeout) -> None:
        """Stand last in line."""
        loop = asyncio.get_running_loop()
        due = self._waiting[timeout] = loop.time() + self._seconds
        if not self._looks:
            self._looks = True
            loop.call_at(due - NEAR, self._look)

    def leave(self, timeout: _PatientTimeout) -> None:
        """Leave the line."""
        del self._waiting[timeout]

    def _look(self) -> None:
        """Let go of those whose end is near, and look again when the next one's is."""
        loop = asyncio.get_running_loop()
        soon = loop.time() + NEAR
        while self._waiting:
            timeout, due = next(iter(self._waiting.items()))
            if due > soon:
                loop.call_at(due - NEAR, self._look)
                return
            del self._waiting[timeout]
            timeout.near(due)
        self._looks = False
        _lines[loop].pop(self._seconds, None)  # lengths may differ from call to call


LONG = 30.0
"""Seconds from which a timeout stands in line."""
NEAR = 1.0
"""Seconds before its end at which it leaves the line."""

_lines: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[float, _Line]] = weakref.WeakKeyDictionary()


def _line(seconds: float) -> _Line:
    """The running loop's line for timeouts of that length."""
    loop = asyncio.get_running_loop()
    lines = _lines.get(loop)
    if lines is None:
        lines = _lines[loop] = {}
    line = lines.get(seconds)
    if line is None:
        line = lines[seconds] = _Line(seconds)
    return line


class TimeLimit:
    """A patient time limit for several waits, one after the other, and all that lies between them.

    It begins with `start` and ends with `stop`; ``with limit:`` is a wait. A stream waits once for each token, so a
    wait sets no timer: one stands for all of them, and if something has come since, it is set again when it rings.

    Attributes
    ----------
    over : bool
        Whether the time has passed.
    silence : float or None
        Seconds that a single wait may take, from the next one on; None for any.
    silent : bool
        Whether one has taken longer.
    """

    __slots__ = (
        "_asked",
        "_ear",
        "_expired",
        "_loop",
        "_seconds",
        "_since",
        "_task",
        "_timer",
        "over",
        "silence",
        "silent",
    )

    def __init__(self, seconds: float | None) -> None:
        self.over = self.silent = False
        self.silence: float | None = None
        self._loop = asyncio.get_running_loop()
        self._seconds = seconds
        self._timer: PatientTimer | None = None
        self._ear: PatientTimer | None = None
        self._task: asyncio.Task[object] | None = None
        self._expired = False

    def start(self) -> None:
        """From now on the time passes."""
        if self._seconds is not None:
            self._timer = PatientTimer(self._seconds, self._pass)

    def stop(self) -> None:
        """No time passes any more."""
        for timer in (self._timer, self._ear):
            if timer is not None:
                timer.stop()
        self._timer = self._ear = None  # they hold this, which would hold them: a circle

    def __enter__(self) -> None:
        """Wait for something, while there is time.

        Raises
        ------
        TimeoutError
            By `__exit__`: the time is over, or the wait took too long.
        """
        task = asyncio.current_task()
        assert task is not None
        self._task, self._asked = task, task.cancelling()
        self._since = self._loop.time()
        if self._ear is None and self.silence is not None:
            self._ear = PatientTimer(self.silence, self._listen)
        if self.over:
            self._loop.call_soon(self._expire)  # what lies ready is taken still

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        task, self._task = self._task, None
        if self._expired and task is not None:
            self._expired = False
            if task.uncancel() <= self._asked and kind is asyncio.CancelledError:
                raise TimeoutError from error  # as asyncio.timeout: unless somebody else has cancelled it as well

    def _listen(self) -> None:
        """The time of a wait has passed: of this one, or of one that has ended since."""
        self._ear = None
        if self._task is None or self.silence is None:
            return  # the next wait listens
        left = self._since + self.silence - self._loop.time()
        if left > 0:
            self._ear = PatientTimer(left, self._listen)
        else:
            self._loop.call_soon(self._fall_silent, self._since)

    def _fall_silent(self, since: float) -> None:
        if since == self._since:  # and no other wait has begun in this round
            self.silent = True
            self._expire()

    def _pass(self) -> None:
        self.over = True
        self._loop.call_soon(self._expire)

    def _expire(self) -> None:
        """End a wait; in the round after the one in which its time has passed, as what it waits for may just come."""
        if self._task is not None and not self._expired:
            self._expired = True
            self._task.cancel()


class PatientTimer:
    """Calls `function` on the running loop so many seconds from now; if that comes late, later by as much again.

    When a timer fires late, a cell kept the loop busy, and answers may lie ready in their sockets. If it is late for a
    second time, they are given a moment more, and that is all. `moved` is told by how many seconds the moment moves.
    `due` is the moment itself, by the loop's time, where it was settled before.

    A class, not a closure: a function that hands itself to the loop is garbage in a circle, twice for every request.
    """

    __slots__ = ("_due", "_function", "_grants", "_loop", "_moved", "_timer")

    def __init__(
        self,
        seconds: float,
        function: Callable[[], None],
        moved: Callable[[float], None] | None = None,
        *,
        due: float | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._function = function
        self._moved = moved
        self._due = self._loop.time() + max(seconds, 0.0) if due is None else due
        self._grants = 2
        self._timer = self._loop.call_at(self._due, self._ring)

    def stop(self) -> None:
        """Call nothing any more."""
        self._timer.cancel()

    def leave(self, _: object) -> None:
        """The same, as whoever stands in a `_Line` says it."""
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
