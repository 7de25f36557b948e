"""Courier: what takes a panel's messages to the browser, not too many, and does what comes back.

At most ten updates and RATE bytes a second, whatever the batch. Everything happens on the batch's loop. The messages,
all of them custom ones of the widget's (positions count from 0, times are seconds, lengths characters)::

    from the browser                            answered by
    hello   have, page                          an update from event number `have` on, with the whole timeline
    do      what, value, id                     ack: id, error
    want    positions                           rows: rows
    open    position                            detail: see `Feed.detail`
    more    position, field, offset             more: position, field, offset, text
    find    text, id, was                       found, again and again: id, searched, of, done; the positions as buffer

    to the browser, unasked
    update  head, from, count, events, live, rows, time; events and positions in flight as buffers: see `Feed.update`

A page is one loading of the panel; `was` is the search that a new one takes the place of. Buffers are little-endian
uint32; an event is ``position << 3 | code``: 0 waiting, 1 ok, 2 failed, 3 cancelled, 4 ok from the store.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

from ..errors import CeylonError
from ..kernel import executing
from ..loop import clock
from ..news import PULSE
from .feed import WANTED, Feed, Message, little
from .search import Search
from .watched import Watched

log = logging.getLogger("ceylon_nb")

RATE = 300_000
"""Bytes a second to the browser, at the most."""
HEARTBEAT = 1.0
"""Seconds without news after which a batch that runs says where it stands: a rate falls also when nothing comes."""
GREETING = 5.0
"""Seconds in which a browser loads the panel, and hears nothing: until it says hello, everything is sent anew."""

SEARCHES = 4
"""Views that may each search for something."""

_METHODS = {"pause": "pause", "resume": "resume", "cancel": "cancel", "retry": "retry_failed"}


class Courier:
    """Between one batch and its panel.

    Parameters
    ----------
    run : callable
        Gives the batch, or None when it is no more.
    feed : Feed
        What it takes there.
    send : callable
        Takes a message and its buffers to the browser.
    """

    def __init__(self, run: Callable[[], Watched | None], feed: Feed, send: Callable[[Any, Any], object]) -> None:
        self._run = run
        self._send_now = send
        self._feed = feed
        self._searches: dict[int, Search] = {}
        self._outbox: deque[Message] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._free_at = 0.0
        self._next_update = 0.0
        self._wanted = True
        self._greeted_by = clock() + GREETING
        self._pages: set[object] = set()

    @property
    def reloaded(self) -> bool:
        """Whether the panel was loaded by more than one page: what the first one showed cannot be replaced any more."""
        return len(self._pages) > 1

    # -- to the browser -----------------------------------------------------------------------------------------

    def changed(self) -> None:
        """Say where the batch stands, as soon as may be; on the batch's loop."""
        self._wanted = True
        self._pump()

    def _pump(self) -> None:
        """Send what may be sent now, and come again for the rest."""
        run = self._run()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if run is None:
            return
        now = clock()
        while self._outbox and now >= self._free_at:
            self._send(self._outbox.popleft())
        if self._wanted and now >= max(self._free_at, self._next_update):
            self._update(run, now)
        for number, search in self._searches.items():
            if not (search.done or self._outbox):
                self._look(run, number, search)
        wait = self._pause(run, now)
        if wait is not None:
            self._timer = asyncio.get_running_loop().call_later(wait, self._beat)

    def _pause(self, run: Watched, now: float) -> float | None:
        """Seconds until there is something to be sent; None if there is nothing."""
        if self._outbox:
            return max(0.0, self._free_at - now)
        if not all(search.done for search in self._searches.values()):
            return 0.001
        if self._wanted or self._feed.behind:
            return max(0.0, max(self._free_at, self._next_update) - now)
        return None if run.finished or run.state == "paused" else HEARTBEAT

    def _beat(self) -> None:
        self._wanted = True
        self._timer = None
        self._pump()

    def _update(self, run: Watched, now: float) -> None:
        if now < self._greeted_by:
            self._feed.rewind(0)
        self._wanted, self._next_update = False, now + PULSE
        message = self._feed.update(run, deaf=executing() and not _hears_while_awaiting())
        self._send(message)
        for search in self._searches.values():
            search.extend(self._feed.fresh)

    def _send(self, message: Message) -> None:
        content, buffers = message
        size = len(orjson.dumps(content)) + sum(map(len, buffers))
        self._free_at = max(self._free_at, clock()) + size / RATE
        self._send_now(content, buffers)

    def _look(self, run: Watched, number: int, search: Search) -> None:
        found = search.step(run)
        if found or search.done:
            content = {
                "type": "found",
                "id": number,
                "searched": search.searched,
                "of": search.of,
                "done": search.done,
            }
            self._outbox.append((content, [little(array("I", found))]))

    # -- from the browser ---------------------------------------------------------------------------------------

    def received(self, content: dict[str, Any]) -> None:
        """Do what the browser asks for."""
        run = self._run()
        kind = str(content.get("type"))
        if run is None or kind not in _HANDLERS:
            return
        try:
            _HANDLERS[kind](self, run, content)
        except Exception:
            log.exception("A panel could not do what it was told: %r", kind)
        self._pump()

    def _hello(self, run: Watched, content: dict[str, Any]) -> None:
        self._greeted_by = 0.0
        self._pages.add(str(content.get("page")))
        self._feed.rewind(int(content["have"]))
        self._wanted = True

    def _do(self, run: Watched, content: dict[str, Any]) -> None:
        what, why_not = content["what"], None
        try:
            if what not in run.controls:
                why_not = f"{what} means nothing now"
            elif what == "at_once":
                run.max_at_once = content["value"]  # type: ignore[misc]
            else:
                getattr(run, _METHODS[what])()
        except CeylonError as error:
            why_not = str(error)
        self._outbox.append(({"type": "ack", "id": content["id"], "error": why_not}, []))
        self._wanted = True

    def _want(self, run: Watched, content: dict[str, Any]) -> None:
        positions = [position for position in content["positions"][:WANTED] if 0 <= position < len(run.rows)]
        for first in range(0, len(positions), 50):
            rows = self._feed.previews(run, positions[first : first + 50])
            self._outbox.append(({"type": "rows", "rows": rows}, []))

    def _open(self, run: Watched, content: dict[str, Any]) -> None:
        if 0 <= content["position"] < len(run.rows):
            self._outbox.append(({"type": "detail", **self._feed.detail(run, content["position"])}, []))

    def _more(self, run: Watched, content: dict[str, Any]) -> None:
        piece = self._feed.more(run, content["position"], content["field"], content["offset"])
        self._outbox.append(({"type": "more", **piece}, []))

    def _find(self, run: Watched, content: dict[str, Any]) -> None:
        self._searches.pop(content.get("was", -1), None)
        if content["text"]:
            self._searches[content["id"]] = Search(content["text"], range(len(run.rows)))
        for forgotten in list(self._searches)[:-SEARCHES]:  # a page that was loaded again never says so
            del self._searches[forgotten]


_HANDLERS = {
    "hello": Courier._hello,
    "do": Courier._do,
    "want": Courier._want,
    "open": Courier._open,
    "more": Courier._more,
    "find": Courier._find,
}


def _hears_while_awaiting() -> bool:
    """Whether this kernel handles a click while a cell awaits: from ipykernel 7 on, by its subshells."""
    ipykernel = sys.modules.get("ipykernel")
    return ipykernel is None or ipykernel.version_info[0] >= 7
