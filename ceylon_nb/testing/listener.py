"""A thread with a loop of its own that serves HTTP on one listening socket, and leaves nothing behind when it ends."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

from aiohttp import web

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Listener:
    """Serves from its making until `end`.

    Parameters
    ----------
    sock : socket.socket
        Bound and listening, so that clients can connect before the thread has begun; closed in the end.
    handle : callable
        ``async def handle(request) -> response``. It is cancelled when the client leaves.
    count : callable
        Called with 1 for each connection made, with -1 for each lost.
    tls : ssl.SSLContext or None

    Attributes
    ----------
    ending : bool
        Whether it drops its connections now, so that a cancelled request is no client's doing.
    """

    def __init__(self, sock: socket.socket, handle: Handle, count: Callable[[int], None], tls: ssl.SSLContext | None):
        self.ending = False
        self._sock = sock
        self._handle = handle
        self._count = count
        self._tls = tls
        self._quit: Future[None] = Future()
        self._done: Future[None] = Future()
        self._done.set_running_or_notify_cancel()  # whoever waits may be cancelled; what is waited for is not
        self._thread = threading.Thread(target=self._run, name="model-server", daemon=True)
        self._thread.start()

    def end(self) -> "Future[None]":
        """Ask it to end, once or often; the future is done when it has, and holds the error if it ended by one."""
        with suppress(InvalidStateError):
            self._quit.set_result(None)
        return self._done

    def join(self) -> None:
        """Wait for the thread, which has nothing more to do once the future is done."""
        self._thread.join()

    def _run(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001 (not lost: it is raised where the server is stopped)
            self._done.set_exception(error)
        else:
            self._done.set_result(None)

    async def _serve(self) -> None:
        connections = _Connections(self._handle, self._count)
        runner = web.ServerRunner(connections)
        await runner.setup()
        try:
            await web.SockSite(runner, self._sock, ssl_context=self._tls).start()
            await asyncio.wrap_future(self._quit)
        finally:
            self.ending = True
            await self._accept_no_more()
            await connections.drop()
            await runner.cleanup()
            self._sock.close()

    async def _accept_no_more(self) -> None:
        """Let what is being accepted become a connection: asyncio leaks a socket whose server closes in between."""
        with suppress(NotImplementedError):  # Windows' loop has no readers
            asyncio.get_running_loop().remove_reader(self._sock)
        await asyncio.sleep(0)


class _Connections(web.Server):
    """aiohttp's server, which says how many connections are open, and can drop them all."""

    def __init__(self, handle: Handle, count: Callable[[int], None]) -> None:
        super().__init__(handle, handler_cancellation=True, access_log=None)
        self._count = count
        self._transports: dict[web.RequestHandler, asyncio.Transport] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._transports[handler] = transport
        self._count(1)

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        del self._transports[handler]
        self._count(-1)

    async def drop(self) -> None:
        """Abort every connection, wait until it is gone; the loop is ours, so every other task goes with them."""
        while True:
            for transport in self._transports.values():
                transport.abort()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await (asyncio.wait(others) if others else asyncio.sleep(0))
            if not others and not self._transports:
                return
