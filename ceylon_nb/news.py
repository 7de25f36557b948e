"""News of a batch: who waits for it, who listens to it, and how often they are told."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from .loop import awake, call_in

log = logging.getLogger("ceylon_nb")

PULSE = 0.1
"""Seconds, at least, between two calls of a listener."""

Listener: TypeAlias = Callable[[Any], object]
"""Takes the batch."""


class News:
    """The iterators that wait for a batch's next answer, on any loop, and the views that listen on the batch's own."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._listeners: list[Listener] = []
        self._endings: list[Listener] = []
        self._pulse: asyncio.TimerHandle | None = None

    async def wait(self, enough: Callable[[], bool]) -> None:
        """Return at the next change, or at once if `enough` holds by now."""
        loop = asyncio.get_running_loop()
        news = loop.create_future()
        with self._lock:
            self._waiters.append((loop, news))
        if not enough():
            with awake():
                await news

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; returns what drops it again."""
        with self._lock:
            self._listeners = [*self._listeners, listener]
        return lambda: self._drop(listener)

    def at_end(self, ending: Listener) -> None:
        """Have `ending(batch)` called by whoever has waited for the batch."""
        with self._lock:
            self._endings = [*self._endings, ending]

    def end(self) -> None:
        """Tell those who asked to be called by whoever has waited; in the cell of that one."""
        for ending in self._endings:
            self.guarded(ending)

    def changed(self) -> None:
        """Wake who waits at once, and tell the listeners within PULSE; on the batch's loop."""
        if self._waiters:
            self._wake()
        self._stir()

    def stirred(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell the listeners within PULSE, and wake nobody; from any thread, with the batch's loop.

        It is called for every token that comes, and most times they are going to be told by now.
        """
        if self._listeners and self._pulse is None:
            call_in(loop, self._stir)

    def _stir(self) -> None:
        if self._listeners and self._pulse is None:
            self._pulse = asyncio.get_running_loop().call_later(PULSE, self.tell)

    def tell(self) -> None:
        """Wake and tell everybody now."""
        if self._pulse is not None:
            self._pulse.cancel()
            self._pulse = None
        self._wake()
        for listener in self._listeners:
            if not self.guarded(listener):
                self._drop(listener)

    def guarded(self, listener: Listener) -> bool:
        """Call a view, which may fail while a paid run must not; False if it did."""
        try:
            listener(self.batch)
        except Exception:
            log.exception("A view of %r failed and is not called again; the batch goes on", self.batch)
            return False
        return True

    def forget_loop(self) -> None:
        """Move to another loop: a pulse on the one that is closed never comes."""
        self._pulse = None

    def _wake(self) -> None:
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for loop, news in waiters:
            call_in(loop, _arrive, news)

    def _drop(self, listener: Listener) -> None:
        with self._lock:
            self._listeners = [other for other in self._listeners if other is not listener]


def _arrive(news: asyncio.Future[None]) -> None:
    if not news.done():
        news.set_result(None)
