"""LocalMesh: agents that send one another messages, on the loop that is there."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from ..errors import CircularQuery, ConfigurationError, MeshError, QueryTimeout
from ..interrupts import explained
from ..loop import awake, clock
from ..policy import check_options
from .agent import Agent
from .caller import Options
from .context import Context
from .dispatcher import Dispatcher
from .envelope import Envelope, current
from .llm import LlmAgent
from .mailbox import Mailbox
from .traffic import KEPT, Passage, Stats, Traffic

if TYPE_CHECKING:
    import pandas as pd

    from .models import Model

MAILBOX = 1_000
"""Messages that wait for an agent at the most, unless told otherwise."""

TIMEOUT = 60.0
"""Seconds that an answer is waited for, unless told otherwise."""

VIEWS = "ceylon_nb.views"
"""Who shows a mesh; found by name, as nothing here imports a view."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that was submitted and has not ended.

    Attributes
    ----------
    id, target : str
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
    id, target : str
    answer : object
        None if there is an error.
    error : BaseException or None
    latency : float
        Seconds, from its submission to its end.
    """

    id: str
    target: str
    answer: Any
    error: BaseException | None
    latency: float


class LocalMesh:
    """Agents by name, and the messages between them.

    ::

        async with LocalMesh() as mesh:
            mesh.add_agent(Clerk("clerk"))
            print(await mesh.query("clerk", "How much is a box?"))

    Parameters
    ----------
    name : str
        Its name.
    keep : int
        Messages that `trace` keeps, the newest.

    Notes
    -----
    It need not be started. An agent handles one message at a time unless it was added with ``max_at_once``, and the
    messages of one sender in the order in which they were sent; in two meshes it has two mailboxes, and does two at a
    time. Every coroutine has a twin, ``…_sync``, for scripts, threads and handlers that are not async.
    """

    def __init__(self, name: str = "mesh", *, keep: int = KEPT) -> None:
        check_options(keep=keep)
        self.name = name
        self._traffic = Traffic(keep)
        self._dispatcher = Dispatcher(name, self._traffic, functools.partial(Context, self))
        self._submitted: dict[str, Envelope] = {}

    def __repr__(self) -> str:
        count = len(self._dispatcher.mailboxes)
        return f"LocalMesh({self.name!r}, {count} {'agent' if count == 1 else 'agents'})"

    # -- agents -------------------------------------------------------------------------------------------------

    @property
    def agents(self) -> Mapping[str, Agent]:
        """The agents, by name."""
        return MappingProxyType({name: mailbox.agent for name, mailbox in self._dispatcher.mailboxes.items()})

    def add_agent(self, agent: Agent, *, max_at_once: int = 1, mailbox: int = MAILBOX) -> str:
        """Add an agent; returns its name.

        Parameters
        ----------
        agent : Agent
            An `LlmAgent` is one.
        max_at_once : int
            Messages that it handles at a time.
        mailbox : int
            Messages that wait for it at the most; whoever sends more waits until there is room.

        Raises
        ------
        ConfigurationError
            It is no agent, there is one of that name, or a number makes no sense.
        """
        check_options(max_at_once=max_at_once, mailbox=mailbox)
        if not isinstance(agent, Agent):
            raise ConfigurationError(f"An agent is an Agent or an LlmAgent, not {type(agent).__name__}.")
        at = self._dispatcher
        at.add(Mailbox(agent, mailbox, max_at_once, at.left, at.loop_ends, self._traffic.act))
        return agent.name()

    def add_llm_agent(
        self,
        agent: LlmAgent | str,
        model: Model | None = None,
        *,
        max_at_once: int = 1,
        mailbox: int = MAILBOX,
        **options: Unpack[Options],
    ) -> str:
        """Add an `LlmAgent`, or make one: ``add_llm_agent("expert", "ollama::llama3.2")``; returns its name.

        Raises
        ------
        ConfigurationError
            As `add_agent`, and as `LlmAgent`.
        """
        if isinstance(agent, str):
            if model is None:
                raise ConfigurationError(f"Which model does {agent!r} ask? mesh.add_llm_agent(name, 'provider::model')")
            agent = LlmAgent(agent, model, **options)
        elif model is not None or options:
            raise ConfigurationError("An LlmAgent has its model and its options: change them by its with_… methods.")
        return self.add_agent(agent, max_at_once=max_at_once, mailbox=mailbox)

    def remove(self, name: str) -> Agent:
        """Take an agent out; returns it. What it is at goes on; what waits in its mailbox fails with NoSuchAgent."""
        return self._dispatcher.remove(name).agent

    # -- messages -----------------------------------------------------------------------------------------------

    async def send_to(self, target: str, payload: object) -> None:
        """Send a message one way; returns once it is in the mailbox.

        What its handler raises is logged (``logging.getLogger("ceylon_nb.mesh")``), and counted in `stats`.

        Raises
        ------
        NoSuchAgent
            Nobody of that name is there, or was any more when there was room.
        CircularQuery
            The mailbox is full, and its agent waits for whoever sends this.
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

        Raises
        ------
        Exception
            What the handler raised.
        QueryTimeout
            No answer in time: what the query had begun is cancelled.
        CircularQuery
            The agent waits for whoever asks.
        NoSuchAgent, MeshStopped
            Nobody of that name is there; or not any more, before there was an answer.
        """
        check_options(timeout=timeout)
        if current.get() is not None:
            return await self._dispatcher.at_home(self._dispatcher.ask, target, payload, timeout)
        with explained(lambda: f"Interrupted before {target} had answered."), awake():
            return await self._dispatcher.at_home(self._dispatcher.ask, target, payload, timeout)

    async def submit(self, target: str, payload: object) -> str:
        """Have an agent work on something; returns an id for `wait_for`. Its answer is kept until it is collected.

        Raises
        ------
        NoSuchAgent, CircularQuery
            As `send_to`.
        """
        envelope = await self._dispatcher.at_home(self._dispatcher.send, target, payload, "submit")
        request = f"{target}-{envelope.passage.number}"
        self._submitted[request] = envelope
        return request

    async def wait_for(self, request: str, timeout: float | None = TIMEOUT) -> Any:
        """The answer to what was submitted; it is then collected.

        Raises
        ------
        Exception
            What the handler raised.
        QueryTimeout
            It has not ended in time; it goes on, and can be waited for again.
        MeshError
            There is no such request, or not any more.
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

        Raises
        ------
        QueryTimeout
            Not all has ended in time; nothing is collected.
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
        """What was submitted and has not ended."""
        now = clock()
        return [
            Pending(request, envelope.mailbox.name, now - envelope.sent)
            for request, envelope in list(self._submitted.items())
            if not envelope.has_ended
        ]

    get_pending = pending

    async def broadcast(self, payload: object, *, exclude: Iterable[str] = ()) -> list[str]:
        """Send a message one way to all agents but the sender; returns their names."""
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

    # -- the same, for those that cannot await -------------------------------------------------------------------

    def send_to_sync(self, target: str, payload: object) -> None:
        """As `send_to`."""
        self._dispatcher.sync("send_to", self.send_to, target, payload)

    def query_sync(self, target: str, payload: object, timeout: float | None = TIMEOUT) -> Any:
        """As `query`."""
        return self._dispatcher.sync("query", self.query, target, payload, timeout)

    def submit_sync(self, target: str, payload: object) -> str:
        """As `submit`."""
        return self._dispatcher.sync("submit", self.submit, target, payload)

    def wait_for_sync(self, request: str, timeout: float | None = TIMEOUT) -> Any:
        """As `wait_for`."""
        return self._dispatcher.sync("wait_for", self.wait_for, request, timeout)

    def collect_results_sync(self, timeout: float | None = None) -> list[Result]:
        """As `collect_results`."""
        return self._dispatcher.sync("collect_results", self.collect_results, timeout)

    def broadcast_sync(self, payload: object, *, exclude: Iterable[str] = ()) -> list[str]:
        """As `broadcast`."""
        return self._dispatcher.sync("broadcast", functools.partial(self.broadcast, exclude=exclude), payload)

    def drain_sync(self) -> None:
        """As `drain`."""
        self._dispatcher.sync("drain", self.drain)

    process_messages_sync = drain_sync

    def start_sync(self) -> LocalMesh:
        """As `start`."""
        self.start()
        return self

    def stop_sync(self) -> None:
        """As `stop`, and wait for its end."""
        self._dispatcher.sync("stop", self._end)

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> Awaitable[LocalMesh]:
        """Take messages, again after `stop`; before that it does so anyway. May be awaited."""
        self._dispatcher.start()
        return _Started(self)

    def stop(self) -> Awaitable[None]:
        """Take no more messages, and cancel all that is on its way; awaited, wait until nobody works.

        Messages that were not handled fail with MeshStopped. ``async with`` lets them be handled first.
        """
        self._dispatcher.stop()
        return _Stopping(self._end)

    async def _end(self) -> None:
        self._dispatcher.stop()
        await self._dispatcher.at_home(self._dispatcher.end)

    async def __aenter__(self) -> LocalMesh:
        self._dispatcher.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.drain()
        finally:
            await self._end()

    # -- to be looked at ----------------------------------------------------------------------------------------

    @property
    def passages(self) -> list[Passage]:
        """The newest messages, the oldest of them first."""
        return list(self._traffic.passages.copy())

    def stats(self) -> Stats:
        """How many messages there were, how they ended, and where the others are; of each agent, too."""
        return self._dispatcher.stats

    def trace(self) -> pd.DataFrame:
        """The newest messages as a table, one a row, in the order in which they were sent.

        Columns: ``when`` (UTC), ``from`` (None: from outside), ``to``, ``kind`` (message, query, submit, broadcast;
        action: what a model had an agent do), ``message`` and ``answer`` (their beginnings), ``waited`` (seconds in the
        mailbox), ``latency`` (seconds, from sending to the end), ``error``, ``tokens`` (Int64, in and out).
        """
        return self._traffic.trace()

    def diagram(self, last: int = 50) -> Any:
        """The newest messages as a sequence diagram, which JupyterLab draws; elsewhere it is text."""
        check_options(last=last)
        drawn = self.passages[-last:]
        before = drawn[0].number if drawn else 0
        return pkgutil.resolve_name(f"{VIEWS}.mermaid:Diagram")(drawn, before)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        view = pkgutil.resolve_name(f"{VIEWS}.mesh")
        return {"text/html": view.html(self), "text/plain": view.text(self)}


class _Started:
    """What `start` gives: it may be awaited, and need not."""

    def __init__(self, mesh: LocalMesh) -> None:
        self._mesh = mesh

    def __repr__(self) -> str:
        return repr(self._mesh)

    def __await__(self) -> Generator[Any, None, LocalMesh]:
        return self._mesh
        yield


class _Stopping:
    """What `stop` gives: awaited, it waits for the end."""

    def __init__(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._end = end

    def __repr__(self) -> str:
        return "stopping; `await mesh.stop()` waits for the end"

    def __await__(self) -> Generator[Any, None, None]:
        return self._end().__await__()
