"""Adaptive: how many requests at once a server works on, found out by asking it.

One `Estimate` for each server and account, shared by all batches that have ``max_at_once="auto"``; each of them has its
part of it (`shares`). What is learned, and from what:

* From latencies, where their knee is (`knee`, which names its sources). While none is seen the limit doubles with each
  round, as TCP's slow start does; then it stays a little above the knee. Every few rounds are spent somewhat below and
  above, or what is known would only be what was.
* From refusals (429, 503, 529) with more in flight than were ever answered, that so many are too many: one less from
  then on, and one more after a while, which is longer each time (AIMD, as of D.-M. Chiu, R. Jain, 1989, its decrease
  being what the server itself says).
* From timeouts and connections that break, while about as many as may be are in flight: less by a third, for now.
* From other refusals, how often one may ask (`throttle`).
"""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from .knee import Knee, Levels
from .loop import clock
from .throttle import Throttle

if TYPE_CHECKING:
    from .shares import Share

T = TypeVar("T")

Sent: TypeAlias = tuple[int, float]
"""A request: how many were in flight with it, and when it was sent."""

START, MOST = 8, 1_000
"""Requests at once in the beginning, and at the most."""

ROUND, ROUND_SECONDS = 8, 0.05
"""Answers, at least, and seconds, at least, between two looks; with more at once, as many answers."""

MEMORY, NOISY_MEMORY, LEAST_MEMORY = 8.0, 12.0, 100.0
"""Rounds that are remembered; further ones where latencies spread as widely as they are long; answers, at least."""

HEADROOM, NOISY_HEADROOM = 0.1, 0.15
"""Share of the knee, and at least one request, by which the limit lies above it; further, where latencies spread."""

PROBES = {0: 0.8, 4: 1.25}
"""In which of EVERY rounds the limit is how many times the knee, for a look at what is there."""
EVERY = 8

FASTER = 1.25
"""By how much the limit grows in a round that sees no knee after one that did; each further one by as much more, up to
twice the number in flight."""

PATIENCE, LONGEST_PATIENCE = 10.0, 80.0
"""Seconds after a refusal until more are tried again; doubled by each that comes before twice as many are over."""

BACK_OFF = 0.7
"""What remains of the limit after a request that timed out, or whose connection broke."""

BRIEF = 0.1
"""Seconds: a queue that is over sooner is nobody's burden, and START or fewer that make it are not too many."""

REFUSALS, FAILURES = frozenset({429, 503, 529}), frozenset({408, 504})
"""Statuses of a server that has too much to do, said at once; and after having tried."""

FEW = 8
"""Up to so many are counted, in words; above, it is "about"."""


class Estimate:
    """What is known of one server. Every method may be called from any thread.

    Attributes
    ----------
    limit : int
        Requests at once, of all who keep to it.
    in_flight : int
        Those that there are now, whoever asks; streams that are read by hand are not counted.
    knee : Knee or None
        Where latency rises, as of the last look.
    on_faster : callable
        Called, in any thread, when `interval` has become shorter.
    """

    def __init__(self, *, now: Callable[[], float] = clock) -> None:
        self.limit = START
        self.in_flight = 0
        self.knee: Knee | None = None
        self._now = now
        self.on_faster: Callable[[], object] = lambda: None
        # The collector may come by while it is held, and close a coroutine that then says it has failed.
        self._lock = threading.RLock()
        self._shares: weakref.WeakSet[Share] = weakref.WeakSet()
        self._levels = Levels()
        self._throttle = Throttle()
        self._latency = 0.0
        self._warm_since = math.inf  # the first answer: who asked before paid for connections, or a model's loading
        self._target = float(START)
        self._growth = 2.0
        self._answers = self._rounds = self._peak = 0
        self._looked = now()
        self._proved, self._refused_alone = 0.0, False
        self._ceiling, self._patience, self._quiet_since = math.inf, PATIENCE, -math.inf
        self._reacted = -math.inf

    # -- what happens -------------------------------------------------------------------------------------------

    def begin(self) -> Sent:
        """A request is sent."""
        with self._lock:
            self.in_flight += 1
            self._peak = max(self._peak, self.in_flight)
            return self.in_flight, self._now()

    def answered(self, sent: Sent) -> None:
        """It was answered."""
        now, (number, began) = self._now(), sent
        latency, faster = now - began, self.paced
        with self._lock:
            self.in_flight -= 1
            if began >= self._warm_since:
                self._levels.add(number, latency)
            self._warm_since = min(self._warm_since, now)
            self._latency += 0.1 * (latency - self._latency) if self._latency else latency
            self._proved = max(self._proved, number)
            self._throttle.answered(now)
            self._answers += 1
            due = self._answers >= max(ROUND, self.limit) and now - self._looked >= ROUND_SECONDS
            changed = due and self._look(now)
        if changed:
            self._tell()
        if faster:
            self.on_faster()

    def failed(self, sent: Sent, error: BaseException) -> None:
        """It was not: refused, given up, or cancelled."""
        with self._lock:
            self.in_flight -= 1
        refused, late = _blame(error)
        with self._lock:
            changed = self._refuse(sent) if refused else self._relieve(sent) if late else False
        if changed:
            self._tell()

    async def watch(self, call: Awaitable[T]) -> T:
        """Await a call, and learn from it."""
        sent = self.begin()
        try:
            result = await call
        except BaseException as error:
            self.failed(sent, error)
            raise
        self.answered(sent)
        return result

    # -- what is made of it; with the lock held -----------------------------------------------------------------

    def _look(self, now: float) -> bool:
        """Fit the knee to what was seen, and decide on the next round."""
        self.knee = knee = self._levels.knee()
        if knee is None:
            return False
        noise = min(knee.spread, 1.5)
        memory = max(LEAST_MEMORY, (MEMORY + NOISY_MEMORY * noise**2) * self.limit)
        self._levels.fade(max(0.5, 1 - self._answers / memory))
        self._answers, self._looked = 0, now
        self._rounds += 1
        self._proved = max(0.98 * self._proved, min(self._proved, 1.0))
        self._dare(now)
        if knee.seen:
            self._growth = 1.0
            headroom = max(1.0, (HEADROOM + NOISY_HEADROOM * noise) * knee.best)
            probe = PROBES.get(self._rounds % EVERY)
            wanted = knee.best + headroom if probe is None else knee.best * probe + (probe > 1)
            self._target = max(wanted, min(START, BRIEF * knee.best / knee.latency))
        else:
            self._growth = min(2.0, self._growth * FASTER)
            self._target = max(self._target, self._peak * self._growth + (self._growth < 2))
        self._peak = self.in_flight
        return self._set()

    def _dare(self, now: float) -> None:
        """Allow more than was refused, if that is long ago."""
        if now - self._quiet_since > self._patience and self._ceiling < math.inf:
            self._ceiling += max(1.0, 0.1 * self._ceiling)
            if self._ceiling > 2 * self._target:
                self._ceiling = math.inf

    def _refuse(self, sent: Sent) -> bool:
        """Have fewer, or less often."""
        now, (number, began) = self._now(), sent
        if number == 1 and not self._proved:  # one alone is refused, and none was ever answered: it is not their number
            self._refused_alone, self._ceiling = True, math.inf
        too_many = number > max(self._proved, 1.0) and (self._proved > 0 or not self._refused_alone)
        if too_many:
            self._ceiling = max(1.0, min(self._ceiling, number - 1.0))
        if began >= self._reacted:  # the others were sent before the server was understood
            if not too_many and self._proved:
                self._throttle.refused(now, self.limit / max(self._latency, 0.001))
            again = now - self._quiet_since < 2 * self._patience
            self._patience = min(2 * self._patience, LONGEST_PATIENCE) if again else PATIENCE
            self._quiet_since = self._reacted = now
        return self._set()

    def _relieve(self, sent: Sent) -> bool:
        """Have fewer for now, if there were about as many as there may be: else it is not their number."""
        number, began = sent
        if began >= self._reacted and number > self.limit / 2:
            self._reacted = self._now()
            self._target, self._growth = max(1.0, self.limit * BACK_OFF), 1.0
        return self._set()

    def _set(self) -> bool:
        limit = max(1, int(min(self._target, self._ceiling, MOST)))
        changed, self.limit = limit != self.limit, limit
        return self._divide() or changed

    # -- who keeps to it ----------------------------------------------------------------------------------------

    @property
    def paced(self) -> bool:
        """Whether refusals say that there is a rate."""
        return self._throttle.rate is not None

    def interval(self) -> float:
        """Seconds from one request to the next that the server lets through; 0 if it does not matter."""
        return self._throttle.interval

    def join(self, share: Share) -> None:
        """Keep to it."""
        with self._lock:
            self._divide()
            if not self._shares:  # who comes now may ask about something else: not fewer than others begin with
                self._target = max(self._target, float(START))
                if self._now() - self._quiet_since > self._patience:
                    self._ceiling = max(self._ceiling, float(START))
                self._set()
            self._shares.add(share)
            self._divide(anew=True)
        self._tell()

    def leave(self, share: Share) -> None:
        """Keep to it no longer."""
        with self._lock:
            self._shares.discard(share)
            self._divide(anew=True)
        self._tell()

    def _divide(self, *, anew: bool = False) -> bool:
        """Give all the same part, and what some leave to those who use theirs; with the lock held. Whether it changed.

        Who is on a closed loop has none: nothing goes on there.
        """
        for share in list(self._shares):
            if share.stranded:
                self._shares.discard(share)
        shares = [share for share in self._shares if not share.resting]
        limit = self.limit - sum(share.admitted for share in self._shares if share.resting)
        equal = max(1, -(-limit // max(1, len(shares))))
        using = [share for share in shares if anew or share.peak >= share.part]
        left = limit - sum(min(share.peak + 1, equal) for share in shares if share not in using)
        more = max(equal, left // len(using)) if using and not anew else equal
        before = [share.part for share in shares]
        for share in shares:
            share.part, share.peak = (more if share in using else equal), share.admitted
        return before != [share.part for share in shares]

    def _tell(self) -> None:
        with self._lock:
            shares = list(self._shares)
        for share in shares:
            share.changed()

    # -- in words -----------------------------------------------------------------------------------------------

    @property
    def works_on(self) -> int | None:
        """How many requests at a time the server works on, as far as that was found out."""
        refused = self._ceiling - 1 <= self._proved and self._rounds > 0 and not self.paced
        knee = self.knee
        if knee is not None and knee.seen and self._rounds > 1 and not (refused and self._ceiling < knee.best):
            return max(1, round(knee.best))
        return min(int(self._ceiling), max(1, round(self._proved))) if refused else None

    def words(self, advice: str = "") -> str:
        """What was found, for the user; empty if nothing was. `advice` is what has it work on more at a time."""
        said, works_on = [], self.works_on
        if works_on is not None:
            at_a_time = f"works on {'about ' if works_on > FEW else ''}{works_on:,} at a time"
            said.append(f"{at_a_time}; {advice}" if advice else at_a_time)
        if self.paced:
            said.append(f"lets about {60 * self._throttle.came_through:,.0f} requests a minute through")
        return f"the server {', and '.join(said)}" if said else ""


def _blame(error: BaseException) -> tuple[bool, bool]:
    """Whether an error says that there are too many, or they come too often; and whether it may come of that.

    The user's own functions raise their own libraries' errors: those have a status under one of three names.
    """
    try:
        response = getattr(error, "response", None)
        names = (error, "status"), (error, "status_code"), (response, "status_code")
        found = [getattr(of, name, None) for of, name in names]
        waits = getattr(error, "retry_after", None) is not None
    except Exception:  # noqa: BLE001 - an error that cannot be looked at says nothing, and is the row's own
        return False, False
    statuses = {status for status in found if isinstance(status, int)}
    refused = bool(statuses & REFUSALS) or waits
    return refused, bool(statuses & FAILURES) or isinstance(error, (TimeoutError, ConnectionError))
