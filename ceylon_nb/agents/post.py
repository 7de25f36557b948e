"""Post: messages between the agents of a mesh, one way, with an answer, or with one that is collected later."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import CircularQuery, MeshError, QueryTimeout
from ..interrupts import explained
from ..loop import awake, clock
from ..policy import check_options
from .dispatcher import Dispatcher
from .envelope import Envelope, current

TIMEOUT = 60.0
"""Seconds that an answer is waited for, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that was submitted and has not ended.

    Attributes
    ----------
    id : str
        What `LocalMesh.submit` gave, and `LocalMesh.wait_for` takes.
    target : str
        The agent's name.
    elapsed : float
        Seconds since it was submitted.
    """

    id: str
    target: str
    elapsed: float


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a request that was submitted.

    Attributes
    ----------
    id : str
        What `LocalMesh.submit` gave.
    target : str
        The agent's name.
    answer : object
        What its handler returned; None if there is an error.
    error : BaseException or None
        What its handler raised, or why it was not handled.
    latency : float
        Seconds, from its submission to its end.
    """

    id: str
    target: str
    answer: Any
    error: BaseException | None
    latency: float


class Post:
    """The half of a `LocalMesh` that sends messages, and waits for answers.

    Attributes
    ----------
    name : str
        The mesh's.
    """

    def __init__(self, name: str, dispatcher: Dispatcher) -> None:
        self.name = name
        self._dispatcher = dispatcher
        self._submitted: dict[str, Envelope] = {}

    async def send_to(self, target: str, payload: object) -> None:
        """Send a message one way; returns once it is in the mailbox.

        What its handler raises is logged (``logging.getLogger("ceylon_nb.mesh")``), and counted in `LocalMesh.stats`.

        Parameters
        ----------
        target : str
            The agent's name.
        payload : object
            What `Agent.on_message` is handed; for an `LlmAgent` a text or messages.

        Raises
        ------
        NoSuchAgent
            Nobody of that name is there, or was any more when there was room.
        CircularQuery
            The mailbox is full, and its agent waits for whoever sends this.
        MeshStopped
            The mesh was stopped.

        Examples
        --------
        >>> from ceylon_nb import Agent, LocalMesh
        >>> class Diary(Agent):
        ...     entries = []
        ...     def on_message(self, message):
        ...         self.entries.append(message)
        >>> async with LocalMesh() as mesh:
        ...     name = mesh.add_agent(Diary("diary"))
        ...     await mesh.send_to("diary", "It rained.")
        ...     await mesh.send_to("diary", "It stopped.")
        >>> Diary.entries
        ['It rained.', 'It stopped.']
        """
        await self._dispatcher.at_home(self._dispatcher.send, target, payload, "message")

    async def query(self, target: str, payload: object, timeout: float | None = TIMEOUT) -> Any:
        """Ask an agent, and return its answer.

        Parameters
        ----------
        target : str
            Its name.
        payload : object
            What `Agent.on_message` is handed; for an `LlmAgent` a text or messages.
        timeout : float or None
            Seconds, in the mailbox and with the agent. A handler that asks has no more than is left for its own.

        Returns
        -------
        object
            What the handler returned; of an `LlmAgent` a `Reply`.

        Raises
        ------
        Exception
            What the handler raised.
        NoHandler
            The agent has no ``on_message``.
        QueryTimeout
            No answer in time: what the query had begun is cancelled.
        CircularQuery
            The agent waits for whoever asks.
        NoSuchAgent, MeshStopped
            Nobody of that name is there; or not any more, before there was an answer.
        ConfigurationError
            `timeout` is no number above 0.

        Examples
        --------
        >>> from ceylon_nb import Agent, LocalMesh
        >>> class Adder(Agent):
        ...     def on_message(self, message):
        ...         return sum(message)
        >>> async with LocalMesh() as mesh:
        ...     name = mesh.add_agent(Adder("adder"))
        ...     print(await mesh.query("adder", [1, 2, 3]))
        6
        """
        check_options(timeout=timeout)
        if current.get() is not None:
            return await self._dispatcher.at_home(self._dispatcher.ask, target, payload, timeout)
        with explained(lambda: f"Interrupted before {target} had answered."), awake():
            return await self._dispatcher.at_home(self._dispatcher.ask, target, payload, timeout)

    async def submit(self, target: str, payload: object) -> str:
        """Have an agent work on something; returns an id for `wait_for`. Its answer is kept until it is collected.

        Parameters
        ----------
        target : str
            The agent's name.
        payload : object
            As of `query`.

        Returns
        -------
        str
            The request's id.

        Raises
        ------
        NoSuchAgent, CircularQuery, MeshStopped
            As `send_to`.

        Examples
        --------
        >>> from ceylon_nb import Agent, LocalMesh
        >>> class Adder(Agent):
        ...     def on_message(self, message):
        ...         return sum(message)
        >>> async with LocalMesh() as mesh:
        ...     name = mesh.add_agent(Adder("adder"))
        ...     first = await mesh.submit("adder", [1, 2])
        ...     await mesh.submit("adder", [3, 4])
        ...     await mesh.submit("adder", "no numbers")
        ...     print(await mesh.wait_for(first))
        ...     for result in await mesh.collect_results():
        ...         print(result.target, result.answer, type(result.error).__name__)
        'adder-1'
        'adder-2'
        3
        adder 7 NoneType
        adder None TypeError
        """
        envelope = await self._dispatcher.at_home(self._dispatcher.send, target, payload, "submit")
        request = f"{target}-{envelope.passage.number}"
        self._submitted[request] = envelope
        return request

    async def wait_for(self, request: str, timeout: float | None = TIMEOUT) -> Any:
        """The answer to what was submitted; it is then collected.

        Parameters
        ----------
        request : str
            What `submit` gave.
        timeout : float or None
            Seconds to wait for it; None waits for ever.

        Returns
        -------
        object
            What the handler returned.

        Raises
        ------
        Exception
            What the handler raised.
        QueryTimeout
            It has not ended in time; it goes on, and can be waited for again.
        MeshError
            There is no such request, or not any more.
        ConfigurationError
            `timeout` is no number above 0.
        """
        check_options(timeout=timeout)
        with explained(lambda: f"Interrupted before {request} had ended: it goes on."), awake():
            envelope = self._submitted.get(request)
            if envelope is None:
                raise MeshError(f"There is no request {request!r}, or it was collected. mesh.pending() lists them.")
            late = f"{request} has not ended within {timeout} s; it goes on, and can be waited for again."
            await self._see_ended([envelope], timeout, lambda: QueryTimeout(late))
        self._submitted.pop(request, None)
        return envelope.outcome()

    async def collect_results(self, timeout: float | None = None) -> list[Result]:
        """What became of all that was submitted, in that order, once all of it has ended.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for all of it; for ever unless told.

        Returns
        -------
        list of Result
            What handlers raised is in it, not raised.

        Raises
        ------
        QueryTimeout
            Not all has ended in time; nothing is collected.
        ConfigurationError
            `timeout` is no number above 0.
        """
        check_options(timeout=timeout)

        def late() -> QueryTimeout:
            return QueryTimeout(f"{len(self.pending())} requests have not ended within {timeout} s; they go on.")

        with explained(lambda: "Interrupted: what was submitted goes on."), awake():
            await self._see_ended(list(self._submitted.values()), timeout, late)
        ended = {request: envelope for request, envelope in list(self._submitted.items()) if envelope.has_ended}
        for request in ended:
            self._submitted.pop(request, None)
        return [
            Result(request, envelope.mailbox.name, envelope.answer, envelope.error, envelope.passage.latency or 0.0)
            for request, envelope in ended.items()
        ]

    async def _see_ended(self, envelopes: list[Envelope], timeout: float | None, late: Callable[[], Exception]) -> None:
        await self._dispatcher.at_home(self._dispatcher.see_ended, envelopes, timeout, late)

    def pending(self) -> list[Pending]:
        """What was submitted and has not ended, in that order.

        Returns
        -------
        list of Pending
            A copy.
        """
        now = clock()
        return [
            Pending(request, envelope.mailbox.name, now - envelope.sent)
            for request, envelope in list(self._submitted.items())
            if not envelope.has_ended
        ]

    get_pending = pending

    async def broadcast(self, payload: object, *, exclude: Iterable[str] = ()) -> list[str]:
        """Send a message one way to all agents but the sender; returns their names.

        Parameters
        ----------
        payload : object
            As of `query`; each is handed the very same.
        exclude : iterable of str
            Names of agents that do not get it.

        Returns
        -------
        list of str
            Who gets it, in the order in which they were added.

        Raises
        ------
        CircularQuery
            One's mailbox is full, and it waits for whoever sends this; nobody got it.
        MeshStopped
            The mesh was stopped.
        """
        left_out = {exclude} if isinstance(exclude, str) else set(exclude)
        handler = self._handler()
        names = [name for name in list(self._dispatcher.mailboxes) if name not in left_out and name != handler]
        await self._dispatcher.at_home(self._dispatcher.send_all, names, payload)
        return names

    def _handler(self) -> str | None:
        """The agent of this mesh whose handler runs here."""
        envelope = current.get()
        if envelope is None or envelope.has_ended:
            return None
        ours = any(mailbox is envelope.mailbox for mailbox in self._dispatcher.all)
        return envelope.mailbox.name if ours else None

    async def drain(self) -> None:
        """Wait until nothing is on its way and nobody works.

        Raises
        ------
        CircularQuery
            By a handler, which would wait for itself.
        """
        if self._handler() is not None:
            raise CircularQuery("A handler that waits until nobody works waits for itself.")
        with explained(lambda: f"Interrupted before {self.name} had come to rest: it goes on."), awake():
            await self._dispatcher.at_home(self._dispatcher.rest)

    process_messages = drain
