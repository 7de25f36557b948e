"""Envelope: one message on its way through a mesh, and what became of it.

Everything here happens on one loop, the mesh's.
"""

from __future__ import annotations

import asyncio
from contextvars import Context as Variables
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

from ..errors import MeshError
from ..loop import cancel_once, clock
from .traffic import Passage

if TYPE_CHECKING:
    from .context import Context
    from .mailbox import Mailbox

current: ContextVar[Envelope | None] = ContextVar("envelope", default=None)
"""The message that is being handled here."""

WAITING, QUEUED, AT_WORK, ENDED = range(4)
"""The way of an envelope. One that waits has no room in the mailbox yet."""

NEVER = float("inf")


class Envelope:
    """One message on its way to one agent, and what became of it.

    Attributes
    ----------
    stage : int
        WAITING, QUEUED, AT_WORK or ENDED.
    deadline : float
        By `clock`.
    one_way : bool
        Nobody waits for its answer.
    answer, error
        What became of it.
    sent : float
        When, by `clock`.
    begun : bool
        Its handler runs; a task that is cancelled before that would never come to its end.
    cancelled : bool
        Its sender, a time limit or the mesh ended it.
    waits : dict of Envelope to int
        What its handler waits for, and until which stage of it.
    threads : list of Future
        Those that its handler has begun, and that no cancel ends.
    """

    __slots__ = (
        "_accepted",
        "_task",
        "_variables",
        "_waiters",
        "answer",
        "begun",
        "cancelled",
        "context",
        "deadline",
        "error",
        "mailbox",
        "one_way",
        "passage",
        "payload",
        "sent",
        "stage",
        "threads",
        "waits",
    )

    def __init__(self, mailbox: Mailbox, payload: object, passage: Passage, deadline: float, *, one_way: bool) -> None:
        self.mailbox = mailbox
        self.payload = payload
        self.passage = passage
        self.deadline = deadline
        self.one_way = one_way
        self.stage = WAITING
        self.cancelled = self.begun = False
        self.context: Context | None = None
        self.answer: Any = None
        self.error: BaseException | None = None
        self.waits: dict[Envelope, int] = {}
        self.threads: list[asyncio.Future[None]] = []
        self.sent = clock()
        self._variables: Variables | None = copy_context()
        self._task: asyncio.Task[None] | None = None
        self._accepted: asyncio.Future[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"Envelope({self.passage!r})"

    @property
    def has_ended(self) -> bool:
        """Whether anything has become of it."""
        return self.stage == ENDED

    def time_left(self) -> float:
        """The same for the work that it began; what outlives it has all the time."""
        return NEVER if self.has_ended else self.remaining()

    def remaining(self) -> float:
        """Seconds that are left for it; infinite where there is no deadline."""
        return max(0.0, self.deadline - clock())

    # -- its way ------------------------------------------------------------------------------------------------

    async def accepted(self) -> None:
        """Wait for room in the mailbox; if that wait is cancelled, it was not sent.

        Raises
        ------
        MeshError
            Agent or mesh went away.
        """
        if self.stage == WAITING:
            self._accepted = asyncio.get_running_loop().create_future()
            try:
                await self._accepted
            except asyncio.CancelledError:
                if not self.begun:  # there may be room by now
                    self.cancel(MeshError("It was withdrawn by its sender."))
                raise
            if self.stage == ENDED and self.error is not None:
                raise self.error

    async def ended(self) -> None:
        """Wait for its end, whatever that is."""
        while self.stage != ENDED:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def outcome(self) -> Any:
        """The answer, once it has ended.

        Raises
        ------
        Exception
            What the handler raised; MeshError if it was not handled.
        """
        if self.error is None:
            return self.answer
        try:
            raise self.error
        finally:
            del self  # the traceback holds this frame, which would hold the error: a circle

    def queue(self) -> None:
        """It has room now."""
        self.stage = QUEUED
        self._tell(self._accepted)

    def work(self) -> asyncio.Task[None]:
        """Have it handled, in the context of its sender."""
        self._tell(self._accepted)
        self.stage = AT_WORK
        self.passage.waited = clock() - self.sent
        loop = asyncio.get_running_loop()
        variables, self._variables = self._variables, None
        name = f"{self.passage.target} handles {self.passage.number}"
        self._task = loop.create_task(self.mailbox.handle(self), name=name, context=variables)
        return self._task

    def cancel(self, why: Exception) -> None:
        """Take it out of the mailbox, or cancel its handler; whoever waits for it is told at once."""
        if self.stage == ENDED:
            return
        self.cancelled = True
        if self.stage == AT_WORK:
            if self._task is not None and self.begun:
                cancel_once(self._task)
            self.end(error=why)
        else:
            self.mailbox.drop(self)
            self.end(error=why)

    def end(self, answer: object = None, error: BaseException | None = None) -> None:
        """Let it have ended so, if it has not ended otherwise before."""
        if self.stage == ENDED:
            return
        self.stage = ENDED
        self.answer, self.error = answer, error
        self.payload = self._variables = None
        self.passage.end(clock() - self.sent, answer, error)
        self.mailbox.count(self)
        self._tell(self._accepted, *self._waiters)
        self._waiters.clear()

    @property
    def was_cancelled(self) -> bool:
        """Whether somebody cancelled the task that handles it."""
        return self._task is not None and self._task.cancelling() > 0

    def forget(self) -> None:
        """Let go of what its handler had: a circle, which for each message would be the garbage collector's work."""
        self.waits.clear()
        self.context = self._task = None

    def abandon(self, why: Exception) -> None:
        """Let it have ended, on a loop that is closed: whoever waited there will not be told."""
        self._accepted, self.cancelled = None, True
        self._waiters.clear()
        self.end(error=why)

    @staticmethod
    def _tell(*futures: asyncio.Future[None] | None) -> None:
        for future in futures:
            if future is not None and not future.done():
                future.set_result(None)
