"""Answers to a Parquet file: one row each, in the order of the input, whatever the order in which they come.

* As they come they go into a journal beside the file: Arrow record batches, one after the other, in a file without a
  name, which is gone with this Python however it ends. Of each row the place of its newest answer is remembered.
* When the batch ends, the journal is written as Parquet, some rows at a time, to a hidden file that then takes its
  place: ``answers.parquet`` is whole or as it was before. What a batch that was cancelled or stopped has is in
  ``answers.partial.parquet``, and it goes on from its journal.
* A thread does all of that. When the disk fails, nothing is dropped: what is not in the journal waits in memory.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import operator
import os
import secrets
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from ..answers import FAILED, OK, Tally, usage_of
from ..errors import StoreUnwritable, describe, detail, drop_tracebacks
from ..messages import Reply, sendable
from .journal import Journal, Record
from .schema import written

TOGETHER = 4096
"""Answers that go into the journal together."""
MOST = 2 * TOGETHER
"""Answers that may wait for the disk before nothing new is asked."""
NOWHERE = -1

GROUP = 16_384
"""Rows in a row group, at the most."""
LARGEST = 4_000_000
"""Bytes in a row group, roughly, at the most."""


class _GoesOn(Exception):
    """There will be other answers, so the file is not wanted now."""


class Delivered(Tally):
    """Answers that are kept in a Parquet file alone.

    Parameters
    ----------
    path : Path
        The file.
    index : object
        The labels, as `Source.index`; None if they are the positions.

    Attributes
    ----------
    trouble : StoreUnwritable or None
        Why the file cannot be written; `reopen` tries again.
    """

    def __init__(self, path: Path, index: Any = None) -> None:
        super().__init__()
        self._target = path
        self._index = index
        self._places = array("q")  # of each row: the number of its newest record; NOWHERE while it has no answer
        self._waiting: list[Record] = []
        self._records = 0
        self._journal: Journal | None = None
        self._wanted: bool | None = None  # to be delivered: whole or in part
        self._delivered: Path | None = None
        self._changes = 0
        self._working = False

    @property
    def out(self) -> Path:
        """Where the answers can be read: in the file, or as long as they are not all there, what there is beside it."""
        return self._delivered or self._target

    @property
    def partial(self) -> Path:
        """Where what there is of an unfinished batch is put."""
        return self._target.with_name(f"{self._target.stem}.partial{self._target.suffix}")

    @property
    def behind(self) -> bool:
        """Whether so many answers wait for the disk that nothing new should be asked."""
        return len(self._waiting) >= MOST

    def reopen(self) -> None:
        """More may come; after a failure, try again."""
        with self._lock:
            self.trouble = None
            self._wanted = None
            self._changes += 1
            if self._journal is not None or self._delivered != self._target:  # else it is whole, and the journal gone
                self._delivered = None
            if self._waiting:
                self._work()

    def deliver(self, *, whole: bool) -> bool:
        """Have the file written, as the batch has ended; True once it is. `changed` is called when it is, or cannot be.

        Parameters
        ----------
        whole : bool
            Whether all answers are there. What there is otherwise is in `partial`.
        """
        with self._lock:
            if self._delivered is None:
                self._wanted = whole
                self._work()
            return self._delivered is not None

    def _extend(self, more: int) -> None:
        self._places.extend(array("q", [NOWHERE]) * more)

    def _keep(self, position: int, status: int, reply: Any, error: Exception | None) -> None:
        if status not in (OK, FAILED):
            self._places[position] = NOWHERE
            self._changes += 1
            return
        usage = usage_of(reply)
        self._waiting.append(
            (
                status, _said(reply), _clean(describe(error)), self._attempts[position],
                round(self._latency[position], 6), _count(usage.input_tokens), _count(usage.output_tokens),
                _clean(reply.finish_reason) if isinstance(reply, Reply) else None, bool(self.from_store[position]),
            )
        )  # fmt: skip
        self._places[position] = self._records
        self._records += 1
        if len(self._waiting) >= TOGETHER and self.trouble is None:
            self._work()

    # -- in a thread --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Have a thread see to what there is to do. With the lock."""
        if not self._working:
            self._working = True
            threading.Thread(target=self._see_to_it, name="ceylon-nb-parquet", daemon=True).start()

    def _see_to_it(self) -> None:
        try:
            while (task := self._next_task()) is not None:
                task()
        except Exception as error:  # noqa: BLE001 - were it to go unsaid, the batch would wait for ever
            with self._lock:
                self.trouble = StoreUnwritable(f"{self._target} cannot be written: {detail(error)}.")
                drop_tracebacks(error)
                self._wanted, self._working = None, False
        self.changed()

    def _next_task(self) -> Callable[[], None] | None:
        with self._lock:
            some = self._waiting[:TOGETHER]
            if len(some) == TOGETHER or (some and self._wanted is not None):
                return functools.partial(self._note, some)
            if self._wanted is not None:
                return functools.partial(self._finish, self._wanted, self._changes)
            self._working = False
            return None

    def _note(self, some: list[Record]) -> None:
        """Put these, the first that wait, into the journal."""
        if self._journal is None:
            self._journal = Journal(self._target)
        self._journal.append(some)
        with self._lock:
            del self._waiting[: len(some)]

    def _finish(self, whole: bool, changes: int) -> None:
        """Write the file."""
        path = self._target if whole else self.partial
        with contextlib.suppress(_GoesOn), _in_place_of(path) as hidden:
            self._write(hidden, changes)
        if self._journal is not None:
            self._journal.rest()
        with self._lock:
            if changes != self._changes:  # it goes on by now
                return
            if whole:
                self.partial.unlink(missing_ok=True)
            self._delivered, self._wanted = path, None
            if whole and not self.counts[FAILED]:  # nothing that could be asked again
                self._journal = None

    def _write(self, path: Path, changes: int) -> None:
        """Write the newest answer to each row, in order; the journal has them all, until the batch goes on."""
        import numpy as np

        journal = self._journal or Journal(self._target)
        step = journal.rows_in(LARGEST, most=GROUP)
        with written(path, self._index) as add:
            for first in range(0, len(self._places), step):
                with self._lock:
                    if changes != self._changes:
                        raise _GoesOn
                    places = np.array(self._places[first : first + step], np.int64)
                answered = (places != NOWHERE).nonzero()[0]
                if len(answered):
                    add(first + answered, journal.take(places[answered]))


def _said(reply: Any) -> str | None:
    """A text as it is, anything else as JSON."""
    if reply is None or isinstance(reply, str):
        return _clean(reply)
    try:
        return orjson.dumps(reply).decode()
    except TypeError:  # half a surrogate pair
        return orjson.dumps(sendable(reply)).decode()


def _count(tokens: Any) -> int | None:
    """As the column holds it; None for what it cannot: a function of the user's may say anything."""
    try:
        number = operator.index(tokens)
    except TypeError:
        return None
    return number if 0 <= number < 2**63 else None


def _clean(text: str | None) -> str | None:
    return None if text is None else sendable(str(text))


STALE = 3600.0
"""Seconds after which a hidden file that nobody has written to was left by a Python that was killed."""


@contextlib.contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """A hidden file beside it that takes its place once it is whole, and on disk."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if time.time() - left.stat().st_mtime > STALE:
            left.unlink()
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield hidden
        with hidden.open("rb+") as file:
            os.fsync(file.fileno())
        hidden.replace(path)
    finally:
        hidden.unlink(missing_ok=True)
