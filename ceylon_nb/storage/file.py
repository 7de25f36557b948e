"""The file: an SQLite database, its format, and what is said when it cannot be used.

Format
------
``application_id`` 0x63796C6E (``cyln``), ``user_version`` the number of steps of `STEPS` that made it. An older file
is brought up to date when it is opened; a newer one is refused.

``families``  who is asked and how, as JSON
``answers``   one row for each answer and each failure, in the order of coming; of those with the same family,
              question and occurrence, the last that is ok counts. ``question`` is 64 bits of a digest, ``kind`` 0 a
              model's text and 1 JSON, ``status`` 1 ok and 2 failed, ``at`` seconds since 1970
``batches``   one row for each batch, with its counts
``reused``    which rows of a batch took their answer from the store
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import StoreCorrupt, StoreError, StoreLocked, StoreTooNew, StoreUnwritable, describe
from . import place

log = logging.getLogger("ceylon_nb")

APPLICATION_ID = 0x63796C6E

STEPS = (
    """
    CREATE TABLE families (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
    CREATE TABLE answers (
        id INTEGER PRIMARY KEY,
        family INTEGER NOT NULL REFERENCES families,
        question INTEGER,
        occurrence INTEGER,
        prompt TEXT,
        status INTEGER NOT NULL,
        kind INTEGER,
        reply TEXT,
        error TEXT,
        attempts INTEGER NOT NULL,
        latency REAL,
        input_tokens INTEGER,
        output_tokens INTEGER,
        model TEXT,
        finish_reason TEXT,
        at REAL NOT NULL
    );
    CREATE INDEX answered ON answers (question, occurrence) WHERE status = 1;
    """,
    """
    CREATE TABLE batches (
        id INTEGER PRIMARY KEY,
        family INTEGER NOT NULL REFERENCES families,
        name TEXT NOT NULL,
        model TEXT NOT NULL,
        begun REAL NOT NULL,
        updated REAL NOT NULL,
        total INTEGER,
        ok INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        reused INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL
    );
    CREATE INDEX named ON batches (name);
    ALTER TABLE answers ADD COLUMN batch INTEGER REFERENCES batches;
    ALTER TABLE answers ADD COLUMN position INTEGER;
    CREATE INDEX in_batch ON answers (batch, position);
    CREATE TABLE reused (
        batch INTEGER NOT NULL REFERENCES batches,
        position INTEGER NOT NULL,
        answer INTEGER NOT NULL REFERENCES answers,
        PRIMARY KEY (batch, position)
    ) WITHOUT ROWID;
    CREATE INDEX reused_answer ON reused (answer);
    """,
)

PATIENCE = 30.0
"""Seconds that a lock of another process is waited for, in a thread of the store's own."""


def connect(path: Path) -> sqlite3.Connection:
    """Open a store to read and write, made and brought up to date where needed.

    Raises
    ------
    StoreError
        It cannot be used, and why.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return _connect(path)
        except StoreLocked:  # by another that opens it: there SQLite itself does not always wait
            if time.monotonic() > until:
                raise
        time.sleep(0.01)


def _connect(path: Path) -> sqlite3.Connection:
    place.make(path)
    with explained(path), _closed_on_error(_plain(path)) as connection:
        version = _check(connection, path)
        _set_journal(connection, path)
        connection.execute("PRAGMA synchronous = FULL")  # what was shown outlives the machine's power, too
        connection.execute("PRAGMA temp_store = MEMORY")  # no copy of a prompt in a folder for temporary files
        if version < len(STEPS):
            _bring_up_to_date(connection, path)
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open a store that is there and up to date, to read.

    Raises
    ------
    StoreError
        It cannot be used, and why.
    """
    with explained(path), _closed_on_error(_plain(path)) as connection:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA temp_store = MEMORY")
    return connection


def connect_to_look(path: Path) -> sqlite3.Connection:
    """Open a store to read, whatever its version; one that is not there is empty, and stays away.

    Raises
    ------
    StoreError
        It cannot be used, and why.
    """
    if not place.exists(path):
        connection = sqlite3.connect(":memory:", isolation_level=None)
        _bring_up_to_date(connection, path)
        return connection
    with explained(path), contextlib.closing(_plain(path)) as found:
        version = _check(found, path)
    if version < len(STEPS):
        connect(path).close()
    return connect_to_read(path)


def _plain(path: Path) -> sqlite3.Connection:
    """The file as it is: `place.make` makes one, for its owner alone, and nobody else does."""
    return sqlite3.connect(
        f"{path.as_uri()}?mode=rw", uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False
    )


@contextlib.contextmanager
def _closed_on_error(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


def _check(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the format; 0 of a new file."""
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()  # last: others may just be making it
    if application != APPLICATION_ID and (application or version or tables):
        raise StoreCorrupt(
            f"{path} is a database of something else, not a store of answers. Nothing was changed in it. "
            + place.elsewhere()
        )
    if version > len(STEPS):
        raise StoreTooNew(
            f"The store {path} was written by a later ceylon_nb (format {version}; this one knows {len(STEPS)}). "
            f"Upgrade ceylon_nb. {place.elsewhere()}"
        )
    return int(version)


def _set_journal(connection: sqlite3.Connection, path: Path) -> None:
    """Write-ahead log, but on file systems that several machines share, where it is not safe."""
    kind = place.filesystem(path)
    wanted = "delete" if place.is_network(kind) else "wal"
    if wanted == "delete":
        _warn_of_network(path, kind)
    (journal,) = connection.execute("PRAGMA journal_mode").fetchone()
    if journal != wanted:
        connection.execute(f"PRAGMA journal_mode = {wanted}")


@functools.cache  # once a file
def _warn_of_network(path: Path, kind: str) -> None:
    log.warning(
        "The store %s lies on a network file system (%s): use it from one machine at a time. "
        "A path on a local disk in %s is faster and safer",
        path, kind, place.VARIABLE,
    )  # fmt: skip


def _bring_up_to_date(connection: sqlite3.Connection, path: Path) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in STEPS[_check(connection, path) :]:  # looked at again: another process may have done it
            for statement in step.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(STEPS)}")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Translate SQLite's errors, in this one place."""
    try:
        yield
    except sqlite3.Error as error:
        raise explain(error, path) from error


_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_HELD = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_UNWRITABLE = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_NOLFS,
)


def explain(error: Exception, path: Path) -> StoreError:
    """What happened to the store, and what to do."""
    if isinstance(error, StoreError):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary result code
    said = str(error) if isinstance(error, sqlite3.Error) else describe(error)
    if code in _DAMAGED:
        return StoreCorrupt(
            f"{path} is damaged, or is no store of answers ({said}). Move it away, and its -wal file with it: a new "
            f"one is begun. `sqlite3 {path.name} .recover` may get answers out of it. {place.elsewhere()}"
        )
    if code in _HELD:
        return StoreLocked(
            f"Another process holds the store {path} ({said}): wait for it, or end it. {place.elsewhere()}"
        )
    if code in _UNWRITABLE:
        return StoreUnwritable(f"The store {path} cannot be written ({said}): see to its disk. {place.elsewhere()}")
    return StoreError(f"The store {path} cannot be used ({said}). {place.elsewhere()}")


def replaced(path: Path) -> StoreUnwritable:
    """What is said when the file that was written to is not there any more."""
    return StoreUnwritable(
        f"The store {path} was removed or replaced while it was in use: what was written to it before is only in the "
        f"frames of this Python's batches. {place.elsewhere()}"
    )


def inode(path: Path) -> tuple[int, int] | None:
    """Which file a path leads to now; None if to none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - twice as fast as the method, and once for every commit
    except OSError:
        return None
    return found.st_dev, found.st_ino
