"""A tap on a model server: no request is answered before it is let through."""

from __future__ import annotations

import asyncio
from collections import deque

from ceylon_nb.testing import Exchange, Fault, ModelServer, Request


class Tap:
    """Holds a server's answers back, in order of arrival; what it lets through, it lets through with or without fault.

    Parameters
    ----------
    server : ModelServer
        Its `plan` becomes this one's.
    said : int
        Of a streamed answer so many words are said before the tap.

    Attributes
    ----------
    failed : list of str
        The prompts that were let through with a fault.
    """

    def __init__(self, server: ModelServer, *, said: int = 0) -> None:
        self._passes: deque[Fault | None] = deque()
        self._said = said
        self.failed: list[str] = []
        server.plan = self._plan

    def let(self, count: int, fault: Fault | None = None) -> None:
        """Let so many more requests through."""
        self._passes.extend([fault] * count)

    def _plan(self, request: Request) -> Fault:
        return Fault("held", self._said_in_part if request.stream and self._said else self._held, harmless=True)

    async def _held(self, exchange: Exchange) -> object:
        fault = await self._turn()
        if fault is None:
            return await exchange.answer()
        self.failed.append(exchange.request.prompt)
        return await fault.play(exchange)

    async def _said_in_part(self, exchange: Exchange) -> object:
        answer, response = exchange.compose(), await exchange.open_stream()
        frames = exchange.wire.frames(answer)
        await exchange.write(response, frames[: self._said])
        await self._turn()
        await exchange.write(response, frames[self._said :])
        return await exchange.finish(response, exchange.wire.ending(answer))

    async def _turn(self) -> Fault | None:
        while not self._passes:
            await asyncio.sleep(0.01)
        return self._passes.popleft()
