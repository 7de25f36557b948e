"""Writer: one thread a file that commits what all batches of this process have, many rows at a time.

* Whoever has an answer hands it over and goes on; the loop waits for no disk.
* Rows come together for GATHER seconds, till they are ENOUGH, or while the last commit lasts, and share a transaction.
* All rows of a transaction are one parameter of one statement: SQLite's Python module takes the interpreter's lock
  anew after every statement, and beside a loop that is busy each time costs up to 5 ms.
* When the disk fails, nothing is dropped: the batches are told, and `retry` goes on with what there was.
"""

from __future__ import annotations

import atexit
import os
import sqlite3
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from ..errors import StoreError
from ..loop import FAREWELL, stop_background
from . import claims
from .entries import COLUMNS, Entry, encode
from .file import connect, explain, inode, replaced
from .lasting import Lasting

if TYPE_CHECKING:
    from .ledger import Ledger

GATHER = 0.02
"""Seconds that rows wait for others to be committed with."""

ENOUGH = 1000
"""Rows that wait for no others: a commit costs each of them next to nothing."""

LARGEST = 8_000_000
"""Characters, roughly, in one statement."""


def _cells(*places: int) -> str:
    """These of an array in a JSON array of arrays. Not by ``->>``, which Ubuntu 22.04's SQLite lacks."""
    return ", ".join(f"json_extract(value, '$[{place}]')" for place in places)


WIDTH = COLUMNS.count(",") + 1
INSERT = f"INSERT INTO answers ({COLUMNS}) SELECT {_cells(*range(WIDTH))} FROM json_each(?)"
INSERT_ONE = f"INSERT INTO answers ({COLUMNS}) VALUES ({', '.join('?' * WIDTH)})"
REUSE = f"INSERT OR REPLACE INTO reused SELECT {_cells(0, 1, 2)} FROM json_each(?)"
FOLLOW = f"""
    INSERT OR REPLACE INTO reused
    SELECT {_cells(0, 1)}, (SELECT max(id) FROM answers WHERE batch = {_cells(0)} AND position = {_cells(2)})
    FROM json_each(?)
"""


class Writer:
    """The thread that writes one file. `put`, `flush` and `retry` may be called from any thread, and return at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.users = 0
        self._queue: deque[Entry | Ledger] = deque()
        self._changed = threading.Condition()
        self._hurry = self._over = self._anew = False
        self._error: StoreError | None = None
        self._file = Lasting(self._connect)
        self._opened: object = None
        self._inode: tuple[int, int] | None = None
        self._thread = threading.Thread(target=self._run, name="ceylon-nb-store", daemon=True)
        _alive.add(self)
        self._thread.start()

    def put(self, what: Entry | Ledger) -> None:
        """Have an entry written; or a ledger's own row, anew each time."""
        with self._changed:
            self._queue.append(what)
            if len(self._queue) in (1, ENOUGH):
                self._changed.notify()
            error = self._error
        if error is not None:
            _tell_failed([what], error)

    def drop(self, ledger: Ledger) -> None:
        """Forget what a ledger has still to be written."""
        with self._changed:
            self._queue = deque(each for each in self._queue if ledger not in (each, getattr(each, "ledger", None)))

    def flush(self) -> None:
        """Write what there is without waiting for more."""
        with self._changed:
            self._hurry = True
            self._changed.notify()

    def retry(self) -> None:
        """Go on after a failure, with all that has waited since."""
        with self._changed:
            self._error = None
            self._hurry = self._anew = True
            self._changed.notify()

    def end(self, patience: float | None = None) -> None:
        """Write what there is, and end; wait for it if `patience` (seconds) is given."""
        with self._changed:
            self._over = True
            self._changed.notify()
        if patience is not None:
            self._thread.join(patience)

    # -- in its thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._wait():
            self._write_group()  # a function of its own: its names would hold the last batch while there is none
        self._file.close()
        _alive.discard(self)

    def _write_group(self) -> None:
        with self._changed:
            group = list(self._queue)
            self._queue.clear()
            anew, self._anew = self._anew, False
        if anew:  # the file may be another one by now
            self._file.close()
        try:
            stranded = self._commit(group)
        except StoreError as error:
            with self._changed:
                self._error = error
                self._queue.extendleft(reversed(group))
                waiting = list(self._queue)  # what has come meanwhile, too
            _tell_failed(waiting, error)
        else:
            for ledger, entries in _by_ledger(group):
                if ledger in stranded:
                    ledger.strand(entries, stranded[ledger])
                else:
                    ledger.landed(entries)

    def _wait(self) -> bool:
        """Wait until there is something to write, and a moment for more; False when there never will be."""
        asked = False
        while not asked:
            claims.watch()
            see_who_is_gone()
            asked = self._is_asked()
        with self._changed:
            if not self._queue or self._error:
                return False
            until = time.monotonic() + GATHER
            while (
                not (self._hurry or self._over) and len(self._queue) < ENOUGH and (left := until - time.monotonic()) > 0
            ):
                self._changed.wait(left)
            self._hurry = False
            return True

    def _is_asked(self) -> bool:
        """Wait for work, or the end, but not for long."""
        with self._changed:
            if (not self._queue or self._error) and not self._over:
                self._hurry = False
                self._changed.wait(claims.NOTICE)
            return bool(self._queue and not self._error) or self._over

    def _commit(self, group: list[Entry | Ledger]) -> dict[Ledger, StoreError]:
        """Write it all; returns the ledgers whose rows are not in this file any more, which is theirs to know."""
        stranded: dict[Ledger, StoreError] = {}
        try:
            with self._file as connection:
                connection.execute("BEGIN IMMEDIATE")
                for ledger, entries in _by_ledger(group):
                    if ledger.begin(connection, self._opened):
                        self._write(connection, ledger, entries)
                    else:
                        stranded[ledger] = replaced(self.path)
                connection.execute("COMMIT")
                if inode(self.path) != self._inode:
                    raise replaced(self.path)
        except StoreError:
            raise
        except Exception as error:  # whatever it is: were this thread to end, its batches would wait for ever
            raise explain(error, self.path) from error
        return stranded

    def _write(self, connection: sqlite3.Connection, ledger: Ledger, entries: list[Entry]) -> None:
        own: list[Entry] = []
        linked: list[Entry] = []
        for entry in entries:
            (linked if entry.links_in(ledger.home) else own).append(entry)
        for part in _parts(own):
            _insert(connection, [encode(entry, ledger.batch, ledger.family_id) for entry in part])
        found = [(ledger.batch, each.position, each.answer) for each in linked if each.answer is not None]
        followed = [
            (ledger.batch, each.position, each.leader.position) for each in linked if not each.answer and each.leader
        ]
        for statement, links in ((REUSE, found), (FOLLOW, followed)):
            if links:
                connection.execute(statement, (orjson.dumps(links).decode(),))
        ledger.update(connection, entries)

    def _connect(self) -> sqlite3.Connection:
        connection = connect(self.path)
        self._opened, self._inode = object(), inode(self.path)
        return connection


def _insert(connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
    data = orjson.dumps(rows)
    if b"\\u0000" in data:  # SQLite's JSON ends a text there
        connection.executemany(INSERT_ONE, rows)
    else:
        connection.execute(INSERT, (data.decode(),))


def _parts(entries: list[Entry]) -> Iterable[list[Entry]]:
    part: list[Entry] = []
    size = 0
    for entry in entries:
        part.append(entry)
        size += entry.size
        if size > LARGEST:
            yield part
            part, size = [], 0
    if part:
        yield part


def _by_ledger(group: list[Entry | Ledger]) -> list[tuple[Ledger, list[Entry]]]:
    found: dict[Ledger, list[Entry]] = {}
    for each in group:
        if isinstance(each, Entry):
            assert each.ledger is not None
            found.setdefault(each.ledger, []).append(each)
        else:
            found.setdefault(each, [])
    return list(found.items())


def _tell_failed(group: list[Entry | Ledger], error: StoreError) -> None:
    for ledger, entries in _by_ledger(group):
        ledger.failed(entries, error)


# -- who is gone -----------------------------------------------------------------------------------------------------

_gone: deque[tuple[Callable[..., None], tuple[object, ...]]] = deque()


def when_gone(of: object, function: Callable[..., None], *args: object) -> weakref.finalize[..., object]:
    """Have a function called, in a writer's thread, once an object is collected.

    The garbage collector may come by in any thread, also in one that holds the lock which the function wants: it only
    leaves a note.
    """
    finalizer = weakref.finalize(of, _gone.append, (function, args))
    finalizer.atexit = False  # `flush_all` does what is needed then
    return finalizer


def see_who_is_gone() -> None:
    """Call what was noted."""
    while _gone:
        function, args = _gone.popleft()
        function(*args)


# -- one for each file -----------------------------------------------------------------------------------------------

_writers: dict[str, Writer] = {}
"""By the file's real path: those that batches use."""
_alive: set[Writer] = set()
"""Those and the ones that have still to end."""
_lock = threading.Lock()


def join(path: Path) -> Writer:
    """The writer of this file, begun if there is none; `leave` it again."""
    name = os.path.realpath(path)
    with _lock:
        writer = _writers.get(name)
        if writer is None:
            writer = _writers[name] = Writer(path)
        writer.users += 1
        return writer


def leave(writer: Writer) -> None:
    """Have it end when nobody else uses it, and all is written."""
    with _lock:
        writer.users -= 1
        if not writer.users:
            for name in [name for name, each in _writers.items() if each is writer]:
                del _writers[name]
            writer.end()


@atexit.register
def flush_all() -> None:
    """Write what there is before Python ends, within two seconds."""
    stop_background()  # so that nothing more comes
    until = time.monotonic() + FAREWELL
    for writer in list(_alive):
        writer.end(max(0.0, until - time.monotonic()))


def _forget_after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _writers.clear()
    _alive.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
