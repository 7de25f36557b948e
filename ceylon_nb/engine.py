"""batch() and Batch: a handle on work that runs in the background of the notebook's loop.

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
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from . import frames
from . import loop as loops
from .answers import CANCELLED, FAILED, OK, Answer
from .course import Course
from .errors import ConfigurationError, InvalidItem, WrongLoop
from .interrupts import explained, listen
from .keeping import Keeper
from .loop import FAREWELL, awake, call_in, running
from .messages import Text, sendable
from .news import Listener, News
from .policy import check_options, with_policy
from .storage.identity import Family, Question
from .storage.ledger import Ledger
from .storage.place import StoreLike
from .work import Storing, Work

if TYPE_CHECKING:
    import pandas as pd

AT_ONCE = 8
"""How many rows a batch works on at once unless told otherwise."""

VIEWS = "ceylon_nb.views:attach"
"""Who shows a batch; found by name when one begins, as nothing here imports a view."""

OPENING = 0.05
"""Seconds that a cell waits for its store, to say at once what is wrong with it. A slow one is waited for later."""

View: TypeAlias = "str | Callable[[Batch], object] | None"


def batch(
    fn: Callable[[Any], Awaitable[Any]],
    items: frames.Items,
    *,
    max_at_once: int = AT_ONCE,
    max_per_minute: float | None = None,
    timeout: float | None = None,
    deadline: float | None = None,
    attempts: int = 1,
    key: Callable[[Any], str] | None = None,
    store: StoreLike = "auto",
    fresh: bool = False,
    dedupe: bool = False,
    keep: bool = True,
    view: View = "auto",
    name: str | None = None,
) -> Batch:
    """Call an async function on every item, many at once, in the background; returns at once.

    Parameters
    ----------
    fn : async callable
        Takes an item. What it returns is the row's reply; what it raises is the row's error.
    items : DataFrame, Series, list, mapping, iterable or async iterable
        A stream is pulled from only as fast as workers come free. A DataFrame's items are its rows (`frames.Row`).
    max_at_once : int
        Rows in flight at a time.
    max_per_minute : float, optional
        Calls a minute, evenly spaced.
    timeout : float, optional
        Seconds for one call.
    deadline : float, optional
        Seconds for the whole batch; it then ends with what it has. It stands still while the batch is paused.
    attempts : int
        Calls for one item, in all. What an agent has already tried again is not tried again here.
    key : callable, optional
        Takes an item and returns the text by which the function's reply to it is known: the same function (by module
        and name) and the same text mean the same question. Without it nothing is stored, as a function may change.
    store : "auto", path or None
        Where answers are kept, so that the same batch run again asks only for what is missing: ``"auto"`` is
        ``.ceylon_nb/answers.sqlite`` beside the notebook (CEYLON_NB_STORE moves it, or switches it off); None is
        nowhere. Replies have to be what JSON can say. An answer is shown once it is on disk.
    fresh : bool
        Ask for everything anew; the answers that there were are kept, too.
    dedupe : bool
        Ask equal questions once. Otherwise three equal rows are three questions and three answers.
    keep : bool
        Keep replies in memory. Without, they are in the store alone, and there is no frame: for millions of rows.
    view : str, callable or None
        ``"auto"``: in a notebook, a view in the cell; ``"terminal"``: a progress bar; None: nothing. Or a function
        that is given the batch and listens to it.
    name : str, optional
        What to call it, here and in the store.

    Raises
    ------
    ConfigurationError
        An option or the items make no sense; nothing was called.
    StoreError
        The store cannot be used; nothing was called.
    """
    check_options(
        max_at_once=max_at_once,
        max_per_minute=max_per_minute,
        timeout=timeout,
        deadline=deadline,
        attempts=attempts,
        view=view,
    )
    if not callable(fn):
        raise ConfigurationError(f"batch() takes an async function of one item, not {type(fn).__name__}.")
    call = with_policy(fn, attempts, max_per_minute, timeout) if attempts > 1 or max_per_minute or timeout else fn
    named = getattr(fn, "__qualname__", type(fn).__name__)
    family = identify = None
    if key is not None:
        family = Family(function=f"{getattr(fn, '__module__', '')}.{named}")
        identify = functools.partial(_identify, family, key)
    elif store not in ("auto", None):
        raise ConfigurationError("A function's replies are stored by key=, a function from item to text.")
    work = Work(call, title=str(name or named.rpartition(".")[2]), model=named, family=family, identify=identify)
    return start(
        work,
        frames.source(items),
        Storing(store, fresh=fresh, dedupe=dedupe, keep=keep),
        max_at_once=max_at_once,
        deadline=deadline,
        view=view,
    )


def _identify(family: Family, key: Callable[[Any], str], item: Any) -> Question:
    text = key(item)
    if not isinstance(text, str):
        raise InvalidItem(f"key= returned {type(text).__name__}, not text, so the answer would not be found again.")
    return family.asks(sendable(text))


def start(
    work: Work, source: frames.Source, storing: Storing, *, max_at_once: int, deadline: float | None, view: View
) -> Batch:
    """Begin a batch: what `batch` and `LlmAgent.map` are doors to.

    Raises
    ------
    ConfigurationError, StoreError
        Nothing was called.
    """
    listen()
    keeper = storing.keeper(work)
    ledger = functools.partial(storing.ledger, work, keeper, source)
    keeper.use(ledger(storing.store))
    run = Batch(work, source, keeper, ledger, max_at_once=max_at_once, deadline=deadline)
    keeper.open()
    keeper.wait(OPENING)
    run.resume()
    if callable(view):
        run.show(view)
    elif view is not None:
        run.show(lambda begun: pkgutil.resolve_name(VIEWS)(begun, view))
    return run


class Batch:
    """A handle on many calls that run in the background.

    ``await run`` gives the DataFrame; ``async for answer in run`` gives each `Answer` as it completes (leaving early
    cancels the batch; `answers` only watches). `frame` may be asked at any moment.

    Attributes
    ----------
    title, subtitle : str
        What runs, and on what.
    """

    def __init__(
        self,
        work: Work,
        source: frames.Source,
        keeper: Keeper,
        ledger: Callable[[StoreLike], Ledger | None],
        *,
        max_at_once: int,
        deadline: float | None,
    ) -> None:
        self.title = work.title
        self.subtitle = work.subtitle
        self._source = source
        self._answers = keeper.answers
        self._keeper = keeper
        self._ledger = ledger
        self._news = News(self)
        self._course = Course(
            work.prepare, work.call, source, keeper, self._news, max_at_once=max_at_once, deadline=deadline
        )

    # -- what there is ------------------------------------------------------------------------------------------

    @property
    def frame(self) -> pd.DataFrame:
        """All rows as they stand now, on the input's own index; see `frames.to_frame` for the columns.

        Raises
        ------
        ConfigurationError
            With ``keep=False`` there is none.
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
        """Rows in flight at a time; may be set while it runs."""
        return self._course.workers.limit

    @max_at_once.setter
    def max_at_once(self, value: int) -> None:
        check_options(max_at_once=value)
        self._course.work_at_once(value)

    def summary(self) -> str:
        """What happened, in a few lines of plain text."""
        done, seconds = self._answers.counts[OK] + self._answers.counts[FAILED] - self.from_store, self.elapsed
        lines = [f"{self!r} in {seconds:.1f} s"]
        if self.from_store:
            lines.append(f"{self.from_store:,} from the store; fresh=True asks anew")
        if done and seconds:
            lines.append(f"{done / seconds:,.1f} answers a second, at most {self.max_at_once} at once")
        return Text("\n".join(lines + self._answers.summary()))

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
        with explained(self._interrupted):
            try:
                self._course.finished.result(timeout)
            except KeyboardInterrupt:
                self.cancel()
                with contextlib.suppress(TimeoutError):
                    self._course.finished.result(FAREWELL)
                raise
        return self._outcome()

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Have `listener(batch)` called on the batch's loop after changes, ten times a second at the most.

        One that raises is logged once and dropped. Returns the function that ends the subscription.
        """
        leave = self._news.subscribe(listener)
        call_in(self._course.loop, self._news.changed)
        return leave

    def show(self, view: Listener) -> None:
        """Hand the batch to a view, which may fail while a paid run must not."""
        self._news.guarded(view)

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
                await loops.load("pandas")
                await asyncio.wrap_future(self._course.finished)
            except asyncio.CancelledError:
                await self._stop()
                raise
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
        return f"Interrupted: {self._answered()} are in run.frame; run.resume() goes on."

    def _left_alone(self) -> str:
        return f"Interrupted: the batch itself goes on; {self._answered()} are in run.frame."

    def _answered(self) -> str:
        counts = self._answers.counts
        total = f" of {self.total:,}" if self.total is not None else ""
        return f"{counts[OK] + counts[FAILED]:,}{total} answers"

    def _outcome(self) -> pd.DataFrame:
        if self._course.error is not None:
            raise self._course.error
        return self.frame if self._answers.keeps else None  # type: ignore[return-value]

    def _check_kept(self) -> None:
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
