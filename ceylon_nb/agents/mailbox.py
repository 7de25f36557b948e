"""Mailbox: one agent's messages, in order, so many at a time, each in a task of its own.

Everything here happens on one loop, the mesh's.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import MeshError
from ..loop import retrieve
from ..retry import time_left
from . import threads
from .envelope import NEVER, QUEUED, Envelope, current
from .toolloop import acted
from .traffic import AgentStats

if TYPE_CHECKING:
    from ..messages import Done
    from .agent import Agent

log = logging.getLogger("ceylon_nb.mesh")
log.addHandler(logging.NullHandler())  # heard by whoever sets up logging; nothing is printed


class Mailbox:
    """An agent of a mesh: what waits for it, and what it is at.

    Parameters
    ----------
    agent : Agent
    size : int
        Messages that wait at the most; whoever sends more waits for room.
    max_at_once : int
        Messages that it handles at a time; in the order in which they came.
    left : callable
        Called when an envelope has left it: it has ended, and so has its handler.
    loop_ends : callable
        Called when it seems that the loop is about to end.
    acted : callable
        Told of each action that a model has the agent do.
    """

    def __init__(
        self,
        agent: Agent,
        size: int,
        max_at_once: int,
        left: Callable[[], object],
        loop_ends: Callable[[], object],
        acted: Callable[[str, Done], object],
    ) -> None:
        self.agent = agent
        self.name = agent.name()
        self.size = size
        self.max_at_once = max_at_once
        self.at_work: dict[Envelope, asyncio.Task[None]] = {}
        self._left = left
        self._loop_ends = loop_ends
        self._acted = acted
        self._queue: deque[Envelope] = deque()
        self._room: deque[Envelope] = deque()
        self._received = self._handled = self._failed = self._cancelled = 0

    @property
    def stats(self) -> AgentStats:
        """How it stands."""
        return AgentStats(
            self._received,
            self._handled,
            self._failed,
            self._cancelled,
            len(self._queue) + len(self._room),
            len(self.at_work),
            self.size,
            self.max_at_once,
        )

    @property
    def is_full(self) -> bool:
        """Whether the next envelope has to wait for room."""
        return len(self._queue) >= self.size

    @property
    def envelopes(self) -> list[Envelope]:
        """All that have not ended."""
        return [*self.at_work, *self._queue, *self._room]

    def post(self, envelope: Envelope) -> None:
        """Take an envelope: to be handled at once, to wait in the mailbox, or to wait for room there."""
        self._received += 1
        if len(self.at_work) < self.max_at_once:  # so nothing waits
            self._begin(envelope)
        elif len(self._queue) < self.size and not self._room:
            self._queue.append(envelope)
            envelope.queue()
        else:
            self._room.append(envelope)

    def drop(self, envelope: Envelope) -> None:
        """Take out an envelope that waits."""
        (self._queue if envelope.stage == QUEUED else self._room).remove(envelope)
        self._left()
        self._next()

    def clear(self, why: Exception) -> None:
        """Forget all there is, of a loop that is closed."""
        envelopes = self.envelopes
        self.at_work.clear()
        self._queue.clear()
        self._room.clear()
        for envelope in envelopes:
            envelope.abandon(why)

    def turn_away(self, why: Exception) -> None:
        """Take out all that waits."""
        envelopes = [*self._queue, *self._room]
        self._queue.clear()
        self._room.clear()
        for envelope in envelopes:
            envelope.cancelled = True
            envelope.end(error=why)
            self._left()

    def count(self, envelope: Envelope) -> None:
        """Count an envelope that has ended."""
        if envelope.error is None:
            self._handled += 1
        elif envelope.cancelled:
            self._cancelled += 1
        else:
            self._failed += 1

    async def handle(self, envelope: Envelope) -> None:
        """Have the agent handle an envelope, and then the next."""
        envelope.begun = True
        current.set(envelope)
        acted.set(self._acted)
        threads.running.set(envelope.threads)
        if envelope.deadline != NEVER:
            time_left.set(envelope.time_left)
        try:
            if not envelope.has_ended:
                envelope.end(await self.agent.handle(envelope.payload, envelope.context))
        except asyncio.CancelledError:
            self._fail(envelope, MeshError(f"{self.name} was cancelled while it handled a message."))
            if envelope.was_cancelled and not envelope.cancelled:  # by somebody else, as by a loop that ends
                self._loop_ends()
        except (KeyboardInterrupt, GeneratorExit):  # with nesting ■ may end any task
            self._fail(envelope, MeshError(f"{self.name} was interrupted while it handled a message."))
            raise
        except BaseException as error:  # noqa: BLE001 - it is for whoever asked
            self._fail(envelope, self._note(envelope, error))
        finally:
            if envelope in self.at_work:  # or its loop was closed, and all is forgotten
                if envelope.threads and (envelope.cancelled or not envelope.was_cancelled):
                    await self._outlast(envelope)  # what blocks goes on, and the agent does one thing at a time
                self._over(envelope)

    def _begin(self, envelope: Envelope) -> None:
        self.at_work[envelope] = task = envelope.work()
        task.add_done_callback(functools.partial(self._see_over, envelope))

    def _see_over(self, envelope: Envelope, task: asyncio.Task[None]) -> None:
        """A task that is cancelled before its first step never gets to `handle`."""
        retrieve(task)
        if envelope in self.at_work:
            self._fail(envelope, MeshError(f"{self.name} was cancelled before it handled a message."))
            self._over(envelope)

    def _over(self, envelope: Envelope) -> None:
        del self.at_work[envelope]
        envelope.forget()
        self._left()
        self._next()

    def _fail(self, envelope: Envelope, error: BaseException) -> None:
        if envelope.one_way and not envelope.has_ended:
            sender = envelope.passage.sender
            whose = f" from {sender}" if sender else ""
            log.error("%s failed at a message%s that nobody waits for", self.name, whose, exc_info=error)
        envelope.end(error=error)

    def _note(self, envelope: Envelope, error: BaseException) -> BaseException:
        sender = envelope.passage.sender
        note = f"Raised by the agent {self.name!r}, which was asked by {repr(sender) if sender else 'you'}."
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        return error

    @staticmethod
    async def _outlast(envelope: Envelope) -> None:
        unfinished = [each for each in envelope.threads if not each.done()]
        if unfinished:
            with contextlib.suppress(asyncio.CancelledError):  # of a loop that ends: it need not wait
                await asyncio.wait(unfinished)

    def _next(self) -> None:
        while self._queue and len(self.at_work) < self.max_at_once:
            self._begin(self._queue.popleft())
        while self._room and len(self._queue) < self.size:
            envelope = self._room.popleft()
            if len(self.at_work) < self.max_at_once:
                self._begin(envelope)
            else:
                self._queue.append(envelope)
                envelope.queue()
