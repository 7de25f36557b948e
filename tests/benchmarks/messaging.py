"""Agents that send one another messages, and do nothing else: what the mesh takes for each."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from .contestants import Figures
from .meter import Meter

TO_AND_FRO = "one way, to and fro"
FLOOD = "one way, as fast as the mailbox takes them"
FROM_OUTSIDE = "queries from outside"
NESTED = "queries, each with one to another agent"
RING = "a token in a ring"

Play = Callable[[int], Awaitable[int]]
"""Has so many messages sent; returns how many were handled."""


def stage(contestant: str, agents: int) -> Play:
    """A mesh, and what is played on it; so that it is there before the clock starts."""
    from ceylon_nb import Agent, LocalMesh

    handled = 0
    over = asyncio.Event()
    mesh = LocalMesh()

    class Passing(Agent):
        """Sends the number on, one less."""

        def __init__(self, number: int) -> None:
            super().__init__(f"agent {number}")
            self.next = f"agent {(number + 1) % agents}"

        async def on_message(self, left: int, context: Any = None) -> None:
            nonlocal handled
            handled += 1
            if left:
                await context.send_to(self.next, left - 1)
            else:
                over.set()

    class Counting(Passing):
        async def on_message(self, left: int, context: Any = None) -> None:
            nonlocal handled
            handled += 1

    class Asking(Counting):
        async def on_message(self, left: int, context: Any = None) -> None:
            await super().on_message(left)
            if self.next == "agent 1":
                await context.query(self.next, left)

    class Flooding(Counting):
        async def on_message(self, left: int, context: Any = None) -> None:
            nonlocal handled
            handled += 1
            if self.next == "agent 1":
                for number in range(left - 1):
                    await context.send_to(self.next, number)

    async def pass_on(n: int) -> None:
        await mesh.send_to("agent 0", n - 1)
        await over.wait()
        over.clear()

    async def ask(n: int) -> None:
        for number in range(n):
            await mesh.query("agent 0", number)

    async def ask_both(n: int) -> None:
        await ask(n // 2)

    async def flood(n: int) -> None:
        await mesh.query("agent 0", n, timeout=None)

    kind, play = {
        TO_AND_FRO: (Passing, pass_on),
        RING: (Passing, pass_on),
        FROM_OUTSIDE: (Counting, ask),
        NESTED: (Asking, ask_both),
        FLOOD: (Flooding, flood),
    }[contestant]
    for number in range(agents):
        mesh.add_agent(kind(number))

    async def counted(n: int) -> int:
        nonlocal handled
        handled = 0
        await play(n)
        await mesh.drain()
        return handled

    return counted


async def messaging(job: dict[str, Any]) -> Figures:
    """Send so many, after as many as fill the trace: from there on the memory is to be flat."""
    play = stage(job["contestant"], job["agents"])
    await play(job["warm_up"])
    with Meter() as meter:
        handled = await play(job["n"])
    return {**meter.figures, "answered": handled}
