"""Waiting: who waits for a slot, and how each loop on which somebody does is woken."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable
from contextvars import ContextVar

from .loop import call_in
from .meters import LAPSE, Spent, spacing

HOLD, RATE, TOKENS, PACE = 1, 2, 4, 8
"""Bits: what a request may have to wait for. Everyone waits for a cool-down to end."""

party: ContextVar[object | None] = ContextVar("party", default=None)
"""The batch that a request belongs to, for its share; None is a single call, and goes first."""


class Waiter:
    """One request that has to wait, or may have to.

    Attributes
    ----------
    interval, max_tokens, tokens, pace
        Seconds from one request to the next, tokens a minute, its own tokens, and a pace: see `Endpoint.turn`.
    party, needs, cost
        See `fairness.Waiting`; the cost is in seconds.
    future, alarm
        Of one that waits: done when it has a slot; and its loop's.
    granted : bool
        Whether it has a slot that it has not come for.
    slot, spent, mark
        The slot, the tokens it took, and how many requests and tokens were sent by then.
    """

    __slots__ = (
        "alarm",
        "cost",
        "future",
        "granted",
        "interval",
        "mark",
        "max_tokens",
        "needs",
        "pace",
        "party",
        "slot",
        "spent",
        "tokens",
    )

    def __init__(
        self,
        max_per_minute: float | None,
        max_tokens: float | None,
        tokens: int,
        pace: Callable[[], float] | None,
    ) -> None:
        interval = spacing(max_per_minute) if max_per_minute else 0.0
        self.interval, self.max_tokens, self.tokens, self.pace = interval, max_tokens, tokens, pace
        self.needs = HOLD | (RATE if interval else 0) | (TOKENS if max_tokens else 0) | (PACE if pace else 0)
        seconds = max(interval, tokens * spacing(max_tokens) if max_tokens else 0.0, pace() if pace else 0.0)
        self.cost = seconds or 1.0  # without limits each counts the same
        self.party = party.get()
        self.future: asyncio.Future[None] | None = None
        self.alarm: Alarm | None = None
        self.granted = False
        self.slot = 0.0
        self.spent: Spent | None = None
        self.mark = (0, 0)


class Alarm:
    """The timer of one loop on which somebody waits.

    Attributes
    ----------
    count : int
        Requests there that wait, or have a slot and do not know yet.
    granted : int
        Of those, the ones that have a slot.
    since : float
        When the loop last came for a slot, or was to.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, look: Callable[[], object], now: Callable[[], float]) -> None:
        self.loop = loop
        self.count = self.granted = 0
        self.since = 0.0
        self._look, self._now = look, now
        self._when = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def deaf(self, now: float) -> bool:
        """Whether its loop has let a slot lapse, and has not come since: a cell keeps it busy."""
        return self.granted > 0 and now > self.since + LAPSE

    def grant(self, future: asyncio.Future[None], now: float) -> None:
        """Have a waiter go on."""
        if not self.granted:
            self.since = now
        self.granted += 1
        call_in(self.loop, _wake, future)

    def come(self, now: float) -> None:
        """A waiter has come for its slot."""
        self.granted -= 1
        self.since = now

    def set(self, when: float) -> None:
        """Look again then, if not before."""
        if when < self._when:
            self._when = when
            call_in(self.loop, self._start)

    def look_soon(self) -> None:
        """Look when the loop comes round, never at once."""
        with contextlib.suppress(RuntimeError):  # it is closed
            self.loop.call_soon_threadsafe(self._look)

    def stop(self) -> None:
        """Look no more; on its own loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._when = math.inf

    def _start(self) -> None:
        """For what is wanted by now: on its way from another thread, an alarm may have been set for sooner."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.count and self._when < math.inf:
            self._timer = self.loop.call_later(max(0.0, self._when - self._now()), self._ring)

    def _ring(self) -> None:
        self._timer, self._when = None, math.inf
        self._look()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
