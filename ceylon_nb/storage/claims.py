"""Claims: who is asking what just now, so that two batches on one store, also of two kernels, never pay for one answer.

Between the batches of one process a table of what is claimed does it. Between processes a claim is a lock on one byte
of a file beside the store, at an offset that is the question's own number: nothing is written, and the claims of a
process that is killed are gone with it.

Whoever is alone takes no locks (each costs the more the more there are), and need not look into the store before it
asks something new. The file tells: each process that uses the store holds a shared lock on one byte, and adds one to
the number of those that ever came when it comes. Who was alone sees that within `NOTICE` seconds, and locks what it
has claimed; who comes waits for twice as long before it claims anything.

Where there are no such locks (Windows, and network file systems, where they are slow or worse), claims hold within one
process.

Source: POSIX ``fcntl`` advisory record locks; that they end when a process closes *any* descriptor of the file is why
there is one descriptor for each file, kept for as long as a batch uses it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..loop import clock
from . import place
from .identity import Question

if sys.platform != "win32":
    import fcntl


log = logging.getLogger("ceylon_nb")

PATIENCE = 2.0
"""Seconds that another process may take to arrive."""

NOTICE = 0.1
"""Seconds within which a process sees that it is not alone any more, unless it computes."""

GLANCE = NOTICE / 5
"""Seconds between two looks of whoever goes on claiming: a look at each claim is a read of the file each, and gives the
interpreter's lock away to whoever waits for it."""

PRESENT = 2**62
ARRIVING = 2**62 + 1
"""Bytes beyond all questions' own, locked by those who are there (shared) and by the one who arrives (for a moment)."""


def _offset(question: Question, occurrence: int) -> int:
    return (question.number + occurrence) & (2**62 - 1)


def _locked(file: int | None, offset: int) -> bool:
    """Whether this process has the lock on a byte now."""
    assert file is not None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
    except (BlockingIOError, PermissionError):  # POSIX leaves it to the system which of them it is
        return False
    return True


def _number(file: int) -> int:
    """How many processes have ever come."""
    return int.from_bytes(os.pread(file, 8, 0), "big")


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
        self._accompanied = False
        self._waits_until = self._looks_at = 0.0
        if sys.platform != "win32" and not place.is_network(place.filesystem(path)):
            self._open(path)

    def _open(self, path: Path) -> None:
        """Tell other processes that this one has come. Where that cannot be done, claims hold within this process."""
        file = None
        try:
            mode = path.stat().st_mode & 0o777  # whoever may use the store may claim
            file = os.open(f"{path}-claims", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
            self._arrive(file)
        except OSError as error:
            log.warning("Other kernels on the store %s may ask the same: %s", path, error)
            if file is not None:
                os.close(file)
        else:
            self._file = file

    def _arrive(self, file: int) -> None:
        until = clock() + PATIENCE
        while not _locked(file, ARRIVING):
            if clock() > until:
                raise TimeoutError("another process does not let this one arrive")
            time.sleep(0.01)
        if not _locked(file, PRESENT):
            self._accompanied = True
            self._waits_until = clock() + 2 * NOTICE
        fcntl.lockf(file, fcntl.LOCK_SH, 1, PRESENT)
        self._came = _number(file) + 1
        os.pwrite(file, self._came.to_bytes(8, "big"), 0)
        fcntl.lockf(file, fcntl.LOCK_UN, 1, ARRIVING)

    @property
    def alone(self) -> bool:
        """Whether no other process has used the store since this one came."""
        return not self._accompanied

    def watch(self) -> None:
        """Lock what is claimed, if somebody has come."""
        with self._lock:
            self._watch()

    def _watch(self) -> None:
        self._looks_at = clock() + GLANCE
        if self._file is None or self._accompanied or _number(self._file) == self._came:
            return
        self._accompanied = True
        for offset in self._held:
            _locked(self._file, offset)

    def take(self, offset: int, claims: Claims) -> bool:
        """Claim an offset; False if somebody else has, or may have for all that is known yet."""
        with self._lock:
            if clock() >= self._looks_at:
                self._watch()
            if offset in self._held:
                return self._held[offset] is claims
            if self._accompanied and (clock() < self._waits_until or not _locked(self._file, offset)):
                return False
            self._held[offset] = claims
            return True

    def leave(self, offsets: Iterable[int], claims: Claims) -> None:
        """Give claims back."""
        with self._lock:
            self._leave(offsets, claims)

    def leave_all(self, claims: Claims) -> None:
        """Give all claims of a batch back."""
        with self._lock:
            self._leave([offset for offset, owner in self._held.items() if owner is claims], claims)

    def _leave(self, offsets: Iterable[int], claims: Claims) -> None:
        for offset in offsets:
            if self._held.get(offset) is claims:
                del self._held[offset]
                if self._accompanied and self._file is not None:
                    fcntl.lockf(self._file, fcntl.LOCK_UN, 1, offset)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None


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
        with _lock:
            if self._name not in _desks:
                _desks[self._name] = Desk(Path(self._name))
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
        return self._desk.take(_offset(question, occurrence), self)

    def leave(self, asked: Iterable[tuple[Question, int]]) -> None:
        """Give claims back: these questions were answered, or will not be."""
        self._desk.leave((_offset(question, occurrence) for question, occurrence in asked), self)

    def end(self) -> None:
        """Give all claims back."""
        self._desk.leave_all(self)
        with _lock:
            self._desk.batches[self._family] -= 1
            self._desk.users -= 1
            if not self._desk.users and _desks.get(self._name) is self._desk:
                del _desks[self._name]
                self._desk.close()


def watch() -> None:
    """See who has come; to be called every `NOTICE` seconds."""
    for desk in list(_desks.values()):
        desk.watch()


def _forget_after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    _desks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
