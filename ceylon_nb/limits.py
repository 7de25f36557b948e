"""Limits: how many requests and tokens a minute, and when to hold off: shared by all batches, loops and threads.

* Whoever has to wait lines up, and is handed one slot when it is due: single calls first, batches in turn
  (`fairness`). Nobody reserves ahead, so who comes later does not wait for another batch's thousand.
* No 60 seconds ever see more than a limit, late wake-ups included (`meters`). A slot whose owner comes more than LAPSE
  late (a cell kept the loop busy) has lapsed, and its owner waits for another one. A loop that does not come for its
  slots is passed over meanwhile, and the others go on.
* One timer for each loop on which somebody waits, set for when the next slot is due; whichever comes first serves all
  (`waiting`).
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping

from .adaptive import Estimate
from .allowance import JITTER, KINDS, Allowance, Left, read
from .fairness import FairQueue
from .loop import call_in, clock
from .meters import LAPSE, Guess, Slots, Spent, Tokens
from .waiting import HOLD, PACE, RATE, TOKENS, Alarm, Waiter

REMEMBERED = 256
"""Cool-downs that an endpoint remembers."""

MOMENT = 0.01
"""Seconds: cool-downs that are no further apart are one, as those in which one request goes now and then."""


class Turn:
    """Leave to send one request.

    Attributes
    ----------
    counts : bool
        Whether somebody wants to know how many tokens it takes.
    """

    __slots__ = ("_endpoint", "_mark", "_spent", "counts")

    def __init__(self, endpoint: Endpoint, waiter: Waiter | None = None) -> None:
        self._endpoint = endpoint
        self._mark, self.counts = (0, 0), False
        self._spent: Spent | None = None
        if waiter is not None:
            self._mark, self._spent, self.counts = waiter.mark, waiter.spent, waiter.tokens > 0

    def hears(self, headers: Mapping[str, str], certain: bool) -> None:
        """Take what an answer's headers say is left, unless a refusal says itself when to come back."""
        requests, tokens = read(headers)
        if requests is not None or tokens is not None:
            self._endpoint.allow((requests, tokens), self._mark, certain=certain)

    def took(self, tokens: int) -> None:
        """So many tokens it was in the end; may be said again when more is known."""
        if self._spent is not None:
            self._endpoint.settle(self._spent, tokens)


class Endpoint:
    """The limits of one base URL and key. Every method may be called from any thread.

    Attributes
    ----------
    estimate : Estimate
        How many requests at once it works on.
    """

    def __init__(self, *, now: Callable[[], float] = clock) -> None:
        self.estimate = Estimate(now=now)
        self.estimate.on_faster = self.look
        self._now = now
        self._lock = threading.Lock()
        self._queue: FairQueue[Waiter] = FairQueue(HOLD)
        self._alarms: dict[asyncio.AbstractEventLoop, Alarm] = {}
        self._slots, self._tokens, self._paced = Slots(), Tokens(), 0.0
        self._busy_since = 0.0
        self._due = math.inf
        self._held_until = 0.0
        self._holds: deque[tuple[float, float, str]] = deque(maxlen=REMEMBERED)
        self._allowances: tuple[Allowance, Allowance] | None = None
        self._sent = self._sent_tokens = 0
        self._guesses: dict[str, Guess] = {}
        self._free = Turn(self)
        self._left: deque[Waiter] = deque()

    # -- cool-downs ---------------------------------------------------------------------------------------------

    def hold_off(self, seconds: float, reason: str = "") -> None:
        """Hold all requests of this endpoint off for so long, and a little jitter."""
        now = self._now()
        until = now + seconds + random.uniform(0, JITTER)
        with self._lock:
            if until > self._held_until:
                self._note(now, until, reason)
                self._held_until = until

    def held(self) -> float:
        """Seconds that the cool-down still lasts, or until the server has something left; 0 when there is none."""
        now = self._now()
        with self._lock:
            return max(0.0, self._held_until - now, self._closed(now, 1)[0] - now)

    def holds(self) -> list[tuple[float, float, str]]:
        """The cool-downs so far, the latest last: from when, until when, by the clock, and why."""
        with self._lock:
            return list(self._holds)

    def _note(self, now: float, until: float, reason: str) -> None:
        """With the lock held."""
        if self._holds and self._holds[-1][1] >= now - MOMENT:  # the same cool-down, a longer one
            began, sooner, _ = self._holds.pop()
            now, until = began, max(sooner, until)
        self._holds.append((now, until, reason))

    # -- what the server says is left ---------------------------------------------------------------------------

    @property
    def counts_tokens(self) -> bool:
        """Whether it is of use to say what a request will take: the server speaks of what is left."""
        return self._allowances is not None

    def allow(self, left: tuple[Left | None, Left | None], mark: tuple[int, int], *, certain: bool) -> None:
        """Take how many requests and tokens are left.

        Parameters
        ----------
        mark : tuple of int
            Requests and tokens that had been sent when that was said, as far as the server may know of them.
        certain : bool
            The server said itself when to come back: that counts, and not this.
        """
        now = self._now()
        with self._lock:
            if self._allowances is None:
                self._allowances = Allowance(KINDS[0]), Allowance(KINDS[1])
            for allowance, said, then in zip(self._allowances, left, mark, strict=True):
                if certain:
                    allowance.forget()
                elif said is not None:
                    allowance.told(said, then, now)
            self._serve()

    def _closed(self, now: float, tokens: int) -> tuple[float, str]:
        """Until when one more request of so many tokens has to wait, by what the server said, and why."""
        if self._allowances is None:
            return 0.0, ""
        requests, counted = self._allowances
        return max(
            (requests.opens(1, self._sent, now), requests.reason),
            (counted.opens(tokens, self._sent_tokens, now), counted.reason),
        )

    def _lift(self, now: float) -> None:
        """A request goes: by newer news a cool-down has ended that was to last longer."""
        if self._holds and self._holds[-1][1] > now:
            began, _, reason = self._holds.pop()
            self._holds.append((began, now, reason))

    # -- tokens -------------------------------------------------------------------------------------------------

    def guess(self, model: str) -> Guess:
        """What is known of a model's tokens here."""
        return self._guesses.setdefault(model, Guess())

    def settle(self, spent: Spent, tokens: int) -> None:
        """A request took so many tokens in the end."""
        if tokens != spent.tokens:
            with self._lock:
                self._tokens.settle(spent, tokens, self._now())
                self._serve()

    # -- turns --------------------------------------------------------------------------------------------------

    async def turn(
        self,
        max_per_minute: float | None = None,
        *,
        max_tokens_per_minute: float | None = None,
        tokens: int = 0,
        pace: Callable[[], float] | None = None,
    ) -> Turn:
        """Wait for the cool-down to end and, with limits, for a slot of one's own.

        Parameters
        ----------
        max_per_minute, max_tokens_per_minute : float, optional
            Limits to keep to, shared with all that state one.
        tokens : int
            How many it will take, as far as one can tell.
        pace : callable, optional
            Seconds from one request to the next, of all that keep to a pace, as it is now; 0 is none. Asked whenever a
            slot may be handed out, under a lock: it may not wait. Call `look` when it has become shorter, not under a
            lock that it takes itself. Who finds that there is none any more lines up behind those who wait.
        """
        limited = max_per_minute or max_tokens_per_minute or self._allowances
        paced = pace is not None and (pace() or self._queue)
        if not limited and not paced and (not self._held_until or self._held_until <= self._now()):
            return self._free  # not even counted: nobody has said yet that something may run out
        waiter = Waiter(max_per_minute, max_tokens_per_minute, tokens, pace)
        try:
            while True:
                future = self._line_up(waiter)
                if future is not None:
                    await future
                if self._accept(waiter):
                    return Turn(self, waiter)
        except GeneratorExit:
            self._leave(waiter)
            raise
        except BaseException:
            with self._lock:
                self._abandon(waiter)
                self._serve()
            raise

    def look(self) -> None:
        """Hand out what is due: what it depends on has changed."""
        with self._lock:
            self._serve()

    def _line_up(self, waiter: Waiter) -> asyncio.Future[None] | None:
        """Take a slot that is due, or wait for one: the future is done when there is one."""
        with self._lock:
            again = waiter.alarm is not None
            if not len(self._queue):
                self._busy_since = self._now()
                if not again and self._offer(waiter) is None:
                    return None
            if waiter.alarm is None:
                loop = asyncio.get_running_loop()
                waiter.alarm = self._alarms.get(loop) or Alarm(loop, self.look, self._now)
                waiter.alarm.count += 1
                self._alarms[loop] = waiter.alarm
            waiter.future = waiter.alarm.loop.create_future()
            self._queue.put(waiter, again=again)
            self._serve()
            return waiter.future

    def _accept(self, waiter: Waiter) -> bool:
        """Go; or not, if it is too late for the slot, or all are held off by now."""
        with self._lock:
            now = self._now()
            deaf = self._come(waiter, now)
            goes = now >= self._held_until and (now <= waiter.slot + LAPSE or waiter.needs == HOLD)
            if goes:
                self._forget(waiter)
            else:
                self._give_back(waiter)
            if deaf:
                self._serve()
            return goes

    def _leave(self, waiter: Waiter) -> None:
        """Wait no longer, and not for the lock either.

        The garbage collector closes what a closed loop has left, in any thread at any time: this one may hold the lock.
        """
        self._left.append(waiter)
        if self._lock.acquire(blocking=False):
            try:
                self._serve()
            finally:
                self._lock.release()
        else:
            for alarm in self._alarms.copy().values():
                alarm.look_soon()

    def _abandon(self, waiter: Waiter) -> None:
        """Who waits no longer has what it had given back: a slot is the next one's. With the lock held."""
        if waiter.granted:
            self._come(waiter, self._now())
            self._give_back(waiter)
        self._queue.discard(waiter)
        self._forget(waiter)

    def _come(self, waiter: Waiter, now: float) -> bool:
        """A waiter has come for its slot; whether its loop had been passed over."""
        waiter.granted = False
        if waiter.alarm is None:
            return False
        deaf = waiter.alarm.deaf(now)
        waiter.alarm.come(now)
        return deaf

    def _forget(self, waiter: Waiter) -> None:
        alarm, waiter.alarm = waiter.alarm, None
        if alarm is not None:
            alarm.count -= 1
            if not alarm.count:
                self._alarms.pop(alarm.loop, None)
                call_in(alarm.loop, alarm.stop)

    # -- handing out; with the lock held ------------------------------------------------------------------------

    def _serve(self) -> None:
        """Give a slot to each whose turn it is, and see to it that somebody looks again when the next is due."""
        while self._left:
            self._abandon(self._left.popleft())
        if not self._queue:
            return
        self._due = math.inf
        self._queue.serve(self._offer)
        for alarm in [*self._alarms.values()]:
            if alarm.loop.is_closed():
                del self._alarms[alarm.loop]
            else:
                alarm.set(self._due)

    def _offer(self, waiter: Waiter) -> int | None:
        """Hand out a slot if one is due; else say what there is none of."""
        now, alarm = self._now(), waiter.alarm
        if alarm is not None and alarm.loop.is_closed():
            return None  # it was closed under those who wait there: nobody will come
        if alarm is not None and alarm.deaf(now):
            return 0
        if self._held_until > now:
            return self._blocked(self._held_until, HOLD)
        until, reason = self._closed(now, waiter.tokens)
        if until > now:
            self._note(now, until, reason)
            return self._blocked(until, HOLD)
        blocked = self._take(waiter, now)
        if blocked:
            return blocked
        waiter.granted = True
        self._lift(now)
        self._sent += 1
        self._sent_tokens += waiter.tokens
        waiter.mark = self._sent, self._sent_tokens
        if waiter.future is not None and alarm is not None:
            alarm.grant(waiter.future, now)
        return None

    def _take(self, waiter: Waiter, now: float) -> int:
        """Take a slot that is due on every meter it needs; or nothing, and say which of them have none."""
        earliest = max(now - LAPSE, self._busy_since, self._held_until)
        slot = paced = 0.0
        blocked = 0
        if waiter.max_tokens:
            slot = self._tokens.first(earliest, now, waiter.tokens, waiter.max_tokens)
            blocked |= self._blocked(slot, TOKENS) if slot > now else 0
        if waiter.pace is not None:
            paced = self._paced + waiter.pace()
            paced = paced if paced > earliest else now
            blocked |= self._blocked(paced, PACE) if paced > now else 0
        if waiter.interval:
            slot = self._slots.first(earliest if blocked else max(earliest, slot, paced), now, waiter.interval)
            blocked |= self._blocked(slot, RATE) if slot > now else 0
        if blocked:
            return blocked
        waiter.slot = max(slot, paced)
        if waiter.interval:
            self._slots.take(waiter.slot, waiter.interval)
        if waiter.max_tokens:
            waiter.spent = self._tokens.take(waiter.slot, waiter.tokens, waiter.max_tokens)
        if waiter.pace is not None:
            self._paced = paced
        return 0

    def _blocked(self, until: float, meters: int) -> int:
        self._due = min(self._due, until)
        return meters

    def _give_back(self, waiter: Waiter) -> None:
        """What it has taken and does not use. A pace is no limit: what is not used of it is gone."""
        if waiter.interval:
            self._slots.give_back(waiter.slot, waiter.interval)
        if waiter.spent is not None:
            self._tokens.settle(waiter.spent, 0, self._now())
            waiter.spent = None


_endpoints: dict[str, Endpoint] = {}
_lock = threading.Lock()


def endpoint(base_url: str, api_key: str | None = None) -> Endpoint:
    """The limits that all requests to this base URL with this key share. The key itself is not kept."""
    name = hashlib.sha256(f"{base_url}\n{api_key or ''}".encode()).hexdigest()
    with _lock:
        return _endpoints.setdefault(name, Endpoint())
