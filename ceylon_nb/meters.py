"""Meters: when so many requests, or tokens, may go without any minute seeing more than its limit.

What they hand out are slots: moments. Who has one may use it up to LAPSE later, and the slots of any 60 + LAPSE seconds
keep to the limit, so what is used in any 60 seconds does. A meter knows no clock and no threads: it is told what time
it is now, and from when on (`earliest`, which never goes back) a slot is still good that nobody came for in time.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import deque
from dataclasses import dataclass

LAPSE = 0.25
"""Seconds after which a slot that was not used in time is no longer good."""

WINDOW = 60.0 + LAPSE
"""Seconds whose slots may not be more than the limit."""


def spacing(max_per_minute: float) -> float:
    """Seconds between two slots."""
    return WINDOW / max_per_minute


class Slots:
    """The time that is free, of which each request takes its own rate's share.

    GCRA, the generic cell rate algorithm (ITU-T I.371, in its virtual scheduling form) with burst 1; rates may differ,
    and what is not used can be given back.
    """

    def __init__(self) -> None:
        self._free = [(0.0, math.inf)]

    def first(self, earliest: float, now: float, interval: float) -> float:
        """When the first `interval` seconds begin that are free; now, if they have been for longer than that."""
        while self._free[0][1] <= earliest:
            del self._free[0]
        for start, end in self._free:
            slot = start if start > earliest else now
            if slot + interval <= end:
                return slot
        raise AssertionError("the last free time has no end")

    def take(self, slot: float, interval: float) -> None:
        """Take what was found; the free time right before it, where nobody fitted in, is gone."""
        i = bisect_right(self._free, (slot, math.inf)) - 1
        end = self._free[i][1]
        self._free[i : i + 1] = [(slot + interval, end)] if slot + interval < end else []

    def give_back(self, slot: float, interval: float) -> None:
        """Return a slot that was not used; it joins the free time next to it."""
        start, end = slot, slot + interval
        i = bisect_left(self._free, (start,))
        if self._free[i][0] == end:
            end = self._free.pop(i)[1]
        if i and self._free[i - 1][1] == start:
            i -= 1
            start = self._free.pop(i)[0]
        self._free.insert(i, (start, end))


@dataclass(slots=True, eq=False)
class Spent:
    """Tokens that a request has taken.

    Attributes
    ----------
    slot : float
        When.
    tokens : int
        How many; what was expected, until it is known.
    per_token : float
        Seconds that each of them takes.
    counts : bool
        Whether the minute in which they were taken is not over.
    """

    slot: float
    tokens: int
    per_token: float
    counts: bool = True


class Tokens:
    """Tokens a minute: spread evenly, and never more in one minute than the limit.

    GCRA again, where a request takes as many intervals as it has tokens. That alone lets a minute see the limit and one
    request more, so what the last minute saw is kept as well (a sliding log), and a request waits until it fits.
    A request larger than the limit goes when the minute before it is empty, and what follows waits until it is paid.
    """

    def __init__(self) -> None:
        self._free = 0.0
        self._log: deque[Spent] = deque()
        self._sum = 0

    def first(self, earliest: float, now: float, tokens: int, limit: float) -> float:
        """When so many tokens may go; now, if they might have for longer than that."""
        while self._log and self._log[0].slot + WINDOW <= earliest:
            over = self._log.popleft()
            over.counts = False
            self._sum -= over.tokens
        slot = self._free
        excess = self._sum + min(tokens, limit) - limit
        for spent in self._log:
            if excess <= 0:
                break
            excess -= spent.tokens
            slot = max(slot, spent.slot + WINDOW)
        return slot if slot > earliest else now

    def take(self, slot: float, tokens: int, limit: float) -> Spent:
        """Take so many tokens then; what comes of them is said by `settle`."""
        if self._log:
            slot = max(slot, self._log[-1].slot)
        spent = Spent(slot, tokens, spacing(limit))
        self._log.append(spent)
        self._sum += tokens
        self._free = max(self._free, slot) + tokens * spent.per_token
        return spent

    def settle(self, spent: Spent, tokens: int, now: float) -> None:
        """So many it was in the end: what is left over is given back, what is missing charged to those that follow."""
        more = tokens - spent.tokens
        spent.tokens = tokens
        if spent.counts:
            self._sum += more
        self._free = (max(self._free, now) if more > 0 else self._free) + more * spent.per_token


# -- what a request will take ----------------------------------------------------------------------------------------

CHARACTERS = 4.0
"""Characters of a token, until a server has counted some."""

RANGE = 0.5, 10.0
"""Characters of a token, at the least and the most: of a prompt in its cache a server may count next to nothing."""

FIRST_GUESS = 500
"""Tokens of a reply, until one has come, where max_tokens says nothing."""

WEIGHT = 1 / 8
"""Of the newest, in the moving averages; as for round-trip times in RFC 6298."""


class Guess:
    """How many tokens one model's requests take: exponentially weighted moving averages of what they took."""

    def __init__(self) -> None:
        self._characters = CHARACTERS
        self._output: float | None = None

    def input(self, characters: int) -> int:
        """Tokens of a prompt of so many characters."""
        return math.ceil(characters / self._characters)

    def output(self, max_tokens: int | None = None) -> int:
        """Tokens of a reply."""
        if self._output is None:
            return max_tokens or FIRST_GUESS
        return math.ceil(min(self._output, max_tokens or math.inf))

    def learn(self, characters: int, input_tokens: int | None, output_tokens: int | None) -> None:
        """So many it was; None where the server did not say."""
        if input_tokens and characters:
            seen = min(max(characters / input_tokens, RANGE[0]), RANGE[1])
            self._characters += WEIGHT * (seen - self._characters)
        if output_tokens is not None:
            before = output_tokens if self._output is None else self._output
            self._output = before + WEIGHT * (output_tokens - before)
