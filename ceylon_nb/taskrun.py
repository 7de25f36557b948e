"""TaskRun: tasks of the user's own, seen as a batch is: what `as_completed` shows in a panel."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .answers import CANCELLED, FAILED, OK, Answer, Answers
from .loop import cancel_once, clock
from .messages import sendable
from .news import Listener, News
from .trace import Flight, Trace


class TaskRun:
    """Tasks that have begun, row by row: the part of `Batch` that views read, without what only a batch can do.

    Parameters
    ----------
    futures : sequence of Future
        On the running loop.
    asked : mapping, optional
        What each stands for, to be shown beside its result.
    """

    handle = ""
    from_store = 0
    store = None
    total: int
    max_at_once = None
    adaptive = False
    found = ""
    error = None

    def __init__(self, futures: Sequence[asyncio.Future[Any]], asked: Mapping[Any, Any] | None) -> None:
        self.loop = asyncio.get_running_loop()
        self.total = len(futures)
        self.title = f"{self.total:,} task{'s' * (self.total != 1)}"
        self.subtitle = ", ".join(sorted({_function(future) for future in futures}))
        self.rows = Answers()
        self.rows.extend_to(self.total)
        self.trace = Trace()
        self.finished = False
        self._ended: float | None = None
        self._futures = futures
        self._asked = asked
        self._news = News(self)
        self._flights: dict[int, Flight] = {}
        for position, future in enumerate(futures):
            flight = self._flights[position] = Flight(self.trace, position)
            flight.begin(position)
            future.add_done_callback(functools.partial(self._settle, position))

    def __repr__(self) -> str:
        counts = self.counts
        parts = [f"{counts['ok']:,} ok"] + [
            f"{counts[name]:,} {name}" for name in ("failed", "cancelled", "in flight") if counts[name]
        ]
        return f"Tasks({', '.join(parts)} of {self.total:,})"

    @property
    def state(self) -> str:
        """``"running"``; then ``"done"``, ``"cancelled"``, or ``"left"`` while some had not ended."""
        if not self.finished:
            return "running"
        return "left" if self._flights else "cancelled" if self.rows.counts[CANCELLED] else "done"

    @property
    def counts(self) -> dict[str, int]:
        """As `Batch.counts`."""
        counts, flying = self.rows.counts, len(self._flights)
        return {
            "ok": counts[OK],
            "failed": counts[FAILED],
            "cancelled": counts[CANCELLED],
            "in flight": flying,
            "waiting": 0,
        }

    @property
    def elapsed(self) -> float:
        """Seconds since they were begun to be waited for, until the last had ended."""
        return (self._ended if self._ended is not None else clock()) - self.trace.origin

    @property
    def controls(self) -> frozenset[str]:
        """As `Batch.controls`."""
        return frozenset() if self.finished else frozenset({"cancel"})

    @property
    def flights(self) -> list[Flight]:
        """As `Batch.flights`."""
        return list(self._flights.values())

    @property
    def holds(self) -> list[tuple[float, float, str]]:
        """None: nothing is known of servers."""
        return []

    def row(self, position: int) -> Answer:
        """As `Batch.row`."""
        return self.rows.row(position, position, self._futures[position])

    def question(self, position: int) -> str:
        """What the task stands for, in the mapping that it is a key of; else its name."""
        future = self._futures[position]
        if self._asked is not None and future in self._asked:
            return self._shown(self._asked[future])
        return future.get_name() if isinstance(future, asyncio.Task) else type(future).__name__

    gist = question

    def _shown(self, asked: Any) -> str:
        try:
            return sendable(str(asked))
        except Exception as error:  # noqa: BLE001 - an object that cannot say what it is must not hide all the others
            return f"({type(error).__name__})"

    def heard(self, flight: Flight, length: int) -> str:
        """Nothing: what a task says comes at its end."""
        return ""

    def cancel(self) -> None:
        """Cancel every task that has not ended, once."""
        for future in self._futures:
            cancel_once(future)

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """As `Batch.subscribe`."""
        return self._news.subscribe(listener)

    def at_end(self, ending: Listener) -> None:
        """As `Batch.at_end`."""
        self._news.at_end(ending)

    def show(self, view: Listener) -> None:
        """As `Batch.show`."""
        self._news.guarded(view)

    def leave(self) -> None:
        """Nobody waits for them any more."""
        self.finished = True
        self._ended = self._ended or clock()
        self._news.tell()
        self._news.end()

    def _settle(self, position: int, future: asyncio.Future[Any]) -> None:
        flight = self._flights.pop(position)
        now = clock()
        took = now - flight.began
        if future.cancelled():
            flight.aborted()
            self.rows.set(position, CANCELLED)
        elif (error := future.exception()) is not None:
            failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
            flight.refused(failure, took)
            self.rows.set(position, FAILED, error=failure, attempts=1, latency=took)
        else:
            flight.answered(now, took)
            self.rows.set(position, OK, future.result(), attempts=1, latency=took)
        if not self._flights:
            self._ended = now
        self._news.changed()


def _function(future: asyncio.Future[Any]) -> str:
    coroutine = future.get_coro() if isinstance(future, asyncio.Task) else None
    return str(getattr(coroutine, "__qualname__", type(future).__name__)).rpartition(".")[2]
