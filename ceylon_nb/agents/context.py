"""Context: what a handler knows of the message that it handles, and how it asks others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .envelope import NEVER, Envelope

if TYPE_CHECKING:
    from .mesh import LocalMesh


class Context:
    """What `Agent.on_message` is handed in a mesh; an action that has a parameter ``context`` gets it, too.

    Attributes
    ----------
    mesh : LocalMesh
        In which the message was sent.

    Examples
    --------
    >>> from ceylon_nb import Agent, LocalMesh
    >>> class Desk(Agent):
    ...     async def on_message(self, message, context=None):
    ...         return context.sender, context.kind, await context.query("shelf", message)
    >>> class Shelf(Agent):
    ...     def on_message(self, message, context=None):
    ...         return context.sender, context.remaining <= 60
    >>> async with LocalMesh() as mesh:
    ...     names = [mesh.add_agent(Desk()), mesh.add_agent(Shelf())]
    ...     print(await mesh.query("desk", "Toaster"))
    (None, 'query', ('desk', True))
    """

    __slots__ = ("_envelope", "mesh")

    def __init__(self, mesh: LocalMesh, envelope: Envelope) -> None:
        self.mesh = mesh
        self._envelope = envelope

    def __repr__(self) -> str:
        passage = self._envelope.passage
        return f"Context({passage.kind} {passage.number} from {passage.sender or 'outside'!r} to {passage.target!r})"

    @property
    def sender(self) -> str | None:
        """The agent that sent the message; None if it came from outside, as from a cell."""
        return self._envelope.passage.sender

    @property
    def target(self) -> str:
        """The agent that handles it."""
        return self._envelope.passage.target

    @property
    def kind(self) -> str:
        """``"message"``, which wants no answer, ``"query"``, ``"submit"`` or ``"broadcast"``."""
        return self._envelope.passage.kind

    @property
    def remaining(self) -> float | None:
        """Seconds until whoever asked gives up, and this is cancelled; None if nobody does."""
        return None if self._envelope.deadline == NEVER else self._envelope.remaining()

    async def query(self, target: str, payload: object, timeout: float | None = 60.0) -> Any:
        """As `LocalMesh.query`; what remains of this message's own time is the longest timeout."""
        return await self.mesh.query(target, payload, timeout)

    def query_sync(self, target: str, payload: object, timeout: float | None = 60.0) -> Any:
        """As `query`, for handlers that are not async."""
        return self.mesh.query_sync(target, payload, timeout)

    async def send_to(self, target: str, payload: object) -> None:
        """As `LocalMesh.send_to`."""
        await self.mesh.send_to(target, payload)

    def send_to_sync(self, target: str, payload: object) -> None:
        """As `send_to`, for handlers that are not async."""
        self.mesh.send_to_sync(target, payload)
