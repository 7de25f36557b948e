"""Shares: one batch's part of what a server works on at once, and who of the batch may send."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar

from .adaptive import START, Estimate
from .loop import call_in


class Share:
    """One batch's part of an estimate. All but `changed` is called on the batch's loop.

    Parameters
    ----------
    on_change : callable
        Called on the batch's loop when `part` may be another.

    Attributes
    ----------
    active : bool
        Whether the batch keeps to the estimate.
    resting : bool
        Whether the batch asks nothing new for now: it needs no more than it has.
    part : int
        Requests that it may have in flight.
    admitted, peak : int
        Those that it has, and the most that it had since parts were given.
    """

    def __init__(self, estimate: Estimate, on_change: Callable[[], object]) -> None:
        self.estimate = estimate
        self.active = self.resting = False
        self.part = START
        self.admitted = self.peak = 0
        self._on_change = on_change
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def stranded(self) -> bool:
        """Whether the batch's loop was closed under it."""
        return self._loop is None or self._loop.is_closed()

    def open(self) -> None:
        """Keep to the estimate, on the running loop."""
        loop = asyncio.get_running_loop()
        moved = loop is not self._loop
        if moved:  # what was on its way on the old one ends with that
            self._loop, self.admitted = loop, 0
            self._waiting.clear()
        if moved or self.resting or not self.active:
            self.active, self.resting = True, False
            self.estimate.join(self)

    def rest(self) -> None:
        """Leave to others what is not needed for now."""
        if self.active and not self.resting:
            self.resting = True
            self.estimate.join(self)

    def close(self) -> None:
        """Keep to it no longer: whoever waits goes."""
        if self.active:
            self.active = self.resting = False
            self.estimate.leave(self)
            self._wake()

    def changed(self) -> None:
        """The estimate is another, or others keep to it."""
        if self._loop is not None:
            call_in(self._loop, self._adapt)

    def _adapt(self) -> None:
        if self.active:
            self._on_change()
            self._wake()

    def place(self) -> _Place:
        """Room for one request; whatever is asked inside, on the way to its answer, needs none of its own."""
        return _Place(self)

    async def admit(self) -> object:
        """Wait for room: with further attempts there may be more to send than workers should have in flight.

        Returns what `leave` wants to know.
        """
        while self.active and self.admitted >= self.part:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled():  # it was for somebody else, then
                    self._wake()
                raise
        self.admitted += 1
        self.peak = max(self.peak, self.admitted)
        return self._loop

    def leave(self, place: object) -> None:
        """Make room for another request."""
        if place is not self._loop:
            return
        self.admitted -= 1
        if self._waiting:
            self._wake()

    def _wake(self) -> None:
        free = self.part - self.admitted if self.active else len(self._waiting)
        while free > 0 and self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                free -= 1


class _Place:
    """What `Share.place` gives. No generator: each request has one."""

    __slots__ = ("_place", "_share", "_token")

    def __init__(self, share: Share) -> None:
        self._share = share

    async def __aenter__(self) -> None:
        self._place = await self._share.admit()
        self._token = sharing.set(None)

    async def __aexit__(self, *_: object) -> None:
        sharing.reset(self._token)
        self._share.leave(self._place)


sharing: ContextVar[Share | None] = ContextVar("sharing", default=None)
"""The share of the batch that this is done for."""
