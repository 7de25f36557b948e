"""Lasting: a connection that is kept open between two uses, but not while this process forks.

SQLite notes in memory which locks a process holds. A child would take its parent's notes for its own, and wait for
ever, or write where it may not (sqlite.org/howtocorrupt.html, "Carrying an open database across a fork").
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable

LONGEST = 1.0
"""Seconds that a fork waits for a connection that is in use; most children never touch a store."""


class Lasting:
    """A connection, for one thread: ``with lasting as connection``. After an error it is opened anew.

    Parameters
    ----------
    connect : callable
        Opens it.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._connection: sqlite3.Connection | None = None
        self._used = threading.Lock()

    def __enter__(self) -> sqlite3.Connection:
        self._used.acquire()
        try:
            if self._connection is None:
                _open.add(self)  # from the first moment to the last: SQLite has locks of its own while it opens
                self._connection = self._connect()
        except BaseException:
            self._used.release()
            raise
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._close()  # which rolls back
        self._used.release()

    def close(self) -> None:
        """Close it, until it is used again."""
        with self._used:
            self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        _open.discard(self)


_open: set[Lasting] = set()
_held: list[Lasting] = []


def _before_fork() -> None:
    for each in list(_open):
        if each._used.acquire(timeout=LONGEST):
            _held.append(each)
            each._close()


def _after_fork() -> None:
    while _held:
        _held.pop()._used.release()


def _forget_after_fork() -> None:
    _held.clear()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forget_after_fork)
