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
from .answers import FAILED, OK, Answer
from .course import Course
from .errors import ConfigurationError, WrongLoop
from .interrupts import explained
from .keeping import Keeper
from .loop import FAREWELL, awake, call_in, running
from .news import News
from .policy import AtOnce, check_options
from .shown import Shown
from .storage.ledger import Ledger
from .storage.place import StoreLike
from .trace import Trace
from .work import Work

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PANEL = "ceylon_nb.views.panel:panel"
DISPLAY = "ceylon_nb.views:display"
PLOT = "ceylon_nb.views.plots:draw"
"""Who draws a batch; found by name when asked for, as nothing here imports a view."""


class Batch(Shown):
    """A handle on many calls that run in the background; made by `batch` and `LlmAgent.map`.

    ``await run`` gives the DataFrame (with ``out=`` the path of the file, with ``keep=False`` None); ``async for answer
    in run`` gives each `Answer` as it completes (leaving early cancels the batch; `answers` only watches). `frame` may
    be asked at any moment.

    Attributes
    ----------
    title : str
        What runs: the name that it was given, else the template's or the function's.
    subtitle : str
        On what it runs: the agent, its model and the server's address.

    Notes
    -----
    It begins at once, and runs on the loop that was there when it began; where there was none, on one of the library's
    own. It ends when all rows are answered, when it is cancelled, when its deadline passes, or when everything fails
    alike; `state` says which. Every control may be called from any thread, returns at once, and may be called twice.

    An interrupt (■) of a cell that awaits it cancels what is in flight, waits a moment for the sockets, and raises the
    ``CancelledError`` that it caught; the answers are in `frame`, and `resume` goes on.

    Examples
    --------
    >>> from ceylon_nb import LlmAgent
    >>> agent = LlmAgent("clerk", "demo::tutor", system_prompt="Classify the review.")
    >>> run = agent.map(["Works like a charm.", "Awful smell.", None])
    >>> frame = await run
    >>> frame["reply"].tolist()
    ['positive', 'negative', None]
    >>> run
    Batch(2 ok, 1 failed of 3)
    >>> run.failed[["position", "error"]].to_dict("records")
    [{'position': 2, 'error': 'EmptyPrompt: The prompt is empty, so it was not sent. Fill the cell, or drop the row.'}]
    """

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
            advice=work.advice,
            deadline=deadline,
        )

    # -- what there is ------------------------------------------------------------------------------------------

    @property
    def frame(self) -> pd.DataFrame:
        """All rows as they stand now, a copy: always at full length, on the input's own index.

        Its columns: ``reply`` (object: a `Reply`, or what the function returned; None where there is none), ``status``
        (category: waiting, ok, failed, cancelled), ``error`` (object: ``"ModelNotFound: …"``; None), ``attempts`` (int,
        requests), ``latency`` (float, seconds of the last attempt; NaN), ``input_tokens`` and ``output_tokens`` (Int64;
        missing where the server did not say), ``finish_reason`` (object) and ``from_store`` (bool). No column of the
        input is among them. The index is a DataFrame's or Series' own, a mapping's keys, else 0, 1, 2 …

        Raises
        ------
        ConfigurationError
            With ``keep=False`` or ``out=`` there is none.

        Examples
        --------
        >>> import pandas as pd
        >>> from ceylon_nb import LlmAgent
        >>> reviews = pd.Series({"kettle": "Works like a charm.", "pot": "It boils water."})
        >>> frame = await LlmAgent("clerk", "demo::tutor", system_prompt="Classify the review.").map(reviews)
        >>> frame.shape
        (2, 9)
        >>> frame["reply"].to_dict()
        {'kettle': 'positive', 'pot': 'neutral'}
        """
        self._check_kept()
        return frames.to_frame(self._answers, self._source)

    @property
    def failed(self) -> pd.DataFrame:
        """The rows of `frame` that failed, and before the others a column ``position``: their place in the input.

        Raises
        ------
        ConfigurationError
            As `frame`.
        """
        return frames.failed_rows(self.frame)

    @property
    def out(self) -> Path | None:
        """The .parquet file with its answers, once the batch has ended; None without ``out=``.

        It is the one that ``out=`` named if the batch is done; after a cancel or a stop it is ``….partial.parquet``
        beside it, with what there is.
        """
        return self._answers.out

    @property
    def max_at_once(self) -> int:
        """Rows in flight at a time, as it is now; may be set while it runs, to a number or to ``"auto"``.

        Raises
        ------
        ConfigurationError
            When it is set to what is neither.
        """
        return self._course.workers.limit

    @max_at_once.setter
    def max_at_once(self, value: AtOnce) -> None:
        check_options(auto=True, max_at_once=value)
        self._course.work_at_once(value)

    @property
    def panel(self) -> Any:
        """The live panel, an ipywidgets widget: one for each batch, to be put into a VBox or shown again.

        It goes when nobody has the batch any more: keep ``run`` for as long as it is to be seen.
        """
        return pkgutil.resolve_name(PANEL)(self)

    def plot(self) -> Figure:
        """A figure of the run: each request in its lane, retries and cool-downs, rate and latencies.

        Returns
        -------
        matplotlib.figure.Figure
            A notebook shows it as a cell's last line; ``figure.savefig("run.svg")`` keeps it.

        Raises
        ------
        ConfigurationError
            matplotlib is not installed (``pip install 'ceylon-nb[plot]'``).
        """
        figure: Figure = pkgutil.resolve_name(PLOT)(self)
        return figure

    def _ipython_display_(self) -> None:
        pkgutil.resolve_name(DISPLAY)(self)

    # -- controls -----------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop: what is in flight is aborted, its rows become ``cancelled``. `resume` goes on.

        Examples
        --------
        >>> from ceylon_nb import LlmAgent
        >>> run = LlmAgent("clerk", "demo::tutor").map(["What is Python?", "What is Rust?"])
        >>> run.cancel()
        >>> frame = await run
        >>> run.state, "ok" in set(frame["status"])
        ('cancelled', False)
        >>> run.resume()
        >>> frame = await run
        >>> frame["status"].tolist()
        ['ok', 'ok']
        """
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

        Raises
        ------
        ConfigurationError
            `store` is no path; or None, of a batch that keeps its answers there alone.
        """
        if store != "auto":
            self._course.move(self._ledger(store))
        self._course.resume()

    def retry_failed(self) -> None:
        """Ask again for the rows that failed.

        Of a cancelled batch it asks for no others; one that was stopped by an error goes on with all its rows, as by
        `resume`; a paused one stays paused. Where nothing failed it does nothing.
        """
        self._course.retry_failed()

    def result(self, timeout: float | None = None) -> pd.DataFrame:
        """Wait, in a script or another thread, and return the frame.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at the most; for ever unless told.

        Returns
        -------
        DataFrame
            `frame`; with ``out=`` the path of the file, with ``keep=False`` None: what ``await run`` gives.

        Raises
        ------
        WrongLoop
            Called where a loop runs, as in a cell: ``await run`` there. Or the batch's own loop does not run.
        TimeoutError
            Not done within `timeout` seconds; the batch goes on.
        Exception
            What stopped the batch, if something did.

        Examples
        --------
        In a script ``run.result()`` is all; a cell, on whose loop the batch runs, leaves the waiting to a thread:

        >>> import asyncio
        >>> from ceylon_nb import LlmAgent
        >>> run = LlmAgent("clerk", "demo::tutor").map(["What is Python?"])
        >>> frame = await asyncio.to_thread(run.result, timeout=60)
        >>> frame["status"].tolist()
        ['ok']
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
        """Each answer as it completes, from the first on; leaving early leaves the batch alone.

        Yields
        ------
        Answer
            In the order in which they complete; one that was asked again comes again.

        Raises
        ------
        ConfigurationError
            With ``keep=False`` or ``out=`` there are none in memory.
        WrongLoop
            The loop on which the batch ran is closed.
        Exception
            What stopped the batch, once its answers are read.

        Examples
        --------
        >>> from ceylon_nb import batch
        >>> async def half(number):
        ...     return number / 2
        >>> run = batch(half, {"a": 1, "b": 3}, max_at_once=1)
        >>> async for answer in run.answers():
        ...     print(answer.index, answer.item, answer.reply)
        a 1 0.5
        b 3 1.5
        """
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
