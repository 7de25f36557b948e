"""Ledger: what one batch has in the store, and what it has still to write there."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..answers import FAILED, OK
from ..errors import StoreError
from ..messages import Reply, sendable
from . import writer as writers
from .claims import Claims
from .entries import Entry, Found
from .identity import Family, Question
from .reader import Reader

if TYPE_CHECKING:
    from .writer import Writer


class Counts(NamedTuple):
    """How a batch stands, as its row in the store says."""

    total: int | None
    ok: int
    failed: int
    reused: int


class Ledger:
    """One batch's way to the disk and back.

    Parameters
    ----------
    path : Path
        The store's file.
    family : Family
        What its questions have in common.
    name, model : str
        What it is called, and who answers.
    fresh : bool
        Never look an answer up.
    counts : callable
        How the batch stands, without what is still to be written.
    on_landed : callable
        Called in the writer's thread with entries that are on disk now.
    on_failed : callable
        Called, in any thread, with entries that cannot be written, and why. They are kept, and written after `open`.

    Attributes
    ----------
    batch, family_id : int or None
        The numbers of its row and its family's; None until they are on disk.
    home : object
        Stands for the file that they are in: another one once that was removed or replaced.
    """

    def __init__(
        self,
        path: Path,
        family: Family,
        *,
        name: str,
        model: str,
        fresh: bool,
        counts: Callable[[], Counts],
        on_landed: Callable[[Ledger, list[Entry]], None],
        on_failed: Callable[[Ledger, list[Entry], StoreError], None],
    ) -> None:
        self.path = path
        self.family = family
        self.batch: int | None = None
        self.family_id: int | None = None
        self.home: object = None
        self._name = sendable(name)
        self._model = sendable(model)
        self._fresh = fresh
        self._counts = counts
        self._on_landed = on_landed
        self._on_failed = on_failed
        self._begun = time.time()
        self._opened: object = None
        self._goes_on = False
        self._tokens = (0, 0)
        self._remembers = False
        self._writer: Writer | None = None
        self._reader: Reader | None = None
        self._read: object = None
        self._claims: Claims | None = None
        self._waiting: list[Entry] = []
        self._leave: list[tuple[weakref.finalize[..., object], Callable[[], None]]] = []
        self._lock = threading.RLock()

    # -- from the batch -----------------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to write, or go on after a failure; `on_landed` is called, with nothing, when that works."""
        with self._lock:
            self._goes_on = True
            self._remembers = self.batch is not None  # others may have asked, while it was away
            if self._writer is None:
                self._writer = writers.join(self.path)
                self._when_gone(writers.leave, self._writer)
            self._writer.retry()
            self._writer.put(self)
            for entry in self._waiting:
                self._writer.put(entry)
            self._waiting = []
            self._writer.flush()

    def close(self) -> None:
        """Write how the batch stands, and let go of the file; `open` goes on."""
        with self._lock:
            if self._writer is not None:
                self._writer.put(self)
            self._let_go()

    def _when_gone(self, function: Callable[..., None], *args: object) -> None:
        """Call it when this ledger lets go of the file, or is collected: a batch may be paused, and forgotten."""
        self._leave.append((writers.when_gone(self, function, *args), functools.partial(function, *args)))

    def _let_go(self) -> None:
        self._writer = self._reader = self._claims = None
        leaving, self._leave = self._leave, []
        for finalizer, leave in leaving:
            finalizer.detach()
            leave()

    def give_up(self) -> None:
        """Let go of the file as it is, whatever is still to be written."""
        with self._lock:
            self._waiting.clear()
            if self._writer is not None:
                self._writer.drop(self)
            self._let_go()

    def put(self, entry: Entry) -> None:
        """Have an outcome written, once the file is open."""
        with self._lock:
            if self._writer is None:
                self._waiting.append(entry)
            else:
                self._writer.put(entry)

    def flush(self) -> None:
        """Write what there is without waiting for more."""
        if self._writer is not None:
            self._writer.flush()

    @property
    def remembers(self) -> bool:
        """Whether the store may hold answers to this batch's questions."""
        return (self._remembers or not (self._claims and self._claims.alone)) and not self._fresh

    def claim(self, question: Question, occurrence: int) -> bool:
        """Whether this batch may ask a question: no other asks it just now."""
        return self._fresh or self._claims is None or self._claims.take(question, occurrence)

    def unclaim(self, *asked: tuple[Question, int]) -> None:
        """Let others ask these."""
        if self._claims is not None:
            self._claims.leave(asked)

    def find(self, question: Question, occurrence: int) -> asyncio.Future[Found | None]:
        """The newest answer to a question; looked up in a thread, with all that are wanted at the same time.

        Raises
        ------
        StoreError
            The store cannot be read.
        """
        if self._reader is None or self._read is not self.home:
            if self._reader is not None:
                self._reader.end()
            self._reader, self._read = Reader(self.path, self.family), self.home
            self._when_gone(self._reader.end)
        return self._reader.find(question, occurrence)

    # -- in the writer's thread ---------------------------------------------------------------------------------

    def begin(self, connection: sqlite3.Connection, opened: object) -> bool:
        """Have rows for the family and the batch, in this file; `opened` stands for the connection.

        False if they were in another file, which is gone, and the batch does not know.
        """
        self._begin_to_claim()
        if self._opened is opened:
            return True
        if self.batch is not None:
            mine = "SELECT 1 FROM batches WHERE id = ? AND begun = ? AND name = ?"
            if connection.execute(mine, (self.batch, self._begun, self._name)).fetchone():
                self._opened = opened
                return True
            if not self._goes_on:
                return False
        self._opened = opened
        self._insert(connection)
        return True

    def _begin_to_claim(self) -> None:
        with self._lock:
            if self._claims is None and self._writer is not None:
                self._claims = Claims(self.path, self.family.text)
                self._when_gone(self._claims.end)

    def _insert(self, connection: sqlite3.Connection) -> None:
        self.home = object()
        known = connection.execute("SELECT id FROM families WHERE text = ?", (self.family.text,)).fetchone()
        if known is None:
            connection.execute("INSERT INTO families (text) VALUES (?)", (self.family.text,))
            known = connection.execute("SELECT last_insert_rowid()").fetchone()
            self._remembers = False
        else:
            self._remembers = True
        (self.family_id,) = known
        (self.batch,) = connection.execute(
            "INSERT INTO batches (family, name, model, begun, updated, ok, failed, reused, input_tokens, output_tokens)"
            " VALUES (?, ?, ?, ?, ?, 0, 0, 0, 0, 0) RETURNING id",
            (self.family_id, self._name, self._model, self._begun, self._begun),
        ).fetchone()

    def update(self, connection: sqlite3.Connection, entries: list[Entry]) -> None:
        """Write how the batch stands, these entries included."""
        total, ok, failed, reused = self._counts()
        new = [entry for entry in entries if not entry.shown]
        ok += sum(entry.status == OK for entry in new)
        failed += sum(entry.status == FAILED for entry in new)
        reused += sum(entry.answer is not None for entry in new)
        connection.execute(
            "UPDATE batches SET updated = ?, total = ?, ok = ?, failed = ?, reused = ?, input_tokens = ?,"
            " output_tokens = ? WHERE id = ?",
            (time.time(), total, ok, failed, reused, *self._with_tokens(entries), self.batch),
        )

    def _with_tokens(self, entries: list[Entry]) -> tuple[int, int]:
        usages = [entry.reply.usage for entry in entries if entry.own and isinstance(entry.reply, Reply)]
        asked, said = self._tokens
        return (
            asked + sum(usage.input_tokens or 0 for usage in usages),
            said + sum(usage.output_tokens or 0 for usage in usages),
        )

    def landed(self, entries: list[Entry]) -> None:
        """These are on disk."""
        self._goes_on = False
        self._tokens = self._with_tokens(entries)
        for entry in entries:
            if entry.answer is None:
                entry.home = self.home
        self.unclaim(*((entry.question, entry.occurrence) for entry in entries if entry.question is not None))
        self._on_landed(self, entries)

    def failed(self, entries: list[Entry], error: StoreError) -> None:
        """These are not, and wait; others who ask the same need not wait for a disk that fails."""
        self.unclaim(*((entry.question, entry.occurrence) for entry in entries if entry.question is not None))
        self._on_failed(self, entries, error)

    def strand(self, entries: list[Entry], error: StoreError) -> None:
        """These are not, as the file is not the one that it was; they wait here until the batch goes on in it."""
        with self._lock:
            self._waiting[:0] = entries
        self.failed(entries, error)
