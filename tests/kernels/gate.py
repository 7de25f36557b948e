"""A gate in the server: whoever asks waits before it until the test opens it."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

from aiohttp import web

from ceylon_nb.testing.exchange import Exchange
from ceylon_nb.testing.faults import Fault


class Gate:
    """Hand its `fault` to a server; the answers come once it is open."""

    def __init__(self) -> None:
        self.fault = Fault("gate", self._play, at_once=False, harmless=True)
        self._opened: Future[None] = Future()
        self._opened.set_running_or_notify_cancel()

    def open(self) -> None:
        self._opened.set_result(None)

    async def passed(self) -> None:
        """Return when it is open; in the server."""
        await asyncio.wrap_future(self._opened)

    async def _play(self, exchange: Exchange) -> web.StreamResponse:
        await self.passed()
        return await exchange.answer()
