"""Trace: when each request of a batch began and how it ended; what a timeline, a table of attempts and a plot are of.

A row's worker has a `Flight`, which says what is happening to the row just now. Whoever asks on the row's behalf,
however deep below, finds it by `flying` and tells it of attempts that failed and of text that comes.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from .errors import RateLimited, RequestError
from .loop import clock

KINDS = ("ok", "failed", "retried", "limited", "cancelled")
OK, FAILED, RETRIED, LIMITED, CANCELLED = range(5)

MOST = 200_000
"""Spans that one batch keeps, 23 bytes each; later ones are counted, not kept."""


@dataclass(frozen=True, slots=True)
class Spans:
    """Requests, in the order in which they ended.

    Attributes
    ----------
    position, lane : array of int
        The row, and the worker that asked: no two requests of a lane overlap.
    began, ended : array of float
        Seconds since the batch began, waiting for limits left out.
    kind : bytes
        Indexes into KINDS.
    """

    position: array[int]
    lane: array[int]
    began: array[float]
    ended: array[float]
    kind: bytes

    def __len__(self) -> int:
        return len(self.kind)


class Trace:
    """The requests of one batch. Any thread may add to it and read it.

    Attributes
    ----------
    origin : float
        When the batch began, by `loop.clock`.
    dropped : int
        Spans that were not kept.
    dropped_kinds, dropped_seconds : list of int, float
        How many of each of KINDS they were, and how long they took together.
    changed : callable
        Called when there is something new to see of a row in flight.
    """

    def __init__(self, changed: Callable[[], object] = lambda: None) -> None:
        self.origin = clock()
        self.dropped = 0
        self.dropped_kinds = [0] * len(KINDS)
        self.dropped_seconds = 0.0
        self.changed = changed
        self._position, self._lane = array("I"), array("I")
        self._began, self._ended = array("d"), array("d")
        self._kind = bytearray()
        self._said: dict[int, str] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kind)

    def add(self, flight: Flight, ended: float, seconds: float, kind: int, error: BaseException | None = None) -> None:
        """Note a request that ended just now, after so many seconds."""
        if len(self._kind) >= MOST:
            self.dropped += 1
            self.dropped_kinds[kind] += 1
            self.dropped_seconds += seconds
            return
        with self._lock:
            if error is not None:
                self._said[len(self._kind)] = _named(error)
            self._position.append(flight.position)
            self._lane.append(flight.lane)
            self._began.append(ended - seconds - self.origin)
            self._ended.append(ended - self.origin)
            self._kind.append(kind)

    def spans(self, first: int = 0) -> Spans:
        """Those that have ended, from the `first` on."""
        with self._lock:
            return Spans(
                self._position[first:],
                self._lane[first:],
                self._began[first:],
                self._ended[first:],
                bytes(self._kind[first:]),
            )

    def attempts(self, position: int) -> list[tuple[float, float, str]]:
        """What was asked for one row: when it began, how many seconds it took, and ``"ok"`` or what went wrong."""
        import numpy as np  # a loop over 200,000 spans takes 10 ms of a loop that has other things to do

        with self._lock:
            found = (np.frombuffer(self._position, np.uintc) == position).nonzero()[0].tolist()
            return [
                (self._began[at], self._ended[at] - self._began[at], self._said.get(at, KINDS[self._kind[at]]))
                for at in found
            ]


class Flight:
    """What a worker is at: one for each, used again for each of its rows.

    Attributes
    ----------
    lane : int
        The worker's number; a number becomes free when its worker ends.
    position : int
        The row.
    began, since : float
        When the row began, and its present attempt, its waiting included; by `loop.clock`.
    attempt : int
        Which attempt it is, from 1.
    note : str
        Why there is another one: ``"RateLimited 429"``.
    waits : bool
        Whether it may still wait for its turn; only what has one says when that is over.
    """

    __slots__ = ("_pieces", "_trace", "attempt", "began", "lane", "note", "position", "since", "waits")

    def __init__(self, trace: Trace, lane: int) -> None:
        self._trace = trace
        self.lane = lane
        self.begin(-1)

    def begin(self, position: int) -> None:
        """Take another row."""
        self.position = position
        self.began = self.since = clock()
        self.attempt = 1
        self.note = ""
        self.waits = True
        self._pieces: list[str] | None = None

    def tail(self, length: int) -> str:
        """The last characters of what has been said so far, of a reply that is streamed."""
        pieces: list[str] = []
        missing = length
        for piece in reversed(self._pieces or ()):
            pieces.append(piece)
            missing -= len(piece)
            if missing <= 0:
                break
        return "".join(reversed(pieces))[-length:]

    def heard(self, piece: str) -> None:
        """More text has come."""
        if self._pieces is None:
            self._pieces = []
        self._pieces.append(piece)
        self._trace.changed()

    def failed(self, error: Exception, made: int) -> None:
        """An attempt failed, and there will be another one."""
        now = clock()
        seconds = error.latency if isinstance(error, RequestError) and error.latency is not None else now - self.since
        self._trace.add(self, now, seconds, LIMITED if limited(error) else RETRIED, error)
        self.since, self.attempt, self.note, self.waits, self._pieces = now, made + 1, _named(error), True, None
        self._trace.changed()

    def sent(self, now: float) -> None:
        """It has waited for its turn."""
        self.since, self.waits = now, False

    def answered(self, now: float, seconds: float) -> None:
        """It has an answer, after an attempt of so many seconds; of several that follow one another the last counts."""
        self._trace.add(self, now, min(seconds, now - self.since), OK)

    def refused(self, error: Exception, seconds: float) -> None:
        """The last attempt failed."""
        self._trace.add(self, clock(), seconds, LIMITED if limited(error) else FAILED, error)

    def aborted(self) -> None:
        """The row was given up in the midst of it."""
        now = clock()
        self._trace.add(self, now, now - self.since, CANCELLED)


flying: ContextVar[Flight | None] = ContextVar("flying", default=None)
"""The flight on whose behalf this is done."""


def limited(error: BaseException) -> bool:
    """Whether the server asked to be left alone for a while."""
    return isinstance(error, RateLimited) or (isinstance(error, RequestError) and error.retry_after is not None)


def _named(error: BaseException) -> str:
    status = getattr(error, "status", None)
    return type(error).__name__ + (f" {status}" if isinstance(status, int) else "")
