"""Stopwatch: how long a batch has worked, and how long it still may."""

from __future__ import annotations

from collections.abc import Callable

from .loop import clock
from .timeouts import PatientTimer


class Stopwatch:
    """Counts the seconds between `start` and `stop`, and down from a deadline; both stand still in between.

    Parameters
    ----------
    deadline : float or None
        Seconds that may be worked from a `rewind` on; None for any number.
    """

    def __init__(self, deadline: float | None) -> None:
        self._deadline = self._remaining = float("inf") if deadline is None else deadline
        self._worked = 0.0
        self._since: float | None = None
        self._stop_timer: Callable[[], None] | None = None

    @property
    def elapsed(self) -> float:
        """Seconds worked so far."""
        return self._worked + self._running()

    def left(self) -> float:
        """Seconds until the deadline."""
        return self._remaining - self._running()

    def start(self, on_deadline: Callable[[], None]) -> None:
        """Go on; `on_deadline` is called on the running loop when the time is over, a busy cell's not counted."""
        self._since = clock()
        if self._deadline != float("inf"):
            self._stop_timer = PatientTimer(self._remaining, on_deadline, self._move).stop

    def stop(self) -> None:
        """Stand still."""
        seconds, self._since = self._running(), None
        self._worked += seconds
        self._remaining -= seconds
        if self._stop_timer is not None:
            self._stop_timer()
            self._stop_timer = None

    def rewind(self) -> None:
        """Give the whole time until the deadline again."""
        self._remaining = self._deadline

    def _move(self, seconds: float) -> None:
        self._remaining += seconds

    def _running(self) -> float:
        return clock() - self._since if self._since is not None else 0.0
