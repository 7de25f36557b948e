"""A stream in its cell: the text grows in place; at its end it is shown as Markdown.

* It is a display that is updated, no widget: what was said last is what the notebook keeps.
* A longer text is painted less often, so that what goes to the browser stays within bounds.
* Where nobody watches there is one display alone, of the end, in the cell in which it is read.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from IPython.display import DisplayHandle

from ..errors import describe
from ..kernel import in_kernel, this_cell
from ..loop import clock
from . import switched_off
from .escaping import escaped, inline, line, plain, verbatim
from .markdown import to_html
from .watching import someone_watches

if TYPE_CHECKING:
    from ..agents.stream import Told

PULSE = 0.125
"""Seconds, at least, between two updates: eight a second, and the last one when it comes."""

RATE = 150_000
"""Bytes a second of what is shown again and again while it grows; what is new, and the end, come on top of that."""

_shown_in: WeakKeyDictionary[Told, str] = WeakKeyDictionary()
"""The cell in which each stream was shown last."""


def show(told: Told) -> bool:
    """Show a stream in this cell, once, from now on; False outside of a notebook, or if views are switched off."""
    if switched_off() or not in_kernel():
        return False
    cell = this_cell()
    if _shown_in.get(told) != cell:
        _shown_in[told] = cell
        view = _View(watched=someone_watches())
        view(told)
        if not told.ended:
            told.watched_by(view)
    return True


def display(told: Told, read_behind: Callable[[], None], read_at_once: Callable[[], None]) -> bool:
    """Show a stream that is a cell's last line, and read it: in the background, or at once if nobody watches.

    What the background puts out would not be in a notebook that nbclient executes.
    """
    if not show(told):
        return False
    (read_behind if someone_watches() else read_at_once)()
    return True


class _View:
    """One display of one stream."""

    def __init__(self, *, watched: bool) -> None:
        self._watched = watched
        self._handle: DisplayHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0

    def __call__(self, told: Told) -> None:
        """Paint what there is to see: now, or when the next update is due."""
        wait = self._next - clock()
        if told.ended:
            self._last(told)
        elif not self._watched or self._timer is not None:
            pass
        elif wait > 0:
            self._timer = asyncio.get_running_loop().call_later(wait, self._grow, told)
        else:
            self._grow(told)

    def _last(self, told: Told) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watched or told.reply is not None or told.error is not None:
            self._paint(ended(told))

    def _grow(self, told: Told) -> None:
        self._timer = None
        size = self._paint(growing(told))
        self._next = clock() + max(PULSE, size / RATE)

    def _paint(self, bundle: dict[str, str]) -> int:
        """Show it; returns its bytes."""
        if self._handle is None:
            self._handle = DisplayHandle()  # type: ignore[no-untyped-call]
            self._handle.display(bundle, raw=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(bundle, raw=True)  # type: ignore[no-untyped-call]
        return len(json.dumps(bundle, ensure_ascii=False).encode())


def growing(told: Told) -> dict[str, str]:
    """What is shown of a stream that goes on."""
    text = plain(told.text)
    return {"text/html": verbatim(text) if text else _quiet("…"), "text/plain": text or "…"}


def ended(told: Told) -> dict[str, str]:
    """What lasts of a stream: its Markdown; or what there was of it, and why there is no more."""
    text = plain(told.text)
    if told.reply is not None:
        return {"text/html": to_html(text), "text/plain": text}
    error = describe(told.error) or "closed before its end"
    shown = verbatim(text) if text else ""
    if told.error is None:
        shown += _quiet(error)
    else:
        shown += f'<div style="color:#dc4242">{inline(error, 400)}</div>'
    return {"text/html": shown, "text/plain": f"{text}\n{line(error, 400)}".lstrip("\n")}


def _quiet(text: str) -> str:
    return f'<div style="opacity:.7">{escaped(text)}</div>'
