"""Allowance: what a server says, in the headers of its answers, is left of its limits.

Sources: OpenAI's guide to rate limits (``x-ratelimit-remaining-requests``, resets like ``1s``, ``6m0s``, ``20ms``),
which Groq, Azure and most compatible servers follow; Anthropic's (``anthropic-ratelimit-requests-remaining``, resets in
RFC 3339); OpenRouter's (``X-RateLimit-Remaining``, resets in milliseconds since 1970).
"""

from __future__ import annotations

import email.utils
import math
import random
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

KINDS = ("requests", "tokens")

LONGEST = 600.0
"""Seconds; no server can hold us off for longer with one answer."""

JITTER = 0.1
"""Seconds, at most, added to what a server says, so that several notebooks do not come back in step."""


class Hearer(Protocol):
    """Whoever wants to know what is left."""

    def hears(self, headers: Mapping[str, str], certain: bool) -> None:
        """Be told of the headers of an answer, and whether it is a refusal that says itself when to come back."""


hearing: ContextVar[Hearer | None] = ContextVar("hearing", default=None)
"""Who is to be told of the answer to the request that is under way."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of one limit.

    Attributes
    ----------
    remaining : float
        Requests, or tokens.
    reset : float
        Seconds until all of it is there again, 0 to 600.
    limit : float or None
        All of it, if the server says so.
    """

    remaining: float
    reset: float
    limit: float | None = None


def read(headers: Mapping[str, str]) -> tuple[Left | None, Left | None]:
    """Requests and tokens that are left; None where that is not said, or cannot be understood."""
    for name in headers:
        if "ratelimit" in name.lower():
            break
    else:  # nearly every answer of nearly every server: in less than a microsecond
        return None, None
    lower = {name.lower(): value for name, value in headers.items()}
    requests, tokens = (
        _left(lower, f"x-ratelimit-{{}}-{kind}") or _left(lower, f"anthropic-ratelimit-{kind}-{{}}") for kind in KINDS
    )
    return requests or _left(lower, "x-ratelimit-{}"), tokens


def _left(headers: Mapping[str, str], pattern: str) -> Left | None:
    remaining = _number(headers.get(pattern.format("remaining"), ""))
    reset = _seconds(headers.get(pattern.format("reset"), ""), headers.get("date"))
    if remaining is None or reset is None:
        return None
    return Left(remaining, min(max(reset, 0.0), LONGEST), _number(headers.get(pattern.format("limit"), "")))


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\s*\d{1,15}(\.\d{1,9})?\s*", text, re.ASCII) else None


_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)(ms|us|µs|ns|d|h|m|s)", re.ASCII)


def _seconds(text: str, date: str | None) -> float | None:
    """Seconds from now: so many, a duration as Go writes it, or a moment, in s or ms since 1970 or in RFC 3339.

    A moment is held against the server's own Date, so that clocks that differ do no harm.
    """
    text = text.strip()
    number = _number(text)
    if number is not None:
        return number if number < 1e9 else (number if number < 1e11 else number / 1000) - _now(date)
    if text and not _PART.sub("", text):
        return math.fsum(float(count) * _UNITS[unit] for count, unit in _PART.findall(text))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - _now(date)


def _now(date: str | None) -> float:
    try:
        return email.utils.parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        return time.time()


class Allowance:
    """How much more may be sent, of one kind, by what the server said last.

    What was sent after the request that brought the news may not have been counted in it, so it is counted here: all is
    reckoned in what was sent since the beginning. So too little may be thought to be left while answers are under way.
    Of answers to requests with the same mark (those that went before anybody counted have 0), which may come in any
    order, the lowest holds until the reset. Too much is thought to be left only where the server took requests in
    another order than they were sent in, or others use the key as well: the next answer puts it right.
    """

    def __init__(self, kind: str) -> None:
        self.reason = f"no {kind} are left, the server said"
        self._mark = -1.0
        self._ceiling = math.inf
        self._until = 0.0
        self._said: Left | None = None

    def told(self, left: Left, mark: float, now: float) -> None:
        """Take what an answer said. `mark` is what had been sent when its request was, that included."""
        if mark < self._mark:
            return  # an answer to a later request has come before
        ceiling = mark + left.remaining
        if mark == self._mark and ceiling > self._ceiling and self._said is not None and now < self._until:
            return  # which of the two is newer nobody knows
        self._mark, self._said = mark, left
        self._ceiling = ceiling
        self._until = now + left.reset + random.uniform(0, JITTER)

    def forget(self) -> None:
        """Something more certain was said."""
        self._said = None

    def opens(self, need: float, sent: float, now: float) -> float:
        """When so much more may be sent, by what is known; 0 is at once."""
        said = self._said
        if said is None:
            return 0.0
        if now >= self._until:
            if said.limit is None:
                self._said = None
                return 0.0
            self._ceiling = sent + said.limit  # all is there again; until there is news, for as long as the last time
            self._until = now + max(said.reset, 1.0)
        if said.limit is not None:
            need = min(need, said.limit)
        return 0.0 if sent + need <= self._ceiling else self._until
