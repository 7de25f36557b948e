"""Claims: who is asking what just now, so that two batches on one store, also of two kernels, never pay for one answer.

A claim is a lock on one byte of a file beside the store, at an offset that is the question's own number: nothing is
written, ten thousand of them cost nothing, and those of a process that is killed are gone with it. Between the batches
of one process, which share their locks, a table does the same.

Whoever has no company need not look into the store before it asks something new. The file tells: each process that
uses the store holds a shared lock on one byte, and adds one to the number of those that ever came when it comes.

Where there are no such locks (Windows, and network file systems, where they are slow or worse), claims hold within one
process.

Source: POSIX ``fcntl`` advisory record locks; that they end when a process closes *any* descriptor of the file is why
there is one descriptor for each file, kept for as long as a batch uses it.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections import Counter
from pathlib import Path

from . import place
from .identity import Question

if sys.platform != "win32":
    import fcntl


PRESENT = 2**62
ARRIVING = 2**62 + 1
"""Bytes beyond all questions' own, locked by those who are there (shared) and by the one who arrives (for a moment)."""


def _offset(question: Question, occurrence: int) -> int:
    return (question.number + occurrence) & (2**62 - 1)


class Desk:
    """The claims of this process on one store."""

    def __init__(self, path: Path) -> None:
        self.users = 0
        self.batches: Counter[str] = Counter()
        """By family: how many there are."""
        self.came: Counter[str] = Counter()
        """By family: how many there ever were."""
        self._held: dict[int, Claims] = {}
        self._lock = threading.Lock()
        self._file: int | None = None
        self._company = False
        if sys.platform != "win32" and not place.is_network(place.filesystem(path)):
            self._file = os.open(f"{path}-claims", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._arrive(self._file)

    def _arrive(self, file: int) -> None:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, ARRIVING)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, PRESENT)
        except BlockingIOError:
            self._company = True
        fcntl.lockf(file, fcntl.LOCK_SH, 1, PRESENT)
        came = int.from_bytes(os.pread(file, 8, 0), "big") + 1
        os.pwrite(file, came.to_bytes(8, "big"), 0)
        self._came = mmap.mmap(file, 8)
        self._with_me = self._came[:]
        fcntl.lockf(file, fcntl.LOCK_UN, 1, ARRIVING)

    @property
    def alone(self) -> bool:
        """Whether no other process has used the store since this one came."""
        return self._file is None or not (self._company or self._came[:] != self._with_me)

    def take(self, offset: int, claims: Claims) -> bool:
        """Claim an offset; False if somebody else has."""
        with self._lock:
            if offset in self._held:
                return self._held[offset] is claims
            if self._file is not None:
                try:
                    fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
                except BlockingIOError:
                    return False
            self._held[offset] = claims
            return True

    def leave(self, offset: int, claims: Claims) -> None:
        """Give a claim back."""
        with self._lock:
            if self._held.get(offset) is claims:
                del self._held[offset]
                if self._file is not None:
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, offset)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._came.close()
            os.close(self._file)


_desks: dict[str, Desk] = {}
_lock = threading.Lock()


class Claims:
    """The claims of one batch.

    Parameters
    ----------
    path : Path
        The store's file.
    family : str
        What its questions have in common.
    """

    def __init__(self, path: Path, family: str) -> None:
        self._name = os.path.realpath(path)
        self._family = family
        self._mine: set[int] = set()
        with _lock:
            if self._name not in _desks:
                _desks[self._name] = Desk(path)
            self._desk = desk = _desks[self._name]
            desk.users += 1
            desk.batches[family] += 1
            desk.came[family] += 1
            self._company, self._with_me = desk.batches[family] > 1, desk.came[family]

    @property
    def alone(self) -> bool:
        """Whether no other batch can have asked questions of this family since this one came."""
        return self._desk.alone and not self._company and self._desk.came[self._family] == self._with_me

    def take(self, question: Question, occurrence: int) -> bool:
        """Claim a question; False if somebody else asks it just now."""
        offset = _offset(question, occurrence)
        taken = self._desk.take(offset, self)
        if taken:
            self._mine.add(offset)
        return taken

    def leave(self, question: Question, occurrence: int) -> None:
        """Give a claim back: it was answered, or will not be."""
        offset = _offset(question, occurrence)
        if offset in self._mine:
            self._mine.discard(offset)
            self._desk.leave(offset, self)

    def end(self) -> None:
        """Give all claims back."""
        for offset in list(self._mine):
            self._desk.leave(offset, self)
        self._mine.clear()
        with _lock:
            self._desk.batches[self._family] -= 1
            self._desk.users -= 1
            if not self._desk.users and _desks.get(self._name) is self._desk:
                del _desks[self._name]
                self._desk.close()


def _forget_after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _desks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
