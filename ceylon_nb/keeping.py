"""Keeper: where a row's outcome goes. With a store it is committed first and shown then; without, shown at once."""

from __future__ import annotations

import asyncio
import copy
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .answers import FAILED, OK, Answers
from .errors import ConfigurationError, StoreError, drop_tracebacks
from .loop import clock
from .storage.entries import Entry, Found, storable
from .storage.identity import Occurrences, Question
from .storage.ledger import Counts, Ledger

log = logging.getLogger("ceylon_nb")

MOST = 4096
"""Rows that may wait for the disk before nothing new is asked."""
PAUSE = 0.02
"""Seconds between two looks whether they still do, and between the first two whether another batch has an answer."""
LONG = 10.0
"""Seconds of waiting for another batch after which that is said."""
LONGEST_PAUSE = 0.5
"""Seconds between two of those, at the most."""


_ELSEWHERE = object()


@dataclass(slots=True)
class _Lead:
    """The one row that asks what others ask as well, and what became of it."""

    position: int
    followers: list[int] = field(default_factory=list)
    entry: Entry | None = None


class Keeper:
    """Numbers a batch's questions, finds the answers that there are, and keeps those that come.

    Parameters
    ----------
    answers : Answers
        Where they are shown.
    identify : callable or None
        Takes a question, returns what it is known by; None if nothing is stored and no two questions are alike.
    dedupe : bool
        Ask equal questions once.

    Attributes
    ----------
    error : StoreError or None
        Why the store cannot be written; what is not on disk is shown all the same.
    changed : callable
        Called, in any thread, when rows have been shown, the store is open, or it failed.
    """

    def __init__(self, answers: Answers, identify: Callable[[Any], Question] | None, *, dedupe: bool) -> None:
        self.answers = answers
        self.error: StoreError | None = None
        self.changed: Callable[[], None] = lambda: None
        self._identify = identify
        self._dedupe = dedupe
        self._ledger: Ledger | None = None
        self._occurrences = Occurrences()
        self._counted = 0
        self._repeated: dict[int, int] = {}
        self._asked: dict[int, tuple[Question, int]] = {}
        self._leads: dict[bytes, _Lead] = {}
        self._on_their_way: dict[Entry, None] = {}
        self._lock = threading.Lock()
        self._open = False
        self._answered = threading.Event()
        self._said: set[str] = set()

    # -- the store ----------------------------------------------------------------------------------------------

    def use(self, ledger: Ledger | None) -> None:
        """Write to this ledger from now on, and to it what is on its way to the disk. No row may be in flight."""
        with self._lock:  # what the old one says from now on is not listened to
            before, self._ledger = self._ledger, ledger
            waiting, self._on_their_way = self._on_their_way, {}
            self._open, self.error = False, None
        if before is not None:
            before.give_up()
        for entry in waiting:
            self._submit(replace(entry, ledger=ledger))
            entry.home = _ELSEWHERE  # nothing links to it: its copy is what is written

    @property
    def unwritten(self) -> int:
        """How many rows are on their way to the disk."""
        return len(self._on_their_way)

    @property
    def path(self) -> Path | None:
        """The store's file; None if there is none."""
        return self._ledger.path if self._ledger is not None else None

    @property
    def ready(self) -> bool:
        """Whether rows may be worked on."""
        return self._ledger is None or (self._open and self._answered.is_set() and self.error is None)

    @property
    def settled(self) -> bool:
        """Whether everything is shown."""
        return self.error is not None or not self.unwritten

    async def room(self) -> None:
        """Return when no more than MOST rows wait for the disk: nothing more should be asked until then."""
        while (self.unwritten >= MOST and self.error is None) or (self.answers.behind and self.answers.trouble is None):  # noqa: ASYNC110 - rare; not worth a thousand futures
            await asyncio.sleep(PAUSE)

    def open(self) -> None:
        """Have the store ready; `changed` is called when it is, or when it cannot be."""
        if self._ledger is not None and not (self._open and self.error is None):
            self._open, self.error = True, None
            self._answered.clear()
            self._ledger.open()

    def wait(self, seconds: float) -> None:
        """Wait for the store to be ready, not for long.

        Raises
        ------
        StoreError
            It cannot be.
        """
        if self._ledger is not None and self._answered.wait(seconds) and self.error is not None:
            self._ledger.give_up()
            raise self.error

    def flush(self) -> None:
        """Write what there is without waiting for more."""
        if self._ledger is not None:
            self._ledger.flush()

    def close(self) -> None:
        """Let go of the file."""
        if self._ledger is not None:
            self._open = False
            self._ledger.close()

    def counts(self, total: int | None) -> Counts:
        """How the batch stands, by what is shown."""
        counts = self.answers.counts
        return Counts(total, counts[OK], counts[FAILED], self.answers.reused)

    # -- rows ---------------------------------------------------------------------------------------------------

    async def already(self, position: int, question: Any) -> bool:
        """Whether nobody need be asked for this row: its answer is in the store, or another row asks the same.

        Raises
        ------
        StoreError
            The store cannot be read.
        """
        if self._identify is None or not (self._ledger or self._dedupe):
            return False
        known = self._identify(question)
        if self._dedupe and self._follows(position, known):
            return True
        occurrence = 0 if self._dedupe else self._occurrence(position, known)
        self._asked[position] = known, occurrence
        ledger = self._ledger
        found = await self._found(ledger, known, occurrence) if ledger is not None else None
        if ledger is None or found is None:
            return False
        del self._asked[position]
        reply, attempts, latency = found.reply, found.attempts, found.latency
        entry = Entry(ledger, position, OK, reply, None, attempts, latency, known, occurrence, found.id)
        entry.home = ledger.home
        self._settle(entry)
        return True

    async def _found(self, ledger: Ledger, question: Question, occurrence: int) -> Found | None:
        """The answer in the store, if need be once another batch has it; None if this one is to ask."""
        pause, began = PAUSE, clock()
        while not ledger.claim(question, occurrence):
            if clock() - began > LONG:
                self._say_that_it_waits()
            found = await ledger.find(question, occurrence)
            if found is not None:
                return found
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return await ledger.find(question, occurrence) if ledger.remembers else None

    def keep(
        self,
        position: int,
        status: int,
        reply: Any = None,
        error: Exception | None = None,
        attempts: int = 0,
        latency: float = math.nan,
    ) -> None:
        """Take a row's outcome, ok or failed."""
        ledger = self._ledger
        if status == OK and (ledger is not None or not self.answers.keeps) and not storable(reply):
            said = f"a {type(reply).__name__} is not stored, only what JSON can say: text, numbers, lists, dicts"
            if self.answers.keeps:
                ledger = None
                self._warn(f"{said[0].upper()}{said[1:]}. Such replies are in run.frame alone")
            else:
                status, reply, error = FAILED, None, ConfigurationError(f"Without a frame, {said}.")
        question, occurrence = self._asked.pop(position, (None, 0))
        if ledger is None and self._ledger is not None and question is not None:
            self._ledger.unclaim((question, occurrence))
        self._settle(Entry(ledger, position, status, reply, error, attempts, latency, question, occurrence))

    def release(self, position: int) -> list[int]:
        """Forget that a row was asked for, without an outcome; returns the rows that waited for the same answer."""
        known = self._asked.pop(position, None)
        if known is None:
            return []
        if self._ledger is not None:
            self._ledger.unclaim(known)
        if not self._dedupe:
            return []
        lead = self._leads.pop(known[0].digest)
        return lead.followers

    def _occurrence(self, position: int, question: Question) -> int:
        """Which of several equal questions of the batch this is; a row that is asked again stays the same one."""
        if position < self._counted:
            return self._repeated.get(position, 0)
        self._counted = position + 1
        occurrence = self._occurrences.count(question)
        if occurrence:
            self._repeated[position] = occurrence
        return occurrence

    def _follows(self, position: int, question: Question) -> bool:
        lead = self._leads.get(question.digest)
        if lead is None or lead.position == position or (lead.entry is not None and lead.entry.status == FAILED):
            self._leads[question.digest] = _Lead(position)
            return False
        if lead.entry is None:
            lead.followers.append(position)
        else:
            self._follow(position, lead.entry)
        return True

    def _settle(self, entry: Entry) -> None:
        """Take an outcome, for all rows that ask the same."""
        self._submit(entry)
        if self._dedupe and entry.question is not None:
            lead = self._leads[entry.question.digest]
            lead.entry = entry
            for follower in lead.followers:
                self._follow(follower, entry)
            lead.followers.clear()

    def _follow(self, position: int, lead: Entry) -> None:
        ledger = self._ledger if lead.ledger is not None else None
        entry = Entry(ledger, position, lead.status, lead.reply, lead.error, latency=lead.latency)
        entry.question, entry.answer, entry.leader, entry.home = lead.question, lead.answer, lead, lead.home
        self._submit(entry)

    def _submit(self, entry: Entry) -> None:
        if entry.ledger is None:
            self._show(entry)
            self.changed()
            return
        with self._lock:
            self._on_their_way[entry] = None
        entry.ledger.put(entry)

    def _say_that_it_waits(self) -> None:
        self._warn(
            "Another batch or kernel asks the same questions of the same store, and this one waits for its answers. "
            "If it stands still, end it, or ask with fresh=True"
        )

    def _warn(self, said: str) -> None:
        """Say it, once in this batch."""
        if said not in self._said:
            self._said.add(said)
            log.warning(said)

    # -- from the writer's thread -------------------------------------------------------------------------------

    def landed(self, ledger: Ledger, entries: list[Entry]) -> None:
        """Show what is on disk."""
        if ledger is not self._ledger:
            return
        for entry in entries:
            with self._lock:  # for each alone: the loop wants it for each row
                if ledger is not self._ledger:
                    return
                self._on_their_way.pop(entry, None)
                self._show(entry)
        self.error = None
        self._answered.set()
        self.changed()

    def failed(self, ledger: Ledger | None, entries: list[Entry], error: StoreError) -> None:
        """Show what cannot be written: memory is now the only place where it is."""
        with self._lock:
            if ledger is not self._ledger:
                return
            for entry in entries:
                self._show(entry)
        drop_tracebacks(error)
        if self.error is None:  # one of its own: batches that share a file add what they have to say
            self.error = copy.copy(error)
        self._answered.set()
        self.changed()

    def cannot_read(self, error: StoreError) -> None:
        """Treat a look-up that failed as what it is: a store that cannot be used."""
        self.failed(self._ledger, [], error)

    def _show(self, entry: Entry) -> None:
        if not entry.shown:
            entry.shown = True
            self.answers.set(
                entry.position, entry.status, entry.reply, entry.error, entry.attempts, entry.latency,
                from_store=entry.answer is not None,
            )  # fmt: skip
