"""Pace: how fast a batch goes, and how long it will take still, for a person to read: neither jumps about."""

from __future__ import annotations

import math

MEMORY = 10.0
"""Seconds after which what was seen counts 1/e of what is seen now..."""

ENOUGH = 32.0
"""...but it is not forgotten faster than so many new answers come, each 1/ENOUGH: a slow batch is remembered longer."""

HASTE = 3.0
"""What was not forgotten for want of answers, is forgotten so much faster when they come."""

OWED = 6 * MEMORY
"""Seconds that are to be forgotten still, at most: e^-6 is nothing."""

CALM = 60.0
"""Seconds in which a small error of the estimate is put right."""

NOISE = 0.1
"""What is a small error, as a share: one that is twice as large is put right in a fifth of the time."""


class Pace:
    """The speed of a batch and the time left, fed at any moments.

    Speed is an exponentially weighted mean over the time that a batch runs: answers by seconds, both forgotten alike,
    so that it is right from the first answers on (as is Adam's mean with its bias corrected: Kingma & Ba 2015, §3). The
    time left is a clock that runs down and is put right a little at a time: by 10 % or 2 s a second at most. It stands
    still in a cool-down, which comes on top.

    Attributes
    ----------
    rate : float or None
        Answers a second, cool-downs included; None until the first, and for a second.
    tokens : float or None
        Tokens a second; None also where there are none.
    left : float or None
        Seconds that it will take still, if no other cool-down comes; None until three answers and two seconds say
        so, and where it is unknown how many rows there are.
    """

    def __init__(self) -> None:
        self.rate: float | None = None
        self.tokens: float | None = None
        self.left: float | None = None
        self._last: tuple[float, int, int, float, bool] | None = None
        self._answers = self._said = 0.0  # weighted sums, and those of the seconds that they took:
        self._seconds = self._silence = 0.0  # up to the last answer, and since
        self._idle = self._idling = 0.0  # of those, the seconds of cool-downs
        self._owed = 0.0
        self._seen = 0
        self._watched = 0.0
        self._clock: float | None = None
        self._changed = False

    def update(
        self, now: float, asked: int, tokens: int, left: int | None, held: float = 0.0, running: bool = True
    ) -> None:
        """Take in how far the batch is; the first call says from when on, and from which counts.

        Parameters
        ----------
        now : float
            Seconds, by any clock.
        asked, tokens : int
            Rows that were answered so far, those from the store left out, and the tokens of the answers.
        left : int or None
            Rows that are to be answered still; None where it is unknown.
        held : float
            Seconds that a cool-down will last still.
        running : bool
            Whether it runs. While it does not, everything stands still, and what ends meanwhile is not counted.
        """
        before, self._last = self._last, (now, asked, tokens, held, running)
        if before is None or not (running and before[4]):
            return
        seconds = max(now - before[0], 0.0)
        answers = max(asked - before[1], 0)
        idle = min(seconds, before[3])
        self._take(seconds, answers, max(tokens - before[2], 0), idle)
        if self._seen and self._watched >= 1:
            total = self._seconds + self._silence
            self.rate = self._answers / total
            self.tokens = self._said / total if self._said else None
        if not left:
            self._clock = self.left = 0.0 if left == 0 else None
        elif self._seen >= 3 and self._watched >= 2:
            busy = max(self._seconds + self._silence - self._idle - self._idling, 0.0)
            self._clock = self._set_right(seconds - idle, left * busy / self._answers)
            self.left = held + self._clock
        if self._changed:
            self._think_little_of_it()

    def reset(self) -> None:
        """Something has changed for good (the limit, the rows): what was seen counts little, and `left` may jump once.

        It counts as if it had been a second, or three answers if these took longer.
        """
        self._changed = True

    def _think_little_of_it(self) -> None:
        self._changed = False
        self._seconds, self._idle = self._seconds + self._silence, self._idle + self._idling
        self._silence = self._idling = self._owed = 0.0
        if self._answers and self._seconds:
            kept = min(max(1 / self._seconds, 3 / self._answers), 1.0)
            self._answers, self._said = self._answers * kept, self._said * kept
            self._seconds, self._idle = self._seconds * kept, self._idle * kept

    def _take(self, seconds: float, answers: int, tokens: int, idle: float) -> None:
        """Forget, and add. Seconds without an answer wait for the next one: what took long weighs as long."""
        self._watched += seconds
        self._silence += seconds
        self._owed = min(self._owed + seconds, OWED)
        self._said += tokens
        if not answers:
            self._idling += idle
            return
        forgotten = min(self._owed / MEMORY, HASTE * self._silence / MEMORY, answers / ENOUGH)
        self._owed -= forgotten * MEMORY
        kept = math.exp(-forgotten)
        self._answers = self._answers * kept + answers
        self._said = (self._said - tokens) * kept + tokens
        self._seconds = self._seconds * kept + self._silence
        self._idle = self._idle * kept + self._idling
        self._silence = self._idling = 0.0
        self._seen += answers

    def _set_right(self, seconds: float, target: float) -> float:
        """Where the clock stands after so many seconds, a little nearer to where it should stand.

        Slowly if it is off by what is noise, quickly if it is off by much.
        """
        if self._clock is None or self._changed:
            return target
        left = max(self._clock - seconds, 0.0)
        error = target - left
        share = error / max(target, left, 1.0)
        step = error * -math.expm1(-seconds * (1 + (share / NOISE) ** 2) / CALM)
        most = seconds * max(2.0, left / 10)
        return left + min(max(step, -most), most)
