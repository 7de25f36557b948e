"""Throttle: the rate that a server lets through, learned from its refusals.

A server that refuses what comes too often has a rate, however few are in flight. After a refusal the pace is cut, comes
back to where it was refused along a cubic, stays about there for long, and only then tries more: CUBIC (RFC 9438), of
requests instead of segments, as in the adaptive retry mode of the AWS SDKs. Between two refusals of a server that is
found to be far slower, the pace is cut by more; but never below what has come through meanwhile, not when nothing has
come through at all (then it is not the pace), and not without end: a server's bad minute may not cost an hour.
"""

from __future__ import annotations

from collections import deque

CUT, DEEP_CUT = 0.2, 0.5
"""Share of the pace that one refusal costs; and one that comes before FEW answers since the last."""
FEW = 30
PLATEAU = 150
"""Answers until the pace is again where it was refused."""
CLIMB = 0.3
"""Share of the pace that is added in as many answers again."""
ENOUGH = 3.0
"""So many times what was refused without another refusal: then there is no such rate any more."""
DEEPEST = 64.0
"""By how much refusals with FEW answers between them may divide the pace, all of them together."""
SLOWEST = 0.05
"""Requests a second: nothing is slower. Who lets fewer through says when to come back."""
FORGIVEN = 60.0
"""Seconds until the pace is again where it was refused, if answers are fewer than PLATEAU."""
REMEMBERED, RECENT = 400, 200
"""Answers whose time is kept; and by how many it is said what comes through."""


class Throttle:
    """The pace of one server. `rate` is requests a second, None while no refusal says that there is one."""

    def __init__(self) -> None:
        self.rate: float | None = None
        self._refused_at = 0.0  # the rate
        self._cut = 0.0
        self._answers: deque[float] = deque(maxlen=REMEMBERED)
        self._since = 0
        self._last_refusal = 0.0
        self._first_refusal: float | None = None  # of several without many answers between them
        self._least = SLOWEST

    @property
    def interval(self) -> float:
        """Seconds from one request to the next; 0 if it does not matter."""
        return 1 / self.rate if self.rate else 0.0

    @property
    def came_through(self) -> float:
        """Requests a second that the server has let through of late."""
        recent = list(self._answers)[-RECENT:]
        took = recent[-1] - recent[0] if recent else 0.0
        return (len(recent) - 1) / took if took > 0 else self.rate or 0.0

    def answered(self, now: float) -> None:
        """A request came through."""
        self._answers.append(now)
        self._since += 1
        if self.rate is None:
            return
        part = max(self._since / PLATEAU, (now - self._last_refusal) / FORGIVEN)
        self.rate = self._refused_at * (1 - self._cut * (1 - part) ** 3 if part < 1 else 1 + CLIMB * (part - 1) ** 3)
        if self.rate > ENOUGH * self._refused_at:
            self.rate = None

    def refused(self, now: float, tried: float) -> None:
        """A request was refused, for its rate.

        Parameters
        ----------
        tried : float
            Requests a second that were sent, where there is no pace yet.
        """
        if not self._since and self.rate is not None:
            return
        pace, far = self.rate or tried, self._since < FEW
        if not far or self._first_refusal is None:
            self._first_refusal, self._least = now, max(SLOWEST, pace / DEEPEST)
        self._refused_at, self._cut = (pace * (1 - CUT), DEEP_CUT - 0.1) if far else (pace, CUT)
        self.rate = max(self._least, self._refused_at * (1 - self._cut))
        self._refused_at = max(self._refused_at, self.rate)
        self._cut = 1 - self.rate / self._refused_at
        came_through = self._came_through(self._first_refusal, now)
        if self.rate < 0.9 * came_through:
            self.rate = 0.9 * came_through
            self._refused_at = max(self._refused_at, came_through)
            self._cut = 1 - self.rate / self._refused_at
        self._since, self._last_refusal = 0, now

    def _came_through(self, since: float, now: float) -> float:
        """Answers a second since then; 0 where it cannot be said yet."""
        answers = sum(when >= since for when in self._answers)
        return answers / (now - since) if answers >= 10 and now - since >= 0.5 else 0.0
