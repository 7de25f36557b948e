"""Batch: a handle on work that runs in the background of the notebook's loop.

* A batch ends when all rows are answered, when it is cancelled, when its deadline passes, or when everything fails
  alike. An item's failure is a row, never the end.
* All of it happens on one loop, the one that ran when it began (else the library's own). Every control may be called
  from any thread, returns at once, and may be called twice.
* Nothing here knows of models, and nothing here draws: views subscribe, and one that fails is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import pkgutil
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import frames
from . import loop as loops
from .answers import CANCELLED, FAILED, OK, Answer, Answers
from .course import Course
from .errors import ConfigurationError, WrongLoop
from .interrupts import explained
from .keeping import Keeper
from .loop import FAREWELL, awake, call_in, running
from .messages import Text
from .news import Listener, News
from .policy import AtOnce, check_options
from .storage.ledger import Ledger
from .storage.place import StoreLike
from .trace import Flight, Trace
from .work import Work

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PANEL = "ceylon_nb.views.panel:panel"
DISPLAY = "ceylon_nb.views:display"
PLOT = "ceylon_nb.views.plots:draw"
"""Who draws a batch; found by name when asked for, as nothing here imports a view."""

MARGIN = 500
"""Characters before what is shown of a text, in which a key may begin that is to be hidden."""


class Batch:
    """A handle on many calls that run in the background.

    ``await run`` gives the DataFrame (with ``out=`` the path of the file, with ``keep=False`` None); ``async for answer
    in run`` gives each `Answer` as it completes (leaving early cancels the batch; `answers` only watches). `frame` may
    be asked at any moment.

    Attributes
    ----------
    title, subtitle : str
        What runs, and on what.
    """

    handle = "run"

    def __init__(
        self,
        work: Work,
        source: frames.Source,
        keeper: Keeper,
        ledger: Callable[[StoreLike], Ledger | None],
        *,
        max_at_once: AtOnce,
        deadline: float | None,
    ) -> None:
        self.title = work.title
        self.subtitle = work.subtitle
        self._source = source
        self._answers = keeper.answers
        self._keeper = keeper
        self._ledger = ledger
        self._work = work
        self._news = News(self)
        self._trace = Trace()
        self._course = Course(
            work.prepare,
            work.call,
            source,
            keeper,
            self._news,
            self._trace,
            max_at_once=max_at_once,
            estimate=work.estimate,
            deadline=deadline,
        )

    # -- what there is ------------------------------------------------------------------------------------------

    @property
    def frame(self) -> pd.DataFrame:
        """All rows as they stand now, on the input's own index; see `frames.to_frame` for the columns.

        Raises
        ------
        ConfigurationError
            With ``keep=False`` or ``out=`` there is none.
        """
        self._check_kept()
        return frames.to_frame(self._answers, self._source)

    @property
    def failed(self) -> pd.DataFrame:
        """The rows that failed, with their ``position`` in the input."""
        return frames.failed_rows(self.frame)

    @property
    def state(self) -> str:
        """``"running"``, ``"paused"``, ``"cancelled"``, ``"stopped"`` (by an error) or ``"done"``.

        A batch whose store fails is paused: what it has is in `frame`, and `resume` goes on.
        """
        return self._course.state

    @property
    def total(self) -> int | None:
        """How many rows there are; None while a stream has not ended."""
        return self._source.total

    @property
    def counts(self) -> dict[str, int]:
        """How many rows are ok, failed, cancelled, in flight and waiting (of a stream: of those pulled so far)."""
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
    def out(self) -> Path | None:
        """The file that ``out=`` named, once the batch is done; what there is so far, of one that was cancelled."""
        return self._answers.out

    @property
    def from_store(self) -> int:
        """How many rows had their answer in the store."""
        return self._answers.reused

    @property
    def elapsed(self) -> float:
        """Seconds that it has worked, pauses left out."""
        return self._course.stopwatch.elapsed

    @property
    def finished(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._course.finished.done()

    @property
    def max_at_once(self) -> int:
        """Rows in flight at a time, as it is now; may be set while it runs, to a number or to ``"auto"``."""
        return self._course.workers.limit

    @max_at_once.setter
    def max_at_once(self, value: AtOnce) -> None:
        check_options(auto=True, max_at_once=value)
        self._course.work_at_once(value)

    @property
    def adaptive(self) -> bool:
        """Whether `max_at_once` follows what the server is found to work on."""
        return self._course.adaptive

    @property
    def found(self) -> str:
        """What ``max_at_once="auto"`` has found out about the server, in words; empty if nothing."""
        return self._work.estimate.words(self._work.advice) if self.adaptive else ""

    @property
    def panel(self) -> Any:
        """The live panel, an ipywidgets widget: one for each batch, to be put into a VBox or shown again.

        It goes when nobody has the batch any more: keep `run` for as long as it is to be seen.
        """
        return pkgutil.resolve_name(PANEL)(self)

    def plot(self) -> Figure:
        """A figure of the run: each request in its lane, retries and cool-downs, rate and latencies.

        Raises
        ------
        ConfigurationError
            matplotlib is not installed (``pip install 'ceylon-nb[plot]'``).
        """
        figure: Figure = pkgutil.resolve_name(PLOT)(self)
        return figure

    # -- for views ----------------------------------------------------------------------------------------------

    @property
    def rows(self) -> Answers:
        """The columns, to be read by views."""
        return self._answers

    @property
    def trace(self) -> Trace:
        """The requests that have ended."""
        return self._trace

    @property
    def flights(self) -> list[Flight]:
        """What is happening to each row in flight, the longest first."""
        return list(self._course.workers.in_flight.values())

    @property
    def error(self) -> BaseException | None:
        """What stopped it, or keeps its store from being written."""
        return self._course.error

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Where it happens; listeners are called there."""
        return self._course.loop

    @property
    def holds(self) -> list[tuple[float, float, str]]:
        """The cool-downs of its server so far: from when, until when, in seconds since the batch began, and why."""
        endpoint, origin = self._work.endpoint, self._trace.origin
        if endpoint is None:
            return []
        return [(max(0.0, a - origin), b - origin, why) for a, b, why in endpoint.holds() if b > origin]

    @property
    def controls(self) -> frozenset[str]:
        """Which of pause, resume, cancel, retry and at_once mean something now."""
        state, failed = self.state, self._answers.counts[FAILED]
        able = {"at_once"} if state in ("running", "paused") else set()
        able |= {"pause", "cancel"} if state == "running" else {"cancel"} if state == "paused" else set()
        able |= {"resume"} if state in ("paused", "cancelled", "stopped") else set()
        able |= {"retry"} if failed and state != "stopped" else set()
        return frozenset(able)

    def row(self, position: int) -> Answer:
        """A row as it stands now."""
        return self._answers.row(position, self._source.label(position), self._source.item(position))

    def question(self, position: int) -> str:
        """What is asked about a row, as text; whatever is wrong with the item."""
        return self._shown(self._work.describe, position)

    def gist(self, position: int) -> str:
        """The part of it that tells the row from others."""
        return self._shown(self._work.gist, position)

    def _shown(self, describe: Callable[[Any], str], position: int) -> str:
        try:
            return describe(self._source.item(position))
        except Exception as error:  # noqa: BLE001 - the row's own error says so; this is only shown
            return f"({describe(error)})"

    def heard(self, flight: Flight, length: int) -> str:
        """The last characters of what has been said so far of a row in flight, if it is streamed."""
        return self._work.hide(flight.tail(length + MARGIN))[-length:]

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have `listener(batch)` called on the batch's loop after changes, ten times a second at the most.

        One that raises is logged once and dropped. Returns the function that ends the subscription.
        """
        leave = self._news.subscribe(listener)
        call_in(self._course.loop, self._news.changed)
        return leave

    def at_end(self, ending: Listener) -> None:
        """Have `ending(batch)` called in each cell that has waited for the batch, when it returns or is interrupted.

        What it displays is that cell's own.
        """
        self._news.at_end(ending)

    def show(self, view: Listener) -> None:
        """Hand the batch to a view, which may fail while a paid run must not."""
        self._news.guarded(view)

    # -- in words -----------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """What happened, in a few lines of plain text."""
        done, seconds = self._answers.counts[OK] + self._answers.counts[FAILED] - self.from_store, self.elapsed
        lines = [f"{self!r} in {seconds:.1f} s"]
        if self.from_store:
            lines.append(f"{self.from_store:,} from the store; fresh=True asks anew")
        if done and seconds:
            at_once = "{:,} at once in the end" if self.adaptive else "at most {:,} at once"
            lines.append(f"{done / seconds:,.1f} answers a second, {at_once.format(self.max_at_once)}")
        if self.found:
            lines.append(self.found)
        return Text("\n".join(lines + self._answers.summary()))

    def _ipython_display_(self) -> None:
        pkgutil.resolve_name(DISPLAY)(self)

    def __repr__(self) -> str:
        counts = self.counts
        total = f"{self.total:,}" if self.total is not None else f"{len(self._answers):,} so far"
        parts = [f"{counts['ok']:,} ok"] + [
            f"{counts[name]:,} {name}" for name in ("failed", "cancelled", "in flight") if counts[name]
        ]
        ending = "" if self.state in ("running", "done") else f", {self.state}"
        return f"Batch({', '.join(parts)} of {total}{ending})"

    # -- controls -----------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop: what is in flight is aborted, its rows become ``cancelled``. `resume` goes on."""
        self._course.cancel()

    def pause(self) -> None:
        """Send nothing new; rows in flight finish, and the deadline stands still."""
        self._course.pause()

    def resume(self, *, store: StoreLike = "auto") -> None:
        """Go on after a pause, a cancel, an interrupt, a deadline (which begins anew), a stop, or a store that failed.

        Parameters
        ----------
        store : "auto", path or None
            Another file for what comes from now on and what is not on disk yet, or none; ``"auto"`` stays where it is.
        """
        if store != "auto":
            self._course.move(self._ledger(store))
        self._course.resume()

    def retry_failed(self) -> None:
        """Ask again for the rows that failed, and of a cancelled batch for no others; a paused one stays paused."""
        self._course.retry_failed()

    def result(self, timeout: float | None = None) -> pd.DataFrame:
        """Wait, in a script or another thread, and return the frame.

        Raises
        ------
        WrongLoop
            Called where a loop runs, as in a cell: ``await run`` there. Or the batch's own loop does not run.
        TimeoutError
            Not done within `timeout` seconds; the batch goes on.
        """
        if running() is not None:
            raise WrongLoop("A loop runs here, and waiting would block it: write `await run`.")
        self._check_loop()
        if not (self.finished or self._course.loop.is_running() or self._course.loop is loops.background()):
            raise WrongLoop("The loop on which this batch runs stands still: write `await run` where it goes on.")
        ended = threading.Lock()  # not a Future: an interrupt inside one may leave it locked for good
        ended.acquire()
        with explained(self._interrupted):
            try:
                call_in(self._course.loop, lambda: self._course.finished.add_done_callback(lambda _: ended.release()))
                if not (self.finished or loops.acquire(ended, timeout)):
                    raise TimeoutError(f"Not done within {timeout:g} s; the batch goes on.")
            except KeyboardInterrupt:
                self.cancel()
                loops.acquire(ended, FAREWELL)
                raise
        return self._outcome()

    # -- waiting ------------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, pd.DataFrame]:
        return self._wait().__await__()

    def __aiter__(self) -> AsyncGenerator[Answer, None]:
        return self._iterate(owning=True)

    def answers(self) -> AsyncGenerator[Answer, None]:
        """Each answer as it completes, from the first on; leaving early leaves the batch alone."""
        return self._iterate(owning=False)

    async def _wait(self) -> pd.DataFrame:
        self._check_loop()
        with explained(self._interrupted), awake():
            try:
                if self._answers.keeps:
                    await loops.load("pandas")
                await asyncio.wrap_future(self._course.finished)
            except asyncio.CancelledError:
                await self._stop()
                raise
            finally:
                self._news.end()
        return self._outcome()

    async def _iterate(self, *, owning: bool) -> AsyncGenerator[Answer, None]:
        self._check_loop()
        self._check_kept()
        answers, source, cursor, seen_all = self._answers, self._source, 0, False
        line, left = (self._interrupted, self.cancel) if owning else (self._left_alone, lambda: None)
        with explained(line, left=left):
            try:
                while not seen_all:
                    seen_all = self.finished
                    while cursor < len(answers.log):
                        cursor += 1
                        answer = answers.logged(cursor - 1, source.label, source.item)
                        if answer is not None:
                            yield answer
                    if not seen_all:
                        await self._news.wait(functools.partial(self._has_more_than, cursor))
            except asyncio.CancelledError:
                if owning:
                    await self._stop()
                raise
            finally:
                if owning and not seen_all:
                    self.cancel()
                if owning:
                    self._news.end()
        if self._course.error is not None:
            raise self._course.error

    def _has_more_than(self, cursor: int) -> bool:
        return self.finished or len(self._answers.log) > cursor

    async def _stop(self) -> None:
        """Cancel, and wait a bounded time for the sockets; a second interrupt ends the waiting."""
        self.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([asyncio.wrap_future(self._course.finished)], timeout=FAREWELL)

    def _interrupted(self) -> str:
        return f"Interrupted: {self._answered()} are in {self._place}; run.resume() goes on."

    @property
    def _place(self) -> str:
        """Where the answers are, for whoever was interrupted."""
        return "run.frame" if self._answers.keeps else "run.out" if self.out is not None else "the store"

    def _left_alone(self) -> str:
        return f"Interrupted: the batch itself goes on; {self._answered()} are in {self._place}."

    def _answered(self) -> str:
        counts = self._answers.counts
        total = f" of {self.total:,}" if self.total is not None else ""
        return f"{counts[OK] + counts[FAILED]:,}{total} answers"

    def _outcome(self) -> pd.DataFrame:
        if self._course.error is not None:
            raise self._course.error
        return self.frame if self._answers.keeps else self.out  # type: ignore[return-value]

    def _check_kept(self) -> None:
        if self.out is not None:
            raise ConfigurationError(
                f"With out= the answers are in {self.out} alone, once the batch has ended: "
                f"pandas.read_parquet({str(self.out)!r}) reads them."
            )
        if not self._answers.keeps:
            raise ConfigurationError(
                f"With keep=False the answers are in {self._keeper.path} alone: "
                f"ceylon_nb.store({str(self._keeper.path)!r}).frame({self.title!r}) reads them, .export(…) writes them "
                "to a file."
            )

    def _check_loop(self) -> None:
        """Refuse to wait for what cannot come."""
        if self._course.loop.is_closed() and not self.finished:
            raise WrongLoop("The loop on which this batch ran is closed; run.resume() goes on with it, on another.")
