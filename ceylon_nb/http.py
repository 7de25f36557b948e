"""The only sockets. httpx is the interface, aiohttp the engine.

* A `Client` is one address to post to, through the default transport or any `httpx.AsyncBaseTransport` of the user's.
* By default aiohttp is asked directly (`wire`): `httpx.AsyncClient` adds 100 µs a request, a transport between the two
  40, and httpx's own pool freezes the loop at 100 connections and more.
* Sessions belong to one loop. They are kept per loop and end with it: an async generator parked on the loop closes its
  session when the loop shuts its generators down, and nobody has to remember to.
* Every foreign exception is translated in one place, `foreign.translate`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeAlias

import aiohttp
import httpx

from . import errors
from .foreign import translate
from .timeouts import TimeLimit, patient_timeout
from .urls import Address, proxy_for
from .wire import REDIRECTS, Answer, Incoming, Target, Unpacker, same_origin_target, send_by_session, send_by_transport

Transport: TypeAlias = httpx.AsyncBaseTransport

CONNECT_TIMEOUT = 10.0
"""Seconds for connecting."""

SILENCE = 120.0
"""Seconds without a byte after which a stream that has begun counts as dead."""

MAX_REDIRECTS = 3


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: status, headers (looked up in any case) and body; of a stream that began well, an empty body."""

    status: int
    headers: Mapping[str, str]
    content: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether this is an answer, not an error."""
        return self.status == httpx.codes.OK


class Stream(contextlib.AsyncExitStack):
    """An answer that is coming in; leaving it closes the request.

    No `asynccontextmanager`: `asyncio.run` closes generators left behind in any order, and those take it badly.

    Attributes
    ----------
    head : Response
        Without a body, unless its status is an error.
    chunks : async generator of bytes
        Decoded, as they come.
    """

    head: Response
    chunks: AsyncGenerator[bytes, None]


class Client:
    """One address to post to.

    Parameters
    ----------
    address : Address
        Its headers are sent to its own origin only.
    transport : httpx.AsyncBaseTransport, optional
        Any transport in place of the default one. It stays its owner's to close.
    help_connecting : str
        What to do when nobody answers there.

    Raises
    ------
    ConfigurationError
        Nobody can be asked at such an address.
    """

    def __init__(self, address: Address, *, transport: Transport | None = None, help_connecting: str = "") -> None:
        try:
            self._target = Target(address.url, {**_HEADERS, **address.headers})
        except httpx.InvalidURL as error:
            raise errors.ConfigurationError(f"Not an address that can be asked: {address.url} ({error}).") from error
        self._address = address
        self._scheme, self._host = self._target.url.scheme, self._target.url.host
        self._given = _Given(transport) if transport is not None else None
        self._help_connecting = help_connecting

    def prepare(self) -> None:
        """Read the certificates that requests will need; it takes some hundredths of a second, once.

        Raises
        ------
        ConfigurationError
            There are none to be read.
        """
        if self._given is None and self._scheme == "https":
            _ssl_context(*_authorities())

    async def post(self, body: bytes, *, timeout: float | None) -> Response:
        """Send `body`; returns when the last byte has come.

        Parameters
        ----------
        timeout : float or None
            Seconds, from sending to the last byte.

        Raises
        ------
        RequestError
            There is no whole answer. An error status is an answer.
        """
        with self._translating(timeout), self._given or await _pool(self._scheme, self._host) as way:
            async with patient_timeout(timeout):
                response = await way.send(self._target, body)
                if response.status_code in REDIRECTS:
                    response = await self._follow(way, response, body)
                return Response(response.status_code, response.headers, await self._read(response))

    async def stream(self, body: bytes, *, timeout: float | None) -> Stream:
        """Send `body`; returns when the head of the answer has come, and of an error status the whole of it.

        Raises
        ------
        RequestError
            As `post`; while reading, also after SILENCE seconds without a byte.
        """
        limit = TimeLimit(timeout)
        with self._translating(timeout):
            async with Stream() as opening:
                limit.start()
                opening.callback(limit.stop)
                way: _Given | _Pool = self._given or await _pool(self._scheme, self._host)
                opening.enter_context(way)
                with limit:
                    response = await self._follow(way, await way.send(self._target, body), body)
                    opening.push_async_callback(response.aclose)
                    head = Response(response.status_code, response.headers)
                    if not head.ok:
                        head = Response(head.status, head.headers, await self._read(response))
                stream = opening.pop_all()
        stream.head = head
        stream.chunks = await stream.enter_async_context(contextlib.aclosing(self._timed(response, limit, timeout)))
        return stream

    async def _timed(self, response: Incoming, limit: TimeLimit, timeout: float | None) -> AsyncGenerator[bytes]:
        """The body, all of it within the limit, and no two chunks further apart than SILENCE.

        A token comes in a chunk of its own: what is done here is done for every token.
        """
        url = self._address.url
        unpack = Unpacker(response.headers, url)
        stream: AsyncIterator[bytes] = aiter(response.stream)
        with self._translating(timeout):
            try:
                while True:
                    try:
                        with limit:
                            data = await anext(stream)
                    except StopAsyncIteration:
                        return
                    except TimeoutError as error:
                        if limit.over or not limit.silent:
                            raise
                        said = f"{url} fell silent for {limit.silence:g} s in the middle of its answer. Ask again."
                        raise errors.RequestTimeout(said, url=url) from error
                    limit.silence = SILENCE  # not before: a server may send its headers, and then let the request queue
                    yield unpack(data)
            finally:
                if isinstance(stream, AsyncGenerator):
                    await stream.aclose()

    async def _follow(self, way: _Way, response: Incoming, body: bytes) -> Incoming:
        """The answer that redirects lead to, or the one that leads no further."""
        url = self._target.url
        try:
            for _ in range(MAX_REDIRECTS):
                found = same_origin_target(url, response)
                if found is None:
                    break
                await response.aclose()
                url = found
                response = await way.send(Target(url, self._target.headers), body)
        except BaseException:
            await response.aclose()
            raise
        return response

    async def _read(self, response: Incoming) -> bytes:
        if isinstance(response, Answer):
            return await response.read(self._address.url)
        async with contextlib.aclosing(response):
            return b"".join([chunk async for chunk in _chunks(response, self._address.url)])

    def _translating(self, timeout: float | None) -> contextlib.AbstractContextManager[None]:
        return _Translating(self._address, timeout, self._help_connecting)


class _Translating:
    """Raises the library's error in place of a foreign one. No generator: each request has one, and it is cheaper."""

    __slots__ = ("_address", "_help", "_timeout")

    def __init__(self, address: Address, timeout: float | None, help_connecting: str) -> None:
        self._address, self._timeout, self._help = address, timeout, help_connecting

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if isinstance(error, Exception) and not isinstance(error, errors.CeylonError):
            cause = errors.ungrouped(error)
            found = translate(cause, self._address, CONNECT_TIMEOUT, self._timeout, self._help)
            if found is not None:
                raise found from cause


_HEADERS = {"content-type": "application/json", "accept-encoding": "identity"}


# -- reading ---------------------------------------------------------------------------------------------------------


async def _chunks(response: Incoming, url: str) -> AsyncGenerator[bytes, None]:
    """Decoded bytes as they come."""
    unpack = Unpacker(response.headers, url)
    stream: AsyncIterator[bytes] = aiter(response.stream)
    try:
        async for data in stream:
            yield unpack(data)
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


# -- sessions, one pool a loop ---------------------------------------------------------------------------------------


class _Way(Protocol):
    """What requests go by."""

    def send(self, to: Target, body: bytes) -> Awaitable[Incoming]: ...


class _Given(contextlib.nullcontext["_Given"]):
    """A transport of the user's, which he closes."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(self)
        self._transport = transport

    def send(self, to: Target, body: bytes) -> Awaitable[Incoming]:
        return send_by_transport(self._transport, to, body, CONNECT_TIMEOUT)


@dataclass(slots=True)
class _Pool:
    """One loop's connections, with one set of certificates, through one proxy or none."""

    session: aiohttp.ClientSession
    keeper: AsyncGenerator[None, None]
    in_use: int = 0

    def __enter__(self) -> _Pool:
        self.in_use += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.in_use -= 1

    def send(self, to: Target, body: bytes) -> Awaitable[Incoming]:
        return send_by_session(self.session, to, body)


_Key: TypeAlias = tuple[asyncio.AbstractEventLoop, tuple[str | None, ...], str | None]
_pools: dict[_Key, _Pool] = {}


async def _pool(scheme: str, host: str) -> _Pool:
    """The running loop's connections for such an address; made when first asked for, without waiting.

    What the environment says of proxies and certificates is asked each time: a cell may have set it since.
    """
    authorities = _authorities() if scheme == "https" else ()
    key = (asyncio.get_running_loop(), authorities, proxy_for(scheme, host))
    pool = _pools.get(key)
    if pool is None:
        _forget_closed_loops()
        session = aiohttp.ClientSession(
            connector=_Connector(limit=0, ssl=_ssl_context(*authorities) if authorities else True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
            proxy=key[2],
        )
        pool = _pools[key] = _Pool(session, _keep(key, session))
        await anext(pool.keeper)
    return pool


class _Connector(aiohttp.TCPConnector):
    async def _create_connection(self, *args: Any, **options: Any) -> Any:
        """As aiohttp; the time for connecting includes looking up the name, and knows of cells that block the loop."""
        async with patient_timeout(CONNECT_TIMEOUT):
            return await super()._create_connection(*args, **options)


def _authorities() -> tuple[str | None, str | None]:
    return os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")


async def _keep(key: _Key, session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Hold a session open until its loop shuts down its async generators (as `asyncio.run` does at its end)."""
    try:
        yield
    finally:
        _pools.pop(key, None)
        await session.close()


@functools.cache
def _ssl_context(file: str | None, directory: str | None) -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise errors.ConfigurationError(
            f"No certificates can be read from {file or directory} ({errors.detail(error)}): check SSL_CERT_FILE and "
            "SSL_CERT_DIR."
        ) from error


async def close_idle() -> None:
    """Close the running loop's connections if no request uses them; the next request opens new ones."""
    loop = asyncio.get_running_loop()
    for key, pool in list(_pools.items()):
        if key[0] is loop and not pool.in_use:
            await pool.keeper.aclose()


def _forget_closed_loops() -> None:
    for key in list(_pools):
        pool = _pools.pop(key, None) if key[0].is_closed() else None
        if pool is not None:
            with contextlib.suppress(StopIteration):
                pool.keeper.aclose().send(None)  # its sockets went with the loop: there is nothing to wait for


@atexit.register
def _close_at_exit() -> None:
    _forget_closed_loops()
    for (loop, *_), pool in list(_pools.items()):
        if not loop.is_running():
            loop.run_until_complete(pool.keeper.aclose())


# -- answers without a socket ----------------------------------------------------------------------------------------

Handler: TypeAlias = Callable[[str, bytes], Awaitable[tuple[int, str, bytes | AsyncIterator[bytes]]]]
"""Given path and body, gives status, content type, and the body whole or as it comes."""


def embedded(handler: Handler) -> Transport:
    """A transport that asks a function instead of a server."""

    async def handle(request: httpx.Request) -> httpx.Response:
        status, content_type, body = await handler(request.url.path, request.content)
        stream = httpx.ByteStream(body) if isinstance(body, bytes) else _Stream(body)
        return httpx.Response(status, headers={"content-type": content_type}, stream=stream)

    return httpx.MockTransport(handle)


class _Stream(httpx.AsyncByteStream):
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks
