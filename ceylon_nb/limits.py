"""How many a minute, and when to hold off: one pair of clocks per endpoint, shared by all batches, loops and threads.

The rate is GCRA (the generic cell rate algorithm, ITU-T I.371, in its virtual scheduling form) with burst 1 and
reservation: each request reserves its own slot and sleeps until then, so waiting costs one timer, however many wait.
A slot that is not used (a cancelled request) goes back and is taken by the next one. Rates may differ: what is kept is
the time that is free, and a slot takes its own rate's share of it.

No 60 seconds ever see more than the limit, late wake-ups included: slots are ``(60 + LAPSE) / n`` seconds apart, and a
slot whose owner comes more than LAPSE late (a cell kept the loop busy) has lapsed and a new one is reserved.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable

from .adaptive import Estimate
from .loop import clock

LAPSE = 0.25
"""Seconds after which a slot that was not used in time is no longer good."""

REMEMBERED = 256
"""Cool-downs that an endpoint remembers."""

JITTER = 0.1
"""Seconds, at most, added to a cool-down, so that several notebooks do not come back in step."""


def spacing(max_per_minute: float) -> float:
    """Seconds between two slots."""
    return (60.0 + LAPSE) / max_per_minute


class Endpoint:
    """The clocks of one base URL and key. Every method may be called from any thread.

    Attributes
    ----------
    estimate : Estimate
        How many requests at once it works on.
    """

    def __init__(self, *, now: Callable[[], float] = clock) -> None:
        self.estimate = Estimate(now=now)
        self._now = now
        self._lock = threading.Lock()
        self._free = [(0.0, math.inf)]
        self._held_until = 0.0
        self._holds: deque[tuple[float, float, str]] = deque(maxlen=REMEMBERED)

    def reserve(self, interval: float) -> float:
        """Take the first `interval` seconds that are free; returns when they begin, the slot's time."""
        with self._lock:
            now = self._now()
            while self._free[0][1] <= now:
                del self._free[0]
            i = 0
            while max(now, self._free[i][0]) + interval > self._free[i][1]:
                i += 1
            start, end = self._free[i]
            slot = max(now, start)
            self._free[i : i + 1] = [(slot + interval, end)] if slot + interval < end else []
            return slot

    def give_back(self, slot: float, interval: float) -> None:
        """Return a slot that was not used; it joins the free time next to it."""
        start, end = slot, slot + interval
        with self._lock:
            i = bisect_left(self._free, (start,))
            if self._free[i][0] == end:
                end = self._free.pop(i)[1]
            if i and self._free[i - 1][1] == start:
                i -= 1
                start = self._free.pop(i)[0]
            self._free.insert(i, (start, end))

    def hold_off(self, seconds: float, reason: str = "") -> None:
        """Hold all requests of this endpoint off for so long, and a little jitter."""
        now = self._now()
        until = now + seconds + random.uniform(0, JITTER)
        with self._lock:
            if until <= self._held_until:
                return
            if self._holds and self._held_until >= now:  # the same cool-down, a longer one
                now = self._holds.pop()[0]
            self._holds.append((now, until, reason))
            self._held_until = until

    def held(self) -> float:
        """Seconds that the cool-down still lasts; 0 when there is none."""
        return max(0.0, self._held_until - self._now())

    def holds(self) -> list[tuple[float, float, str]]:
        """The cool-downs so far, the latest last: from when, until when, by the clock, and why."""
        with self._lock:
            return list(self._holds)

    async def turn(self, max_per_minute: float | None = None) -> None:
        """Wait for the cool-down to end and, with a rate, for a slot of one's own."""
        interval = spacing(max_per_minute) if max_per_minute else 0.0
        slot: float | None = None
        try:
            while True:
                if interval and slot is None:
                    slot = self.reserve(interval)
                wait = max(slot or 0.0, self._held_until) - self._now()
                if wait > 0:
                    await asyncio.sleep(wait)
                elif slot is not None and self._now() > slot + LAPSE:
                    slot = None
                else:
                    slot = None
                    return
        finally:
            if slot is not None:
                self.give_back(slot, interval)


_endpoints: dict[str, Endpoint] = {}
_lock = threading.Lock()


def endpoint(base_url: str, api_key: str | None = None) -> Endpoint:
    """The clocks that all requests to this base URL with this key share. The key itself is not kept."""
    name = hashlib.sha256(f"{base_url}\n{api_key or ''}".encode()).hexdigest()
    with _lock:
        return _endpoints.setdefault(name, Endpoint())
