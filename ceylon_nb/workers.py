"""Workers: as many tasks as may be in flight at once, all pulling from one source of items.

O(at once) tasks however many items there are. Everything here happens on one loop.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import sys
import traceback
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from .answers import CANCELLED, FAILED, OK, WAITING
from .errors import CeylonError, InvalidItem, NotRecorded, RequestError, StoreError, ungrouped
from .frames import Source
from .keeping import Keeper
from .kernel import just_interrupted
from .loop import clock
from .messages import Reply
from .retry import attempts_made, time_left
from .shares import Share, sharing
from .trace import Flight, Trace, flying
from .waiting import party

RAMP = 32
RAMP_PAUSE = 0.002
"""So many workers begin, and so many seconds later the next: a thousand connections at once would freeze the loop."""

BREATH = 0.01
"""Seconds after which calls that never wait let the loop go round."""

ALIKE = 5
"""So many failures of one kind and no success mean that the rest would fail too."""


class Workers:
    """The tasks of one batch.

    Parameters
    ----------
    prepare : callable
        Makes a question of an item; the errors it raises are the row's.
    call : async callable
        Takes a question, returns its reply.
    source : Source
        Where items come from.
    keeper : Keeper
        Where replies and errors go.
    trace : Trace
        What is told of each request.
    share : Share
        The batch's part of what the server works on at once.
    limit : int
        How many rows may be in flight at once. May be changed at any time; `spawn` then.
    left : callable
        Seconds until the batch's deadline.
    on_idle, on_lost : callable
        Called when no worker is left; and with the reason and a row's position, or None if it had none, when a worker
        was ended by something else than `abort` (its row waits again).
    """

    def __init__(
        self,
        prepare: Callable[[Any], Any],
        call: Callable[[Any], Awaitable[Any]],
        source: Source,
        keeper: Keeper,
        trace: Trace,
        share: Share,
        limit: int,
        left: Callable[[], float],
        on_idle: Callable[[], None],
        on_lost: Callable[[BaseException, int | None], None],
    ) -> None:
        self._prepare = prepare
        self._call = call
        self.source = source
        self.answers = keeper.answers
        self.limit = limit
        self._share = share
        self._keeper = keeper
        self._trace = trace
        self._left = left
        self._on_idle = on_idle
        self._on_lost = on_lost
        self.pulling = False
        self.only_again = False
        self.in_flight: dict[asyncio.Task[None], Flight] = {}
        self._free_lanes: list[int] = []
        self._lanes = 0
        self.source_error: Exception | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._aborted: set[asyncio.Task[None]] = set()
        self._again: deque[int] = deque()
        self._next = 0
        self._turn = asyncio.Lock()
        self._at_source: asyncio.Task[None] | None = None
        self._ramp: asyncio.TimerHandle | None = None
        self._alike: list[Exception] = []
        self._succeeded = 0
        self._fatal: Exception | None = None
        self._begun = 0
        self._breathed, self._breathing = clock(), False

    # -- control ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Work; with `only_again` on nothing that was not asked for before. A source that failed is tried again."""
        self.pulling = True
        self.source_error = None
        self.spawn()

    def spawn(self) -> None:
        """Have as many workers as may be and are of use."""
        if not self.pulling:
            return
        if self._again:  # rows are there while it waits for a new one
            self.leave_source()
        if self._ramp is not None:
            return
        for _ in range(min(self._wanted(), RAMP)):
            task = asyncio.get_running_loop().create_task(self._work(), name="ceylon_nb worker")
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        if self._wanted():
            self._ramp = asyncio.get_running_loop().call_later(RAMP_PAUSE, self._climb)

    def leave_source(self) -> None:
        """Wait for no new item: an item that comes is kept for the next worker that does."""
        if self._at_source is not None:
            self._abort(self._at_source)

    def abort(self) -> None:
        """Cancel what is in flight, each task once: a second cancel() would leak its connection."""
        for task in self._tasks:
            self._abort(task)

    def ask_again(self, status: int) -> None:
        """Have every row of that status wait again, in order, before any new one."""
        self._alike.clear()
        self._fatal = None
        found = [position for position, code in enumerate(self.answers.status) if code == status]
        for position in found:
            self.answers.set(position, WAITING)
        self._again = deque(sorted({*self._again, *found}))

    def forget_loop(self) -> None:
        """Move to another loop: the one the workers ran on is closed, and they with it."""
        self.pulling = False
        for position in sorted((flight.position for flight in self.in_flight.values()), reverse=True):
            self._again.extendleft(sorted([position, *self._keeper.release(position)], reverse=True))
        self.in_flight.clear()
        self._tasks.clear()
        self._free_lanes, self._lanes = [], 0
        self._aborted.clear()
        self._turn = asyncio.Lock()
        self._at_source = None
        self._ramp = None
        self._breathing = False

    @property
    def idle(self) -> bool:
        """Whether no worker is left."""
        return not self._tasks and self._ramp is None

    @property
    def rows_left(self) -> bool:
        """Whether there may be rows to work on that nobody has begun."""
        return bool(self._again) or self._unbegun > 0

    @property
    def stuck(self) -> Exception | None:
        """The first error, when everything fails like it and nothing that was asked has succeeded."""
        if self._fatal is not None:
            return self._fatal
        if len(self._alike) < ALIKE or self._succeeded:
            return None
        kinds = {(type(error), getattr(error, "status", None)) for error in self._alike}
        return self._alike[0] if len(kinds) == 1 else None

    # -- work ---------------------------------------------------------------------------------------------------

    @property
    def _unbegun(self) -> int:
        """How many rows may be pulled; of a stream, any number."""
        if self.only_again or self.source_error is not None:
            return 0
        return sys.maxsize if self.source.total is None else self.source.total - self._next

    def _wanted(self) -> int:
        if not self.pulling or self.stuck:
            return 0
        return max(0, min(self.limit - len(self._tasks), len(self._again) + self._unbegun))

    def _climb(self) -> None:
        self._ramp = None
        self.spawn()
        if self.idle:
            self._on_idle()

    def _goes_on(self) -> bool:
        """Whether a worker may take another row."""
        return self.pulling and len(self._tasks) <= self.limit and not self.stuck

    async def _work(self) -> None:
        time_left.set(self._left)
        sharing.set(self._share)
        party.set(self._trace)  # there is one for each batch
        task = asyncio.current_task()
        assert task is not None
        flight = self._flight()
        flying.set(flight)
        try:
            await self._fly(task, flight)
        finally:
            heapq.heappush(self._free_lanes, flight.lane)

    def _flight(self) -> Flight:
        """One in the lowest lane that is free."""
        if self._free_lanes:
            return Flight(self._trace, heapq.heappop(self._free_lanes))
        self._lanes += 1
        return Flight(self._trace, self._lanes - 1)

    async def _fly(self, task: asyncio.Task[None], flight: Flight) -> None:
        while self._goes_on() and not task.cancelling():
            position = await self._pull(task)
            if position is None:
                return
            flight.begin(position)
            self.in_flight[task] = flight
            self._begun += 1
            begun = self._begun
            await self._ask(task, flight)
            self.in_flight.pop(task, None)
            waited = begun != self._begun  # others began meanwhile; who waited goes on at once, see `_breathe`
            if not waited and clock() - self._breathed > BREATH:
                await self._breathe()
            await self._keeper.room()

    async def _breathe(self) -> None:
        """Let the loop go round: all workers do, until it has.

        Not those whose calls wait anyway: a thousand answers that come together would all be taken before the first
        new request is sent, and the objects of a thousand requests, gone at once and made anew at once, keep the
        garbage collector at work.
        """
        if not self._breathing:
            self._breathing = True
            asyncio.get_running_loop().call_soon(self._breathe_out)
        await asyncio.sleep(0)

    def _breathe_out(self) -> None:
        self._breathing, self._breathed = False, clock()

    async def _pull(self, task: asyncio.Task[None]) -> int | None:
        """The next row's position; one worker at a time, as async iterators allow no two."""
        async with self._turn:
            if not self._goes_on():
                return None
            if self._again:
                return self._again.popleft()
            if not self._unbegun:
                return None
            self._at_source = task
            try:
                found = await self.source.pull(self._next)
            except SystemExit as error:
                self.source_error = CeylonError(f"The items wanted to end Python: {error!r}")
                return None
            except Exception as error:  # noqa: BLE001 - the user's iterator failed: the rows it gave are still answered
                self.source_error = error
                return None
            finally:
                if self._at_source is task:
                    self._at_source = None
            if not found:
                return None
            position = self._next
            self._next += 1
            if self._next > len(self.answers):
                self.answers.extend_to(self.source.total or self._next)
            if self._goes_on():
                return position
            self._again.append(position)  # paused, or fewer at once, while the source took its time
            return None

    async def _ask(self, task: asyncio.Task[None], flight: Flight) -> None:
        position = flight.position
        item = self.source.item(position)
        attempts_made.set(1)
        try:
            question = self._prepare(item)
            if await self._is_answered(task, position, question):
                return
            flight.since = clock()
            reply = await self._call(question)
        except asyncio.CancelledError as error:
            if just_interrupted():
                self.pulling = False  # at once: others may have a row in hand by the next round of the loop
                raise
            if task.cancelling():
                raise
            inner = CeylonError(f"The call was cancelled from within: {error}".rstrip(": "))
            self._fail(flight, item, inner, clock() - flight.since)
        except (Exception, SystemExit) as error:  # an item's failure is a row, whatever it is
            if task in self._aborted:
                raise asyncio.CancelledError from error  # what it says to being cancelled is not the item's failure
            if isinstance(error, SystemExit):
                error = CeylonError(f"The call wanted to end Python: {error!r}")
            self._fail(flight, item, ungrouped(error), clock() - flight.since)
        else:
            now = clock()
            attempts, took = attempts_made.get(), now - flight.since
            if isinstance(reply, Reply):
                attempts = reply.attempts
                took = reply.latency if reply.latency is not None else took
            flight.answered(now, took)
            self._succeed(position, reply, attempts, took)

    async def _is_answered(self, task: asyncio.Task[None], position: int, question: Any) -> bool:
        """Whether nothing is to be asked for this row, or not now."""
        try:
            answered = await self._keeper.already(position, question)
        except StoreError as error:
            self._put_back(task, position)
            self._keeper.cannot_read(error)
            return True
        if not answered and not self.pulling:  # paused, while it was looked up
            self._put_back(task, position)
            return True
        if answered and not self.answers.keeps:
            self.source.forget(position)
        return answered

    def _put_back(self, task: asyncio.Task[None], position: int) -> None:
        del self.in_flight[task]
        self._again.extendleft(sorted([position, *self._keeper.release(position)], reverse=True))

    def _succeed(self, position: int, reply: Any, attempts: int, took: float) -> None:
        self._succeeded += 1
        if not self.answers.keeps:
            self.source.forget(position)
        self._keeper.keep(position, OK, reply, attempts=attempts, latency=took)
        if self._succeeded == 1:  # until now all may have failed alike, and workers left
            asyncio.get_running_loop().call_soon(self.spawn)

    def _fail(self, flight: Flight, item: Any, error: Exception, took: float) -> None:
        attempts, position, asked = attempts_made.get(), flight.position, True
        if isinstance(error, NotRecorded):
            attempts, asked, self._fatal = 0, False, self._fatal or error
        elif isinstance(error, InvalidItem):
            attempts, asked, took = 0, False, math.nan
        elif len(self._alike) < ALIKE:
            self._alike.append(error)
        if isinstance(error, RequestError):
            error.item = item
            attempts = error.attempts
            took = error.latency if error.latency is not None else took
        if asked:
            flight.refused(error, took)
        if isinstance(error, CeylonError):  # its story is told; tracebacks would keep every frame alive
            error.__traceback__ = None
            error.__context__ = error.__cause__ = None
        else:
            traceback.clear_frames(error.__traceback__)
        self._keeper.keep(position, FAILED, error=error, attempts=attempts, latency=took)

    def _abort(self, task: asyncio.Task[None]) -> None:
        if task not in self._aborted:
            self._aborted.add(task)
            task.cancel()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        aborted = task in self._aborted
        self._aborted.discard(task)
        end = asyncio.CancelledError() if task.cancelled() else task.exception()
        flight = self.in_flight.pop(task, None)
        position = flight.position if flight is not None else None
        if flight is not None and position is not None:
            flight.aborted()
            rows = sorted([position, *self._keeper.release(position)], reverse=True)
            if aborted and (not self.pulling or self.only_again):
                for row in rows:
                    self.answers.set(row, CANCELLED)
            else:
                self._again.extendleft(rows)
        if end is not None and not aborted:
            self._on_lost(end, position)
        if self.idle:
            self._on_idle()
        else:
            self.spawn()  # should several have left at once because the limit was lowered
