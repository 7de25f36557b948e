"""Cell: where in a notebook a batch is shown, and what is left there when it has ended.

* Where somebody watches, the panel is displayed once, in the cell that began the batch. When the batch ends, the
  summary takes its place, put there by the batch itself and again by each cell that awaits it: what a background task
  displays is lost under nbclient. A saved notebook so holds the summary and no widget.
  A page that was loaded again in the meantime knows nothing of that place: there the cell that awaits has the summary.
* Where nobody does, the cell that awaits displays the summary, once, and nothing else is displayed.
* ``run`` as the last line of a later cell opens the panel again. Once the batch has ended what is displayed is a
  summary even so, which `panel.js` replaces in the page for as long as the kernel lives: nobody needs to be there to
  put it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from IPython.display import DisplayHandle, display

from ..kernel import this_cell
from .summary import bundle
from .watched import Watched
from .watching import someone_watches

if TYPE_CHECKING:
    from .panel import Panel

WIDGET = "application/vnd.jupyter.widget-view+json"


class _Place:
    """Where one batch is shown.

    Attributes
    ----------
    cell : str
        The cell that showed it last.
    """

    def __init__(self) -> None:
        self.cell = ""
        self._handles: list[DisplayHandle] = []
        self._live = True
        self._left: object = None

    def open(self, run: Watched) -> None:
        """Display the panel of a batch that runs."""
        handle = DisplayHandle()  # type: ignore[no-untyped-call]
        handle.display(_live(run), raw=True)  # type: ignore[no-untyped-call]
        if not self._handles:
            run.subscribe(self._follow)
            run.at_end(self._end)
        self._handles.append(handle)

    def _follow(self, run: Watched) -> None:
        """Put the summary where the panel was, once the batch has ended; the panel, once it goes on again."""
        if self._live == run.finished:
            self._settle(run)

    def _settle(self, run: Watched) -> None:
        self._live = not run.finished
        shown = _live(run) if self._live else bundle(run)
        for handle in self._handles:
            handle.update(shown, raw=True)  # type: ignore[no-untyped-call]

    def _end(self, run: Watched) -> None:
        """In a cell that has waited: settle; a page that was loaded since has no place for that, so leave it here."""
        self._settle(run)
        if _panel(run).courier.reloaded:
            self.leave(run)

    def leave(self, run: Watched) -> None:
        """Display the summary in the cell that has waited, unless nothing has changed since it was.

        Of a batch that is only just ending, as a loop over it was left early, nothing true can be said yet.
        """
        standing = run.state, run.counts
        if run.finished and self._left != standing:
            self._left = standing
            display(bundle(run), raw=True)  # type: ignore[no-untyped-call]
            self.cell = this_cell()


_places: WeakKeyDictionary[Watched, _Place] = WeakKeyDictionary()


def show_panel(run: Watched) -> None:
    """Display the panel in this cell."""
    place = _place(run)
    place.open(run)
    place.cell = this_cell()


def show_summary(run: Watched) -> None:
    """Have each cell that waits for the batch display the summary."""
    run.at_end(_place(run).leave)


def show_again(run: Watched) -> bool:
    """What a cell shows whose last line is a batch; False if that is its repr."""
    place = _place(run)
    if place.cell == this_cell():
        return True
    if run.finished:
        display(bundle(run, placeholder=_reopened(run)), raw=True)  # type: ignore[no-untyped-call]
        place.cell = this_cell()
        return True
    if someone_watches():
        show_panel(run)
        return True
    return False


def _panel(run: Watched) -> Panel:
    from .panel import panel  # the widgets take 0.3 s, and nobody needs them where nobody watches

    return panel(run)


def _place(run: Watched) -> _Place:
    return _places.setdefault(run, _Place())


def _live(run: Watched) -> dict[str, Any]:
    """The widget, and for readers that show none the summary as it stands now."""
    view = {"version_major": 2, "version_minor": 0, "model_id": _panel(run).model_id}
    return {WIDGET: view, **bundle(run)}


def _reopened(run: Watched) -> str | None:
    if not someone_watches():
        return None
    shown = _panel(run)
    shown.placeholder = True
    return shown.key
