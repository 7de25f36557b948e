"""Shown: what there is to be seen of a batch; the half of `Batch` that views read, and that changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .answers import CANCELLED, FAILED, OK, Answer, Answers
from .course import Course
from .errors import describe
from .frames import Source
from .keeping import Keeper
from .loop import call_in
from .messages import Text
from .news import Listener, News
from .trace import Flight, Trace
from .work import Work

MARGIN = 500
"""Characters before what is shown of a text, in which a key may begin that is to be hidden."""


class Shown:
    """How a batch stands. Any thread may ask, at any time."""

    handle = "run"
    """What a user is told to call it by."""

    _answers: Answers
    _course: Course
    _keeper: Keeper
    _news: News
    _source: Source
    _trace: Trace
    _work: Work

    # -- how it stands ------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """``"running"``, ``"paused"``, ``"cancelled"``, ``"stopped"`` (by an error) or ``"done"``.

        A batch whose store fails is paused: what it has is in `frame`, and `resume` goes on.
        """
        return self._course.state

    @property
    def finished(self) -> bool:
        """Whether it has ended, in whatever way: done, cancelled or stopped."""
        return self._course.finished.done()

    @property
    def total(self) -> int | None:
        """How many rows there are; None while a stream has not ended."""
        return self._source.total

    @property
    def counts(self) -> dict[str, int]:
        """How many rows are ok, failed, cancelled, in flight and waiting (of a stream: of those pulled so far).

        Examples
        --------
        >>> from ceylon_nb import batch
        >>> async def half(number):
        ...     if number % 2:
        ...         raise ValueError("odd")
        ...     return number // 2
        >>> run = batch(half, [2, 4, 7])
        >>> frame = await run
        >>> run.counts
        {'ok': 2, 'failed': 1, 'cancelled': 0, 'in flight': 0, 'waiting': 0}
        """
        counts = self._answers.counts
        in_flight = len(self._course.workers.in_flight)
        known = max(len(self._answers), self.total or 0)
        waiting = known - counts[OK] - counts[FAILED] - counts[CANCELLED] - in_flight
        return {
            "ok": counts[OK],
            "failed": counts[FAILED],
            "cancelled": counts[CANCELLED],
            "in flight": in_flight,
            "waiting": max(waiting, 0),
        }

    @property
    def store(self) -> Path | None:
        """The file in which its answers are kept; None if there is none."""
        return self._keeper.path

    @property
    def from_store(self) -> int:
        """How many rows had their answer in the store."""
        return self._answers.reused

    @property
    def elapsed(self) -> float:
        """Seconds that it has worked, pauses left out."""
        return self._course.stopwatch.elapsed

    @property
    def adaptive(self) -> bool:
        """Whether `max_at_once` follows what the server is found to work on."""
        return self._course.adaptive

    @property
    def found(self) -> str:
        """What ``max_at_once="auto"`` has found out about the server, in words; empty if nothing."""
        return self._course.found if self.adaptive else ""

    @property
    def error(self) -> BaseException | None:
        """What stopped it, or keeps its store from being written; None if nothing did."""
        return self._course.error

    # -- for views ----------------------------------------------------------------------------------------------

    @property
    def rows(self) -> Answers:
        """The columns as they grow, for views; `frame` is a copy of them."""
        return self._answers

    @property
    def trace(self) -> Trace:
        """The requests that have ended: ``run.trace.spans()`` says when each began and ended, in seconds."""
        return self._trace

    @property
    def flights(self) -> list[Flight]:
        """What is happening to each row in flight, the longest first."""
        return list(self._course.workers.in_flight.values())

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop on which it happens; listeners are called there."""
        return self._course.loop

    @property
    def holds(self) -> list[tuple[float, float, str]]:
        """Its server's cool-downs up to its end: from when, until when, in seconds since the batch began, and why."""
        endpoint, origin, ended = self._work.endpoint, self._trace.origin, self._course.ended
        if endpoint is None:
            return []
        mine = [hold for hold in endpoint.holds() if hold[1] > origin and (ended is None or hold[0] < ended)]
        return [(max(0.0, begins - origin), ends - origin, why) for begins, ends, why in mine]

    @property
    def controls(self) -> frozenset[str]:
        """Which of ``pause``, ``resume``, ``cancel``, ``retry`` and ``at_once`` mean something now.

        Of a stopped batch that is ``resume``, which asks again for the rows that failed, too.
        """
        state, failed = self.state, self._answers.counts[FAILED]
        able = {"at_once"} if state in ("running", "paused") else set()
        able |= {"pause", "cancel"} if state == "running" else {"cancel"} if state == "paused" else set()
        able |= {"resume"} if state in ("paused", "cancelled", "stopped") else set()
        able |= {"retry"} if failed and state != "stopped" else set()
        return frozenset(able)

    def row(self, position: int) -> Answer:
        """A row as it stands now.

        Parameters
        ----------
        position : int
            Its place in the input, from 0.

        Returns
        -------
        Answer
            What became of it so far.

        Raises
        ------
        IndexError
            There is no such row, or the batch has not come to it yet.
        """
        if position < 0:
            raise IndexError(f"Rows are counted from 0; there is no row {position}.")
        return self._answers.row(position, self._source.label(position), self._source.item(position))

    def question(self, position: int) -> str:
        """What is asked about a row, as text; whatever is wrong with the item.

        Parameters
        ----------
        position : int
            Its place in the input, from 0.

        Returns
        -------
        str
            The prompt; or, in brackets, why there is none.
        """
        return self._shown(self._work.describe, position)

    def gist(self, position: int) -> str:
        """The part of what is asked about a row that tells it from others: what the template's fields stand for.

        Parameters
        ----------
        position : int
            Its place in the input, from 0.

        Returns
        -------
        str
            A part of `question`, or all of it.
        """
        return self._shown(self._work.gist, position)

    def _shown(self, worded: Callable[[Any], str], position: int) -> str:
        try:
            return worded(self._source.item(position))
        except Exception as error:  # noqa: BLE001 - the row's own error says so; this is only shown
            return f"({describe(error)})"

    def heard(self, flight: Flight, length: int) -> str:
        """The end of what has been said so far of a row in flight, if it is streamed.

        Parameters
        ----------
        flight : Flight
            One of `flights`.
        length : int
            Characters, at the most.

        Returns
        -------
        str
            Without the agent's key, should the model say it; empty if nothing was said.
        """
        return self._work.hide(flight.tail(length + MARGIN))[-length:]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have a function called on the batch's loop after changes, ten times a second at the most.

        Parameters
        ----------
        listener : callable
            Takes the batch. One that raises is logged once, and dropped; the batch goes on.

        Returns
        -------
        callable
            Ends the subscription.
        """
        leave = self._news.subscribe(listener)
        call_in(self._course.loop, self._news.changed)
        return leave

    def at_end(self, ending: Listener) -> None:
        """Have a function called in each cell that has waited for the batch, when it returns or is interrupted.

        Parameters
        ----------
        ending : callable
            Takes the batch. What it displays is that cell's own.
        """
        self._news.at_end(ending)

    def show(self, view: Listener) -> None:
        """Hand the batch to a view, which may fail while a paid run must not.

        Parameters
        ----------
        view : callable
            Takes the batch, and most likely calls `subscribe`. What it raises is logged.
        """
        self._news.guarded(view)

    # -- in words -----------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """What happened, in a few lines of plain text: counts, seconds, latencies, tokens, kinds of failure."""
        done, seconds = self._answers.counts[OK] + self._answers.counts[FAILED] - self.from_store, self.elapsed
        lines = [f"{self!r} in {seconds:.1f} s"]
        if self.from_store:
            lines.append(f"{self.from_store:,} from the store; fresh=True asks anew")
        if done and seconds:
            at_once = "{:,} at once in the end" if self.adaptive else "at most {:,} at once"
            lines.append(f"{done / seconds:,.1f} answers a second, {at_once.format(self._course.workers.limit)}")
        if self.found:
            lines.append(self.found)
        return Text("\n".join(lines + self._answers.summary(self._trace.spans().position)))

    def __repr__(self) -> str:
        counts = self.counts
        total = f"{self.total:,}" if self.total is not None else f"{len(self._answers):,} so far"
        parts = [f"{counts['ok']:,} ok"] + [
            f"{counts[name]:,} {name}" for name in ("failed", "cancelled", "in flight") if counts[name]
        ]
        ending = "" if self.state in ("running", "done") else f", {self.state}"
        return f"Batch({', '.join(parts)} of {total}{ending})"
