"""The only sockets. httpx is the interface, aiohttp the engine.

* A `Client` is one server: base URL, headers and, if the user gave one, any `httpx.AsyncBaseTransport`.
* The default transport is httpx-aiohttp's, called directly: `httpx.AsyncClient` adds 100 µs a request, and httpx's own
  pool freezes the loop at 100 connections and more.
* Sessions belong to one loop. They are kept per loop and end with it: an async generator parked on the loop closes its
  session when the loop shuts its generators down, and nobody has to remember to.
* Every foreign exception is translated in one place, `translate`; a test holds that none is unmapped.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import email.utils
import functools
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any, TypeAlias

import aiohttp
import httpx
from aiohttp.http_exceptions import HttpProcessingError
from httpx_aiohttp import AiohttpTransport
from httpx_sse import EventSource

from . import errors
from .loop import patient_timeout
from .urls import is_loopback, mask

Transport: TypeAlias = httpx.AsyncBaseTransport

CONNECT_TIMEOUT = 10.0
"""Seconds for connecting."""

SILENCE = 120.0
"""Seconds without a byte after which a stream that has begun counts as dead."""

LARGEST_REPLY = 64 * 2**20
"""Bytes, decoded. No model's reply comes near it."""

LONGEST_HOLD = 600.0
"""Seconds; no server can hold us off for longer with one answer."""

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

    @property
    def retry_after(self) -> float | None:
        """Seconds that the server asks to wait; None if it does not say."""
        return parse_retry_after(self.headers)


class Client:
    """One server.

    Parameters
    ----------
    base_url : str
        Scheme, host, port and path prefix, without a trailing slash.
    headers : mapping
        Sent with every request, to this origin only.
    transport : httpx.AsyncBaseTransport, optional
        Any transport in place of the default one. It stays its owner's to close.
    help_connecting : str
        What to do when nobody answers at this address.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        transport: Transport | None = None,
        help_connecting: str = "",
    ) -> None:
        self.base_url = base_url
        self.help_connecting = help_connecting
        self._headers = httpx.Headers(
            {"content-type": "application/json", "accept-encoding": "identity", **(headers or {})}
        )
        self._transport = transport

    async def post(self, path: str, body: bytes, *, timeout: float | None) -> Response:
        """Send `body` to `path`; returns when the last byte has come.

        Parameters
        ----------
        timeout : float or None
            Seconds, from sending to the last byte.

        Raises
        ------
        RequestError
            There is no whole answer. An error status is an answer.
        """
        url = httpx.URL(self.base_url + path)
        try:
            async with self._transport_in_use(url) as transport, patient_timeout(timeout):
                response = await self._send(transport, url, body)
                return Response(response.status_code, response.headers, await _read(response))
        except Exception as error:
            raise self._translate(error, url, timeout) from error

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, body: bytes, *, timeout: float | None
    ) -> AsyncIterator[tuple[Response, AsyncIterator[bytes]]]:
        """Send `body` to `path`; gives the response's head, and its decoded bytes as they come.

        The body of an error status is read at once and lies in the head.

        Raises
        ------
        RequestError
            As `post`; also after SILENCE seconds without a byte.
        """
        url = httpx.URL(self.base_url + path)
        ends = asyncio.get_running_loop().time() + timeout if timeout is not None else None
        try:
            async with self._transport_in_use(url) as transport:
                async with patient_timeout(timeout):
                    response = await self._send(transport, url, body)
                    head = Response(response.status_code, response.headers)
                    if not head.ok:
                        head = Response(head.status, head.headers, await _read(response))
                async with contextlib.aclosing(response), contextlib.aclosing(_chunks(response)) as chunks:
                    yield head, self._timed(chunks, url, ends)
        except Exception as error:
            raise self._translate(error, url, timeout) from error

    async def _timed(
        self, chunks: AsyncGenerator[bytes, None], url: httpx.URL, ends: float | None
    ) -> AsyncGenerator[bytes, None]:
        """The same chunks, each within SILENCE and all before `ends` (loop time)."""
        loop = asyncio.get_running_loop()
        while True:
            limit = SILENCE if ends is None else min(SILENCE, ends - loop.time())
            try:
                async with patient_timeout(limit):
                    chunk = await anext(chunks, None)
            except Exception as error:
                raise self._translate(error, url, limit) from error
            if chunk is None:
                return
            yield chunk

    @contextlib.asynccontextmanager
    async def _transport_in_use(self, url: httpx.URL) -> AsyncIterator[Transport]:
        if self._transport is not None:
            yield self._transport
            return
        pool = await _pool(url.scheme, url.host)
        pool.in_use += 1
        try:
            yield pool.transport
        finally:
            pool.in_use -= 1

    async def _send(self, transport: Transport, url: httpx.URL, body: bytes) -> httpx.Response:
        for _ in range(MAX_REDIRECTS + 1):
            request = httpx.Request("POST", url, headers=self._headers, content=body, extensions=_EXTENSIONS)
            response = await transport.handle_async_request(request)
            target = _same_origin_target(url, response)
            if target is None:
                break
            await response.aclose()
            url = target
        return response

    def _translate(self, error: Exception, url: httpx.URL, timeout: float | None) -> Exception:
        if isinstance(error, errors.CeylonError):
            return error
        found = translate(error, timeout)
        if found is None:
            return error
        found.url = mask(str(url))
        unreachable = isinstance(found, errors.ConnectionFailed) and not isinstance(found, errors.ConnectionLost)
        advice = f" {self.help_connecting}" if unreachable and self.help_connecting else ""
        found.args = (f"{found.args[0]} ({mask(self.base_url)}).{advice}",)
        return found


_EXTENSIONS = {"timeout": {"connect": CONNECT_TIMEOUT, "read": None, "write": None, "pool": None}}


def _same_origin_target(url: httpx.URL, response: httpx.Response) -> httpx.URL | None:
    """Where a redirect that keeps method and body leads, if it stays on the same scheme, host and port."""
    if response.status_code not in (307, 308):
        return None
    target = url.join(response.headers.get("location", ""))
    return target if (target.scheme, target.host, target.port) == (url.scheme, url.host, url.port) else None


# -- reading ---------------------------------------------------------------------------------------------------------


async def _chunks(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Decoded bytes as they come, LARGEST_REPLY of them at the most."""
    size = 0
    plain = response.headers.get("content-encoding", "identity") == "identity"
    stream: Any = response.stream if plain else response.aiter_bytes()
    async for chunk in stream:
        size += len(chunk)
        if size > LARGEST_REPLY:
            raise errors.ReplyTooLarge(
                f"The reply is larger than {LARGEST_REPLY // 2**20} MiB, so reading stopped. "
                "No model says that much: check what answers at this address."
            )
        yield chunk


async def _read(response: httpx.Response) -> bytes:
    async with contextlib.aclosing(response):
        return b"".join([chunk async for chunk in _chunks(response)])


async def lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Split chunks at line ends, which are dropped; a last line without one counts too."""
    rest = b""
    async for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line
    if rest:
        yield rest


async def events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
    """The data of each server-sent event (WHATWG HTML, 9.2), decoded by httpx-sse."""
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=_Stream(chunks))
    async for event in EventSource(response).aiter_sse():
        yield event.data


class _Stream(httpx.AsyncByteStream):
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks


# -- headers ---------------------------------------------------------------------------------------------------------


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from a Retry-After header, clamped to 0-600; None if there is none that can be read.

    Both forms of RFC 9110, 10.2.3: delta-seconds, and a date, which is held against the server's own Date so that
    clocks that differ do no harm.
    """
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value) if value[:1].isdigit() else _at(value) - _at(headers.get("date"))
    except (TypeError, ValueError):
        return None
    return min(max(seconds, 0.0), LONGEST_HOLD)


def _at(date: str | None) -> float:
    if date is None:
        return time.time()
    moment = email.utils.parsedate_to_datetime(date)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


# -- sessions, one pool a loop ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Pool:
    """One loop's connections to one kind of address."""

    session: aiohttp.ClientSession
    transport: Transport
    keeper: AsyncGenerator[_Pool, None] | None = None
    in_use: int = 0


_Key: TypeAlias = tuple[asyncio.AbstractEventLoop, bool, bool]
_pools: dict[_Key, _Pool] = {}


async def _pool(scheme: str, host: str) -> _Pool:
    """The running loop's connections for such an address; made when first asked for, without waiting.

    HTTP_PROXY and its like are honoured, but never for the loopback.
    """
    key = (asyncio.get_running_loop(), scheme == "https", not is_loopback(host))
    pool = _pools.get(key)
    if pool is None or pool.session.closed:
        for other in [other for other in _pools if other[0].is_closed()]:
            _pools.pop(other).session.detach()
        keeper = _keep(key)
        pool = _pools[key] = await anext(keeper)
        pool.keeper = keeper
    return pool


async def _keep(key: _Key) -> AsyncGenerator[_Pool, None]:
    """Hold a session open until its loop shuts down its async generators (as `asyncio.run` does at its end)."""
    _, secure, outside = key
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=_ssl_context() if secure else False),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=outside,
    )
    try:
        yield _Pool(session, AiohttpTransport(verify=False, client=session))  # TLS is the connector's, verified
    finally:
        _pools.pop(key, None)
        await session.close()


@functools.cache
def _ssl_context() -> ssl.SSLContext:
    return httpx.create_ssl_context()


async def close_idle() -> None:
    """Close the running loop's connections if no request uses them; the next request opens new ones."""
    loop = asyncio.get_running_loop()
    for key, pool in list(_pools.items()):
        if key[0] is loop and not pool.in_use and pool.keeper is not None:
            await pool.keeper.aclose()


@atexit.register
def _close_at_exit() -> None:
    for (loop, *_), pool in list(_pools.items()):
        if pool.keeper is not None and not loop.is_running() and not loop.is_closed():
            loop.run_until_complete(pool.keeper.aclose())


# -- foreign errors --------------------------------------------------------------------------------------------------

_ErrorType: TypeAlias = type[errors.RequestError]

_TRANSLATIONS: list[tuple[tuple[type[BaseException], ...], _ErrorType, str]] = [
    (
        (aiohttp.ConnectionTimeoutError, httpx.ConnectTimeout, httpx.PoolTimeout),
        errors.ConnectionTimeout,
        f"No connection within {CONNECT_TIMEOUT:g} s",
    ),
    (
        (TimeoutError, aiohttp.ServerTimeoutError, httpx.TimeoutException),
        errors.RequestTimeout,
        "No answer within {timeout:g} s; raise `timeout`, or lower `max_at_once` if the server works through a queue",
    ),
    (
        (ssl.SSLError, ssl.CertificateError, aiohttp.ClientSSLError, aiohttp.ServerFingerprintMismatch),
        errors.TLSFailed,
        "No secure connection: {detail}; set SSL_CERT_FILE if a certificate authority of your own signs here",
    ),
    (
        (aiohttp.ClientConnectorDNSError,),
        errors.ConnectionFailed,
        "The host name cannot be resolved; check base_url and the network",
    ),
    (
        (aiohttp.ClientProxyConnectionError, aiohttp.ClientHttpProxyError, httpx.ProxyError),
        errors.ConnectionFailed,
        "The proxy does not let us through: {detail}",
    ),
    (
        (aiohttp.ClientConnectorError, httpx.ConnectError, ConnectionRefusedError),
        errors.ConnectionFailed,
        "Cannot connect: {detail}",
    ),
    (
        (aiohttp.ClientPayloadError, httpx.ReadError),
        errors.ConnectionLost,
        "The connection was cut in the middle of the answer",
    ),
    (
        (HttpProcessingError, aiohttp.ClientResponseError, httpx.DecodingError, httpx.ProtocolError, httpx.StreamError),
        errors.BadReply,
        "What came back is not HTTP that can be read: {detail}; check what answers at this address",
    ),
    (
        (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError, httpx.UnsupportedProtocol, httpx.InvalidURL),
        errors.ConnectionFailed,
        "Not an address that can be asked; check base_url",
    ),
    (
        (aiohttp.ClientError, httpx.TransportError, httpx.HTTPError, OSError),
        errors.ConnectionLost,
        "The connection was closed before an answer came",
    ),
]


def translate(error: BaseException, timeout: float | None = None) -> errors.RequestError | None:
    """The library's error for one of aiohttp's, httpx's or the socket's; None for anything else.

    httpx-aiohttp calls many faults ConnectTimeout: what aiohttp said, its `__cause__`, decides.
    """
    root = error.__cause__ if isinstance(error.__cause__, (aiohttp.ClientError, ssl.SSLError)) else error
    if isinstance(root, httpx.ConnectError) and isinstance(root.__context__, ssl.SSLError):
        root = root.__context__
    for kinds, found, text in _TRANSLATIONS:
        if isinstance(root, kinds):
            seconds = timeout if timeout is not None else SILENCE
            return found(text.format(timeout=max(seconds, 0.0), detail=_detail(root)))
    if isinstance(root, RuntimeError) and "closed" in str(root):  # aiohttp, of a session closed under the request
        return errors.ConnectionLost("The connection was closed before an answer came")
    return None


def _detail(error: BaseException) -> str:
    """What the operating system or the library says, on one line, without addresses of objects."""
    reason = getattr(error, "os_error", None) or getattr(error, "certificate_error", None) or error
    text = getattr(reason, "strerror", None) or getattr(reason, "message", None) or str(reason) or type(reason).__name__
    return " ".join(str(text).split())[:200]


# -- answers without a socket ----------------------------------------------------------------------------------------

Handler: TypeAlias = Callable[[str, bytes], Awaitable[tuple[int, str, bytes | AsyncIterator[bytes]]]]
"""Given path and body, gives status, content type, and the body whole or as it comes."""


def embedded(handler: Handler) -> Transport:
    """A transport that asks a function instead of a server."""

    async def handle(request: httpx.Request) -> httpx.Response:
        status, content_type, body = await handler(request.url.path, request.content)
        headers = {"content-type": content_type}
        if isinstance(body, bytes):
            return httpx.Response(status, headers=headers, content=body)
        return httpx.Response(status, headers=headers, stream=_Stream(body))

    return httpx.MockTransport(handle)
