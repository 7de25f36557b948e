"""Panel: a batch, live, in a notebook: an anywidget that only listens, and passes on what is clicked.

* What comes from the browser comes by ``model.send`` (a trait that the browser sets stalls for good on ipykernel 7.4),
  in any thread (a subshell's, on ipykernel 7): it goes over to the batch's loop at once.
* A panel holds its batch weakly: ipywidgets holds every widget for ever, and a batch that nobody has any more takes its
  panel with it.
"""

from __future__ import annotations

import secrets
import weakref
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import anywidget
import traitlets

from ..loop import call_in, running
from .courier import Courier
from .feed import Feed
from .watched import Watched

_HERE = Path(__file__).parent

_panels: WeakKeyDictionary[Watched, Panel] = WeakKeyDictionary()


def panel(run: Watched) -> Panel:
    """The one panel of a batch."""
    if run not in _panels:
        _panels[run] = Panel(run)
    return _panels[run]


class Panel(anywidget.AnyWidget):
    """The live panel of one batch, in as many places as it is displayed.

    Attributes
    ----------
    key : str
        By which a summary that stands in its place is found in the page.
    placeholder : bool
        Whether there is such a summary.
    courier : Courier
        What goes between it and its batch.
    """

    _esm = _HERE / "panel.js"
    _css = _HERE / "panel.css"
    title = traitlets.Unicode().tag(sync=True)
    key = traitlets.Unicode().tag(sync=True)
    placeholder = traitlets.Bool(False).tag(sync=True)

    def __init__(self, run: Watched) -> None:
        super().__init__(title=run.title, key=secrets.token_hex(8))
        alive = weakref.ref(run)
        courier = Courier(alive, Feed(run), self.send)

        home = running() or run.loop  # the kernel's own, which stays

        def received(_: object, content: dict[str, Any], __: object) -> None:
            batch = alive()
            if batch is not None:
                call_in(home if batch.loop.is_closed() else batch.loop, courier.received, content)

        self.courier = courier
        self.on_msg(received)
        weakref.finalize(run, call_in, home, self.close).atexit = False
        run.subscribe(lambda _: courier.changed())

    def __repr__(self) -> str:
        return "Panel()"
