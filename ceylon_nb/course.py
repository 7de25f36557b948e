"""Course: what a batch does, from its beginning to its end, and from which state to which.

::

    running ──► done        every row is answered
       │   ├──► stopped     everything fails alike, or the items stopped coming; `error` says so
       │   ├──► cancelled   by hand, by an interrupt, or at the deadline
       ▼   └──► paused      by hand, because a worker was ended from outside, or by a store that cannot be written
    (resume leads back from each but done, retry_failed from done as well)

The methods without an underscore may be called from any thread, return at once, and may be called twice; what they
lead to happens on the batch's loop, in the order of the calls.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any

from . import loop as loops
from .adaptive import START, Estimate
from .answers import CANCELLED, FAILED, OK
from .errors import StoreError, ungrouped
from .frames import Source
from .garbage import put_off
from .keeping import Keeper
from .loop import call_in, clock, hold_awake, running
from .news import News
from .policy import AtOnce
from .shares import Share
from .stopwatch import Stopwatch
from .storage.ledger import Ledger
from .trace import Trace
from .workers import Workers

log = logging.getLogger("ceylon_nb")


class Course:
    """The course of one batch, on one loop at a time: the one that ran when it began, else the library's own.

    Attributes
    ----------
    state : str
        ``"running"``, ``"paused"``, ``"cancelled"``, ``"stopped"`` or ``"done"``.
    error : BaseException or None
        What stopped it.
    finished : Future
        Done once the batch has ended, in whatever way; another one after each `resume`.
    ended : float or None
        When that was, by `loop.clock`.
    loop : AbstractEventLoop
        Where it happens.
    adaptive : bool
        Whether it has as many rows in flight as the server is found to work on.
    """

    def __init__(
        self,
        prepare: Callable[[Any], Any],
        call: Callable[[Any], Awaitable[Any]],
        source: Source,
        keeper: Keeper,
        news: News,
        trace: Trace,
        *,
        max_at_once: AtOnce,
        estimate: Estimate,
        advice: str,
        deadline: float | None,
    ) -> None:
        self.state = "cancelled"
        self.error: BaseException | None = None
        self.finished = _unfinished()
        self.ended: float | None = None
        self._found = functools.partial(estimate.words, advice)
        self._found_then = ""
        self.loop = running() or loops.background()
        self.stopwatch = Stopwatch(deadline)
        self.adaptive = max_at_once == "auto"
        self._share = Share(estimate, functools.partial(_adapted, weakref.ref(self)))
        limit = START if max_at_once == "auto" else max_at_once
        self.workers = Workers(
            prepare, call, source, keeper, trace, self._share, limit, self.stopwatch.left, self._settle, self._lost
        )
        trace.changed = functools.partial(_seen, weakref.ref(self))
        self._answers = keeper.answers
        self._keeper = keeper
        keeper.changed = keeper.answers.changed = lambda: call_in(self.loop, self._kept)
        self._waits_for_store = False
        self._begun = False
        self._to_move_to: tuple[Ledger | None] | None = None
        self._goes_on_then = False
        self._news = news
        self._let_go: Callable[[], object] | None = None
        self._collect_as_usual: Callable[[], object] = lambda: None
        self._lock = threading.Lock()

    # -- from any thread ----------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Abort what is in flight."""
        self._move()
        call_in(self.loop, self._cancel)

    def pause(self) -> None:
        """Send nothing new."""
        call_in(self.loop, self._pause)

    def resume(self) -> None:
        """Go on."""
        self._move()
        if self.state != "done":
            self._reopen()
        call_in(self.loop, self._resume)

    def move(self, ledger: Ledger | None) -> None:
        """Pause, and once no row is in flight write to another file from then on, or to none."""
        self._move()
        call_in(self.loop, self._prepare_to_move, ledger)

    def retry_failed(self) -> None:
        """Ask again for what failed."""
        self._move()
        if self._answers.counts[FAILED]:
            self._reopen()
            call_in(self.loop, self._retry_failed)

    def work_at_once(self, limit: AtOnce) -> None:
        """Have so many rows in flight from now on."""
        self.adaptive = limit == "auto"
        self.workers.limit = self._share.part if limit == "auto" else limit
        call_in(self.loop, self._keep_to_share)

    def _move(self) -> None:
        """Go over to another loop if this one is closed: what ran there has ended with it."""
        with self._lock:
            if not self.loop.is_closed():
                return
            self.loop = running() or loops.background()
            self._let_go = None
            self._collect_as_usual()
            self.stopwatch.stop()
            self.workers.forget_loop()
            self._news.forget_loop()
            if self.state == "running":
                self.state = "paused"

    def _reopen(self) -> None:
        """Have whoever waits from now on wait for what comes now."""
        with self._lock:
            if self.finished.done():
                self.finished, self.ended = _unfinished(), None

    @property
    def found(self) -> str:
        """What is found out about the server, in words; when it has ended, what was found then: others may ask on."""
        return self._found() if self.ended is None else self._found_then

    def _finish(self) -> None:
        with self._lock:
            if not self.finished.done():
                self.ended, self._found_then = clock(), self._found()
                self.finished.set_result(None)

    # -- on the loop --------------------------------------------------------------------------------------------

    def _prepare_to_move(self, ledger: Ledger | None) -> None:
        self._to_move_to = (ledger,)
        if self.state == "running":
            self._stand_still("paused")
        self.workers.leave_source()
        self._move_if_idle()

    def _move_if_idle(self) -> None:
        if self._to_move_to is None or not self.workers.idle:
            return
        (ledger,), self._to_move_to = self._to_move_to, None
        self._keeper.use(ledger)
        self.error = None
        if self._goes_on_then:
            self._goes_on_then = False
            self._resume()

    def _resume(self) -> None:
        if self._to_move_to is not None:
            self._goes_on_then = True
        elif self.state == "done":
            self._finish()
        elif self.state != "running" or self.workers.only_again:
            if self.workers.stuck:
                self.workers.ask_again(FAILED)
            self.workers.ask_again(CANCELLED)
            self._run()

    def _retry_failed(self) -> None:
        self.workers.ask_again(FAILED)
        if self.state == "running":
            self.workers.spawn()
        elif self.state != "paused":
            self._run(only_again=self.state == "cancelled")

    def _keep_to_share(self) -> None:
        """Have as many workers as the batch's share of the estimate is, if it keeps to that, or as it was told."""
        if not self.adaptive:
            self._share.close()
        elif self.state == "running":
            self._share.open()
        self._adapt()

    def _adapt(self) -> None:
        if self.adaptive:
            self.workers.limit = self._share.part
        self.workers.spawn()

    def _run(self, *, only_again: bool = False) -> None:
        self._reopen()
        self._begun = True
        self.error = None
        if self.state != "running":
            self.state = "running"
            self.stopwatch.start(self._cancel)
        if self._let_go is None:
            self._let_go = hold_awake(self.loop)
            self._collect_as_usual = put_off(self)
        self._keep_to_share()
        self.workers.only_again = only_again
        self._waits_for_store = True
        self._answers.reopen()
        self._keeper.open()
        self._kept()

    def _kept(self) -> None:
        """Rows were shown, or the store is open, or it failed."""
        if not self._begun:
            return
        if self._trouble is not None:
            self._store_failed(self._trouble)
        elif self._waits_for_store and self._keeper.ready and self.state == "running":
            self._waits_for_store = False
            self.workers.start()
        self._news.changed()
        if self.workers.idle and self._let_go is not None:
            self._settle()

    @property
    def _trouble(self) -> StoreError | None:
        """Why answers cannot be written where they belong."""
        return self._keeper.error or self._answers.trouble

    def _store_failed(self, error: StoreError) -> None:
        if self.error is None and error is self._answers.trouble:
            error.add_note("Nothing is lost, and nothing more is asked: make room, and run.resume() goes on.")
            log.warning("%r: %s %s", self._news.batch, error, error.__notes__[-1])
        elif self.error is None:
            where = "in run.frame" if self._answers.keeps else "in memory"
            error.add_note(
                f"{self._keeper.unwritten:,} answers are {where} and not on disk; nothing more is asked. "
                "run.resume() writes them and goes on; run.resume(store=…) goes on in another file, or (None) in none."
            )
            log.warning("%r: %s %s", self._news.batch, error, error.__notes__[-1])
        self.error = error
        if self.state in ("running", "done"):
            self._stand_still("paused")
        self.workers.leave_source()

    def _pause(self) -> None:
        if self.state == "running":
            self._stand_still("paused")

    def _cancel(self) -> None:
        if self.state in ("running", "paused"):
            self._stand_still("cancelled")
            self.workers.abort()
            if self.workers.idle:
                self._settle()

    def _stand_still(self, state: str) -> None:
        self.state = state
        self.workers.pulling = False
        self.stopwatch.stop()
        if state == "paused":
            self._share.rest()
        else:
            self.stopwatch.rewind()
        self._news.changed()

    def _lost(self, reason: BaseException, position: int | None) -> None:
        """A worker was ended by something else than `cancel`: its row waits again, and the batch pauses."""
        if self.state == "running" and not loops.ending(self.loop):
            where = "while it waited for an item" if position is None else f"at row {position:,}"
            log.warning(
                "%r was ended from outside %s (%r): it is paused; resume() goes on", self._news.batch, where, reason
            )
        self._pause()

    def _settle(self) -> None:
        """Decide what it means that no worker is left."""
        workers = self.workers
        self._move_if_idle()
        if not workers.idle:
            return
        if not self._keeper.settled:
            self._keeper.flush()
            return
        if self._trouble is not None:
            pass  # whoever waits is told; what is not on disk stays with the keeper
        elif self._waits_for_store and self.state == "running":
            return
        elif self.state in ("running", "paused") and (workers.stuck or not workers.rows_left):
            self.error = self._reason_to_stop()
            ended = "cancelled" if workers.only_again else "done"
            self._stand_still(ended if self.error is None else "stopped")
        elif self.state == "running":
            workers.spawn()
            return
        self._share.close()
        if self._trouble is None and self.state != "paused" and not self._answers.deliver(whole=self.state == "done"):
            return  # it calls, once it has
        if self._let_go is not None:
            self._let_go()
            self._let_go = None
            self._collect_as_usual()
        if self._keeper.error is None and self.state != "paused":
            self._keeper.close()
        if self.error is not None or self.state != "paused":
            self._finish()
        self._news.tell()

    def _reason_to_stop(self) -> BaseException | None:
        """What to raise at whoever waits: why everything fails alike, or why no more items came."""
        counts, stuck = self._answers.counts, self.workers.stuck
        reason = stuck or self.workers.source_error
        if reason is None:
            return None
        error = ungrouped(reason)
        if stuck:
            failed, answered = counts[FAILED], counts[OK]  # some rows may be in a recording that has not this one
            note = (
                f"{failed:,} row{'s' if failed > 1 else ''} failed and {format(answered, ',') if answered else 'none'} "
                "succeeded, so the batch stopped. "
                f"Mend the cause; run.resume() then {'goes on' if answered else 'asks for all of them'}."
            )
        else:
            note = f"The items stopped coming: {counts[OK] + counts[FAILED]:,} answers are in run.frame."
        with contextlib.suppress(AttributeError):  # a frozen exception takes no notes
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
        return error


def _seen(course: weakref.ref[Course]) -> None:
    """Something is new of a row in flight. Weakly: what a row's call has begun, and outlives it, knows its trace."""
    alive = course()
    if alive is not None:
        alive._news.stirred(alive.loop)


def _adapted(course: weakref.ref[Course]) -> None:
    """The batch's share of what the server works on is another. Weakly, for the same reason."""
    alive = course()
    if alive is not None:
        alive._adapt()


def _unfinished() -> Future[None]:
    """A future that whoever waits for it cannot cancel."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future
