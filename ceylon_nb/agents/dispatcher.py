"""The dispatcher of a mesh: which loop it is on, what is on its way there, and who waits for what.

A mesh is on the loop of whoever uses it first, for as long as anything is on its way or somebody waits; then it may
move to another. So nothing of it is left on a loop when it has nothing to do, and it may be used in one cell with
``await`` and in the next one without. Whoever calls from another loop or thread meanwhile is answered there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..errors import ConfigurationError, MeshError, MeshStopped, NoSuchAgent, QueryTimeout, WrongLoop
from ..interrupts import explained
from ..loop import FAREWELL, call_in, cancel_once, clock, run_sync, running
from ..timeouts import PatientTimer, patient_timeout
from .circles import ANSWER, END, ROOM, check_circle
from .envelope import ENDED, NEVER, QUEUED, WAITING, Envelope, current
from .mailbox import Mailbox, log
from .traffic import AgentStats, Stats, Traffic

T = TypeVar("T")

GLANCE = 0.5
"""Seconds between two looks at whether somebody else's loop is still there."""


class Dispatcher:
    """What takes a mesh's messages to the mailboxes of its agents.

    Parameters
    ----------
    name : str
        The mesh's.
    traffic : Traffic
        What keeps its trace.
    context : callable
        Makes of an envelope what its handler is handed.

    Attributes
    ----------
    mailboxes : dict of str to Mailbox
        Of the agents that are there.
    """

    def __init__(self, name: str, traffic: Traffic, context: Callable[[Envelope], Any]) -> None:
        self.mailboxes: dict[str, Mailbox] = {}
        self._name = name
        self._traffic = traffic
        self._context = context
        self._gone: list[Mailbox] = []  # removed, and perhaps not yet at rest
        self._past: list[AgentStats] = []
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open = self._visits = 0  # envelopes that are on their way, and calls that are at work on this loop
        self._ending: asyncio.AbstractEventLoop | None = None
        self._stopped = False
        self._idle: list[asyncio.Future[None]] = []

    @property
    def stats(self) -> Stats:
        """How the mesh stands."""
        there = {name: mailbox.stats for name, mailbox in list(self.mailboxes.items())}
        return Stats.of(there, [*self._past, *(mailbox.stats for mailbox in self._gone)])

    # -- agents -------------------------------------------------------------------------------------------------

    def add(self, mailbox: Mailbox) -> None:
        """Add an agent, with its mailbox.

        Raises
        ------
        ConfigurationError
            There is one of that name.
        """
        name = mailbox.name
        with self._lock:
            if name in self.mailboxes:
                raise ConfigurationError(f"There is an agent {name!r} in {self._name!r}: remove it, or name this one.")
            self.mailboxes[name] = mailbox

    def remove(self, name: str) -> Mailbox:
        """Take an agent out; what waits in its mailbox fails with NoSuchAgent."""
        with self._lock:
            mailbox = self.mailboxes.pop(name, None)
            if mailbox is None:
                raise self._nobody(name)
            self._past += [each.stats for each in self._gone if not each.envelopes]
            self._gone = [*(each for each in self._gone if each.envelopes), mailbox]
            home = self._loop if self._open else None
        if home is not None:
            gone = NoSuchAgent(f"{name!r} was removed from {self._name!r} before it came to this.")
            call_in(home, mailbox.turn_away, gone)
        return mailbox

    def _nobody(self, name: object) -> NoSuchAgent:
        there = ", ".join(map(repr, self.mailboxes)) or "nobody yet: mesh.add_agent(…)"
        return NoSuchAgent(f"There is no agent {name!r} in {self._name!r}. There is {there}.")

    # -- the loop -----------------------------------------------------------------------------------------------

    async def at_home(self, function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Await one of the methods below on the mesh's loop, which is this one if the mesh has nothing to do."""
        here = asyncio.get_running_loop()
        with self._lock:
            if self._loop is not here or self._ending is here:
                self._settle(here)
            home = self._loop
            if home is here:
                self._visits += 1
        if home is not here:
            assert home is not None
            return await self._from_afar(home, function, *args)
        try:
            return await function(*args)
        finally:
            with self._lock:
                self._visits -= 1

    async def _from_afar(
        self, home: asyncio.AbstractEventLoop, function: Callable[..., Coroutine[Any, Any, T]], *args: object
    ) -> T:
        """Await it there; that loop may end before, and then somebody else's work is no reason to wait for ever."""
        here = asyncio.get_running_loop()
        ended: asyncio.Future[asyncio.Task[T]] = here.create_future()
        task: asyncio.Task[T] | None = None

        def begin() -> None:  # no coroutine before, or one that a closed loop never begins would be complained of
            nonlocal task
            if not ended.done() and self._ending is not home:
                task = home.create_task(self.at_home(function, *args))
                task.add_done_callback(lambda done: call_in(here, finish, done))

        def finish(done: asyncio.Task[T]) -> None:
            if not ended.done():
                ended.set_result(done)

        def give_up() -> None:
            if task is not None:
                cancel_once(task)

        call_in(home, begin)
        try:
            while not ended.done() and not home.is_closed() and self._ending is not home:
                await asyncio.wait([ended], timeout=GLANCE)
        finally:
            if not ended.done():
                ended.cancel()
                call_in(home, give_up)
        if ended.cancelled() or ended.result().cancelled():
            raise MeshStopped(f"The loop on which {self._name!r} was at work has ended: send it again.")
        return ended.result().result()

    def loop_ends(self) -> None:
        """Somebody else cancelled a handler: if all of the loop's tasks, it is about to end, and nothing may begin."""
        ours = {task for mailbox in self.all for task in mailbox.at_work.values()}
        if any(not task.cancelling() for task in asyncio.all_tasks() - ours):
            return
        self._ending = asyncio.get_running_loop()
        for mailbox in self.all:
            mailbox.turn_away(MeshStopped(f"The loop on which {self._name!r} was at work ended before this."))

    def _settle(self, here: asyncio.AbstractEventLoop) -> None:
        """Make this the mesh's loop, if it is free to move; call with the lock held."""
        if self._loop is not None and self._loop.is_closed():  # and was before all was done
            self._open = self._visits = 0
            self._idle.clear()
            for mailbox in self.all:
                mailbox.clear(MeshStopped(f"The loop on which {self._name!r} was at work was closed."))
        if not (self._open or self._visits):
            self._loop, self._ending = here, None

    def sync(self, name: str, function: Callable[..., Coroutine[Any, Any, T]], *args: object) -> T:
        """Wait for a coroutine function, known by that name, where nothing can be awaited.

        Raises
        ------
        WrongLoop
            The mesh is at work on the very loop that would be kept from going on.
        """
        here = running()
        with self._lock:
            blocks = here is not None and self._loop is here and bool(self._open or self._visits)
        if blocks:
            raise WrongLoop(
                f"{self._name!r} is at work on this loop, which a call that does not await would stop: write "
                f"`await mesh.{name}(…)`."
            )
        with explained(lambda: f"Interrupted in {name}_sync, before it had ended."):
            return run_sync(function(*args))

    # -- messages; on the mesh's loop ---------------------------------------------------------------------------

    def _post(self, target: str, payload: object, kind: str, deadline: float = NEVER) -> Envelope:
        if self._stopped:
            raise MeshStopped(f"{self._name!r} was stopped; mesh.start() begins again.")
        if self._ending is not None and self._ending is self._loop:
            raise MeshStopped(f"The loop on which {self._name!r} is at work is about to end.")
        mailbox = self.mailboxes.get(target)
        if mailbox is None:
            raise self._nobody(target)
        asker = current.get()
        if asker is not None:
            if kind == "query":
                if not asker.has_ended:
                    deadline = min(deadline, asker.deadline)
                check_circle(asker, mailbox, ANSWER)
            elif mailbox.is_full:
                check_circle(asker, mailbox, ROOM)
        sender = None if asker is None else asker.passage.target
        passage = self._traffic.begin(sender, target, kind, payload)
        envelope = Envelope(mailbox, payload, passage, deadline, one_way=kind in ("message", "broadcast"))
        envelope.context = self._context(envelope)
        with self._lock:
            self._open += 1
        mailbox.post(envelope)
        return envelope

    def left(self) -> None:
        """An envelope is on its way no more."""
        with self._lock:
            self._open -= 1
        if self._idle and not self._open:
            for future in self._idle:
                if not future.done():
                    future.set_result(None)

    async def send(self, target: str, payload: object, kind: str) -> Envelope:
        """Send something, and wait until it is in the mailbox."""
        envelope = self._post(target, payload, kind)
        if envelope.stage == WAITING:
            await _wait(envelope, QUEUED)
        return envelope

    async def send_all(self, targets: list[str], payload: object) -> None:
        """Send something to each, and wait until all have it in their mailboxes."""
        for target in targets:
            if self.mailboxes[target].is_full:
                check_circle(current.get(), self.mailboxes[target], ROOM)
        envelopes = [self._post(target, payload, "broadcast") for target in targets]
        try:
            for envelope in envelopes:
                await _wait(envelope, QUEUED)
        except asyncio.CancelledError:
            for envelope in envelopes:
                if envelope.stage == WAITING:
                    envelope.cancel(MeshError("It was withdrawn by its sender."))
            raise

    async def ask(self, target: str, payload: object, timeout: float | None) -> Any:
        """Send something, and wait for the answer; whoever does not wait for it any more cancels it."""
        deadline = NEVER if timeout is None else clock() + timeout
        envelope = self._post(target, payload, "query", deadline)
        timer = None
        if envelope.deadline == deadline != NEVER:  # an earlier one is of a handler that asks, which is cancelled then
            timer = PatientTimer(envelope.remaining(), lambda: envelope.cancel(_too_late(envelope)))
        try:
            await _wait(envelope, ENDED)
        except asyncio.CancelledError:
            envelope.cancel(MeshError("Whoever asked does not wait for the answer any more."))
            raise
        finally:
            if timer is not None:
                timer.stop()
        return envelope.outcome()

    async def see_ended(self, envelopes: list[Envelope], timeout: float | None, late: Callable[[], Exception]) -> None:
        """Wait until all of them have ended; if that takes too long, raise what `late` makes, and let them go on."""
        try:
            async with patient_timeout(timeout):
                for envelope in envelopes:
                    check_circle(current.get(), envelope, END)
                    await _wait(envelope, ENDED)
        except TimeoutError:
            raise late() from None

    async def rest(self) -> None:
        """Wait until nothing is on its way."""
        while self._open:
            future = asyncio.get_running_loop().create_future()
            self._idle.append(future)
            try:
                await future
            finally:
                self._idle.remove(future)

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take messages again."""
        self._stopped = False

    def stop(self) -> None:
        """Take no more messages, and cancel what is on its way."""
        self._stopped = True
        with self._lock:
            home = self._loop if self._open else None
        if home is not None:
            call_in(home, self._cancel_all)

    async def end(self) -> None:
        """See to it that nobody works any more, but for the handler that may have called this.

        Who does not end within FAREWELL seconds is named in the log: a function that blocks, or one that will not stop.
        """
        self._cancel_all()
        me = current.get()
        tasks = {
            task: mailbox.name
            for mailbox in self.all
            for envelope, task in mailbox.at_work.items()
            if envelope is not me
        }
        if tasks:
            _, busy = await asyncio.wait(tasks, timeout=FAREWELL)
            if busy:
                names = ", ".join(sorted({tasks[task] for task in busy}))
                log.warning("%s was stopped, and %s did not end within %g s", self._name, names, FAREWELL)

    def _cancel_all(self) -> None:
        me, why = current.get(), MeshStopped(f"{self._name!r} was stopped before this was answered.")
        for mailbox in self.all:
            mailbox.turn_away(why)
            for envelope in list(mailbox.at_work):
                if envelope is not me:
                    envelope.cancel(why)

    @property
    def all(self) -> list[Mailbox]:
        """The mailboxes, those of agents that were removed and may still be at work among them."""
        return [*self.mailboxes.values(), *self._gone]


async def _wait(envelope: Envelope, stage: int) -> None:
    """Wait until an envelope has come so far, and let it be known that the handler that runs here does."""
    asker = current.get()
    if asker is not None:
        asker.waits[envelope] = stage
    try:
        await (envelope.accepted() if stage == QUEUED else envelope.ended())
    finally:
        if asker is not None:
            asker.waits.pop(envelope, None)


def _too_late(envelope: Envelope) -> QueryTimeout:
    name, seconds = envelope.mailbox.name, clock() - envelope.sent
    blocks = any(not thread.done() for thread in envelope.threads)
    if envelope.passage.waited is None:
        return QueryTimeout(
            f"{name} did not come to it within {seconds:.3g} s, as it is at {len(envelope.mailbox.at_work)} others. "
            "Raise timeout, or add it with a larger max_at_once."
        )
    became = "it goes on in its thread, and is busy until then" if blocks else "its work is cancelled"
    return QueryTimeout(f"{name} gave no answer within {seconds:.3g} s; {became}. Raise timeout.")
