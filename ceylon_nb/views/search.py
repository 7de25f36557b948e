"""Search: the rows in which a text occurs, looked for a little at a time, so that the loop goes on."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import describe
from ..loop import clock
from .escaping import words

if TYPE_CHECKING:
    from .watched import Watched

SLICE = 0.004
"""Seconds of looking before the loop goes round."""


class Search:
    """One text, looked for in whole replies and errors and in what is asked about, whatever its case.

    Attributes
    ----------
    searched, of : int
        Rows looked at, and rows to be looked at, those included.
    """

    def __init__(self, text: str, positions: Iterable[int]) -> None:
        self._text = text.casefold()
        self._left = deque(positions)
        self.searched, self.of = 0, len(self._left)

    @property
    def done(self) -> bool:
        """Whether no row is left to be looked at."""
        return not self._left

    def extend(self, positions: Iterable[int]) -> None:
        """Look at these as well: something has happened to them."""
        before = len(self._left)
        self._left.extend(positions)
        self.of += len(self._left) - before

    def step(self, run: Watched) -> list[int]:
        """Look for SLICE seconds; returns where it was found."""
        ends, found = clock() + SLICE, []
        while self._left and clock() < ends:
            position = self._left.popleft()
            self.searched += 1
            if self._text in _words(run, position).casefold():
                found.append(position)
        return found


def _words(run: Watched, position: int) -> str:
    reply, error = run.rows.outcome(position)
    said = describe(error) if error is not None else "" if reply is None else words(reply)
    return f"{run.gist(position)}\n{said}"
