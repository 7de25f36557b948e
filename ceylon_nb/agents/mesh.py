"""LocalMesh: agents that send one another messages, on the loop that is there."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from ..errors import ConfigurationError
from ..policy import check_options
from .agent import Agent
from .caller import Options
from .context import Context
from .dispatcher import Dispatcher
from .llm import LlmAgent
from .mailbox import Mailbox
from .post import TIMEOUT, Post, Result
from .traffic import KEPT, Passage, Stats, Traffic

if TYPE_CHECKING:
    import pandas as pd

    from .models import Model

MAILBOX = 1_000
"""Messages that wait for an agent at the most, unless told otherwise."""

VIEWS = "ceylon_nb.views"
"""Who shows a mesh; found by name, as nothing here imports a view."""


class LocalMesh(Post):
    """Agents by name, and the messages between them, on the loop that is there.

    Parameters
    ----------
    name : str
        Its name.
    keep : int
        Messages that `trace` keeps, the newest.

    Raises
    ------
    ConfigurationError
        `keep` is no whole number from 1.

    Notes
    -----
    It need not be started. An agent handles one message at a time unless it was added with ``max_at_once``, and the
    messages of one sender in the order in which they were sent; in two meshes it has two mailboxes, and does two at a
    time. Every coroutine has a twin, ``…_sync``, for scripts, threads and handlers that are not async.

    ``async with`` waits at its end until every message is handled, and stops the mesh; after an exception it stops it
    at once.

    Examples
    --------
    >>> from ceylon_nb import Agent, LocalMesh
    >>> class Clerk(Agent):
    ...     async def on_message(self, message, context=None):
    ...         return await context.query("prices", message)
    >>> class Prices(Agent):
    ...     def on_message(self, message):
    ...         return {"Kettle": 24.5, "Toaster": 31.0}[message]
    >>> async with LocalMesh() as mesh:
    ...     names = [mesh.add_agent(agent) for agent in (Clerk(), Prices())]
    ...     print(await mesh.query("clerk", "Kettle"))
    24.5
    >>> mesh.stats().answered
    2
    >>> mesh.trace()[["from", "to", "answer"]].fillna("").to_dict("records")
    [{'from': '', 'to': 'clerk', 'answer': '24.5'}, {'from': 'clerk', 'to': 'prices', 'answer': '24.5'}]
    """

    def __init__(self, name: str = "mesh", *, keep: int = KEPT) -> None:
        check_options(keep=keep)
        self._traffic = Traffic(keep)
        super().__init__(name, Dispatcher(name, self._traffic, functools.partial(Context, self)))

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

        Returns
        -------
        str
            The agent's name.

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

        Parameters
        ----------
        agent : LlmAgent or str
            One that there is, or the name of one to be made.
        model : str or async callable, optional
            Of one to be made: ``"provider::model-name"``, as of `LlmAgent`.
        max_at_once : int
            Messages that it handles at a time.
        mailbox : int
            Messages that wait for it at the most.
        **options
            Of one to be made: those of `LlmAgent`.

        Returns
        -------
        str
            The agent's name.

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
        """Take an agent out; returns it. What it is at goes on; what waits in its mailbox fails with NoSuchAgent.

        Parameters
        ----------
        name : str
            The agent's name.

        Returns
        -------
        Agent
            It may be added again, here or to another mesh.

        Raises
        ------
        NoSuchAgent
            Nobody of that name is there.
        """
        return self._dispatcher.remove(name).agent

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
        """Take messages, again after `stop`; before that it does so anyway. May be awaited.

        Returns
        -------
        awaitable of LocalMesh
            The mesh.
        """
        self._dispatcher.start()
        return _Started(self)

    def stop(self) -> Awaitable[None]:
        """Take no more messages, and cancel all that is on its way; awaited, wait until nobody works.

        Messages that were not handled fail with MeshStopped. ``async with`` lets them be handled first.

        Returns
        -------
        awaitable of None
            Need not be awaited.
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
        """The newest messages as objects, the oldest of them first: what `trace` is a table of."""
        return list(self._traffic.passages.copy())

    def stats(self) -> Stats:
        """How many messages there were, how they ended, and where the others are; of each agent, too.

        Returns
        -------
        Stats
            As it stands now.
        """
        return self._dispatcher.stats

    def trace(self) -> pd.DataFrame:
        """The newest messages as a table, one a row, in the order in which they were sent.

        Its columns: ``when`` (UTC), ``from`` (None: from outside), ``to``, ``kind`` (message, query, submit, broadcast;
        action: what a model had an agent do), ``message`` and ``answer`` (their beginnings), ``waited`` (seconds in the
        mailbox), ``latency`` (seconds, from sending to the end), ``error``, ``tokens`` (Int64, in and out).
        """
        return self._traffic.trace()

    def diagram(self, last: int = 50) -> Any:
        """The newest messages as a sequence diagram, which JupyterLab draws; elsewhere it is text.

        Parameters
        ----------
        last : int
            Messages, at the most.

        Returns
        -------
        Diagram
            For a cell's last line. As text it is Mermaid's (https://mermaid.js.org/syntax/sequenceDiagram.html).

        Raises
        ------
        ConfigurationError
            `last` is no whole number from 1.
        """
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
