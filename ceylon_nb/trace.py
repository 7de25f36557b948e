"""Trace: when each request of a batch began and how it ended; what a timeline, a table of attempts and a plot are of.

A row's worker has a `Flight`, which says what is happening to the row just now. Whoever asks on the row's behalf,
however deep below, finds it by ``flying`` and tells it of attempts that failed and of text that comes.
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
        How each ended: 0 ok, 1 failed, 2 failed and asked again, 3 refused for a while (a 429, or a Retry-After),
        4 cancelled.
    """

    position: array[int]
    lane: array[int]
    began: array[float]
    ended: array[float]
    kind: bytes

    def __len__(self) -> int:
        return len(self.kind)


class Trace:
    """The requests of one batch, `Batch.trace`. Any thread may add to it and read it.

    Attributes
    ----------
    origin : float
        When the batch began, in seconds by ``time.monotonic``, which is its clock.
    dropped : int
        Spans that were not kept: those after the first 200,000.
    dropped_kinds : list of int
        How many of them ended in each way, by the numbers of `Spans.kind`.
    dropped_seconds : float
        How many seconds they took together.
    changed : callable
        Called when there is something new to see of a row in flight.

    Examples
    --------
    >>> from ceylon_nb import LlmAgent
    >>> from ceylon_nb.testing import ModelServer, faults
    >>> with ModelServer() as server:
    ...     server.next(faults.status(503))
    ...     run = LlmAgent("clerk", "ollama::mock", base_url=server.url).map(["Hello"])
    ...     frame = await run
    >>> [ended for began, seconds, ended in run.trace.attempts(0)]
    ['ServerError 503', 'ok']
    >>> list(run.trace.spans().kind)
    [2, 0]
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
        """Note a request that ended; the library does.

        Parameters
        ----------
        flight : Flight
            On whose behalf it was made.
        ended : float
            When, in seconds by the clock of `Trace.origin`.
        seconds : float
            How many seconds it took.
        kind : int
            How it ended, as of `Spans.kind`.
        error : BaseException, optional
            What went wrong.
        """
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
        """Those that have ended, in that order.

        Parameters
        ----------
        first : int
            How many of them to leave out.

        Returns
        -------
        Spans
            A copy.
        """
        with self._lock:
            return Spans(
                self._position[first:],
                self._lane[first:],
                self._began[first:],
                self._ended[first:],
                bytes(self._kind[first:]),
            )

    def attempts(self, position: int) -> list[tuple[float, float, str]]:
        """What was asked for one row.

        Parameters
        ----------
        position : int
            Its place in the input, from 0.

        Returns
        -------
        list of (float, float, str)
            Of each request when it began, in seconds since the batch did, how many seconds it took, and ``"ok"``, or
            what went wrong: ``"RateLimited 429"``.
        """
        import numpy as np  # a loop over 200,000 spans takes 10 ms of a loop that has other things to do

        with self._lock:
            found = (np.frombuffer(self._position, np.uintc) == position).nonzero()[0].tolist()
            return [
                (self._began[at], self._ended[at] - self._began[at], self._said.get(at, KINDS[self._kind[at]]))
                for at in found
            ]


class Flight:
    """What a worker is at, one of `Batch.flights`: one for each, used again for each of its rows.

    Attributes
    ----------
    lane : int
        The worker's number; a number becomes free when its worker ends.
    position : int
        The row.
    began, since : float
        When the row began, and its present attempt, its waiting included: seconds, by the clock of `Trace.origin`.
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
        """Take another row; the library does, as all that follows but `tail`.

        Parameters
        ----------
        position : int
            Its place in the input, from 0.
        """
        self.position = position
        self.began = self.since = clock()
        self.attempt = 1
        self.note = ""
        self.waits = True
        self._pieces: list[str] | None = None

    def tail(self, length: int) -> str:
        """The end of what has been said so far, of a reply that is streamed; `Batch.heard` leaves out a key in it.

        Parameters
        ----------
        length : int
            Characters, at the most.

        Returns
        -------
        str
            Empty if nothing was said.
        """
        pieces: list[str] = []
        missing = length
        for piece in reversed(self._pieces or ()):
            pieces.append(piece)
            missing -= len(piece)
            if missing <= 0:
                break
        return "".join(reversed(pieces))[-length:]

    def heard(self, piece: str) -> None:
        """More text has come.

        Parameters
        ----------
        piece : str
            The text.
        """
        if self._pieces is None:
            self._pieces = []
        self._pieces.append(piece)
        self._trace.changed()

    def failed(self, error: Exception, made: int) -> None:
        """An attempt failed, and there will be another one.

        Parameters
        ----------
        error : Exception
            What went wrong.
        made : int
            How many attempts that were.
        """
        now = clock()
        seconds = error.latency if isinstance(error, RequestError) and error.latency is not None else now - self.since
        self._trace.add(self, now, seconds, LIMITED if limited(error) else RETRIED, error)
        self.since, self.attempt, self.note, self.waits, self._pieces = now, made + 1, _named(error), True, None
        self._trace.changed()

    def sent(self, now: float) -> None:
        """It has waited for its turn.

        Parameters
        ----------
        now : float
            When that was over, in seconds by the clock of `Trace.origin`.
        """
        self.since, self.waits = now, False

    def answered(self, now: float, seconds: float) -> None:
        """It has an answer; of several requests that follow one another the last counts.

        Parameters
        ----------
        now : float
            When it came, in seconds by the clock of `Trace.origin`.
        seconds : float
            How many seconds the attempt took.
        """
        self._trace.add(self, now, min(seconds, now - self.since), OK)

    def refused(self, error: Exception, seconds: float) -> None:
        """The last attempt failed.

        Parameters
        ----------
        error : Exception
            What went wrong.
        seconds : float
            How many seconds the attempt took.
        """
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
