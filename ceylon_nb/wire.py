"""Wire: a request on its way and an answer as it comes in, through aiohttp itself or a transport of the user's.

Both look alike from `http`: something to send by, and something with a status, headers and a body in pieces. aiohttp
is asked directly: httpx's request, response, headers and address, made anew for each question only to be taken apart
again, cost as much as half of aiohttp's own work.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable, Coroutine, Mapping
from typing import Any, Protocol

import aiohttp
import httpx
import yarl
from multidict import CIMultiDict

from . import errors

REDIRECTS = (307, 308)
"""Those that keep method and body."""

LARGEST_REPLY = 64 * 2**20
"""Bytes, decoded. No model's reply comes near it."""


class Target:
    """Where to post, and with which headers; as each of the libraries wants to have it.

    Raises
    ------
    httpx.InvalidURL
        It is no address.
    """

    __slots__ = ("headers", "multidict", "url", "yarl")

    def __init__(self, url: str | httpx.URL, headers: Mapping[str, str]) -> None:
        self.url = httpx.URL(url)
        self.yarl = yarl.URL(str(self.url))
        self.headers = httpx.Headers(headers)
        self.multidict = CIMultiDict(headers)


class Incoming(Protocol):
    """An answer whose head has come. An `httpx.Response` is one, too."""

    @property
    def status_code(self) -> int: ...  # noqa: D102 - as httpx's

    @property
    def headers(self) -> Mapping[str, str]: ...  # noqa: D102

    @property
    def stream(self) -> Any: ...  # noqa: D102

    def aclose(self) -> Coroutine[Any, Any, None]: ...  # noqa: D102


class Answer:
    """An answer that comes through aiohttp."""

    __slots__ = ("_response", "headers", "status_code")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status_code = response.status
        self.headers: Mapping[str, str] = response.headers
        if (
            response.status != httpx.codes.OK
        ):  # its words are shown: where aiohttp reads half surrogate pairs, httpx text
            self.headers = httpx.Headers(response.raw_headers)

    @property
    def stream(self) -> AsyncIterable[bytes]:
        """The body as it comes, not decoded."""
        return self._response.content.iter_any()

    async def aclose(self) -> None:
        """Close the connection, unless all has been read: then it is free for the next request."""
        await self._response.__aexit__(None, None, None)

    async def read(self, url: str) -> bytes:
        """The whole body, decoded; the answer is closed then. No generator: each request would have three.

        Raises
        ------
        BadReply, ReplyTooLarge
            As `Unpacker`.
        """
        parts, content = [], self._response.content
        try:
            unpack = Unpacker(self.headers, url)
            while not content.at_eof():
                parts.append(unpack(await content.readany()))
        finally:
            if not self._response.closed:  # by itself, at its end
                await self.aclose()
        return b"".join(parts)


async def send_by_session(session: aiohttp.ClientSession, to: Target, body: bytes) -> Incoming:
    """Post through aiohttp; returns when the head of the answer has come."""
    return Answer(
        await session.post(to.yarl, headers=to.multidict, data=body, allow_redirects=False, auto_decompress=False)
    )


async def send_by_transport(
    transport: httpx.AsyncBaseTransport, to: Target, body: bytes, connect_timeout: float
) -> Incoming:
    """Post through a transport of the user's."""
    extensions = {"timeout": {"connect": connect_timeout, "read": None, "write": None, "pool": None}}
    request = httpx.Request("POST", to.url, headers=to.headers, content=body, extensions=extensions)
    return await transport.handle_async_request(request)


def same_origin_target(url: httpx.URL, response: Incoming) -> httpx.URL | None:
    """Where a redirect that keeps method and body leads, by the scheme, host and port that were asked.

    None if it leads to others, or to what is no address, or the answer is no such redirect. Of a login that it names
    nothing is kept.
    """
    location = response.headers.get("location") if response.status_code in REDIRECTS else None
    if not location:
        return None
    try:
        target = url.join(location)
        same_origin = (target.scheme, target.host, target.port) == (url.scheme, url.host, url.port)
        return url.copy_with(raw_path=target.raw_path) if same_origin else None
    except (httpx.InvalidURL, ValueError):  # the one says httpx, the other urllib
        return None


# -- reading ---------------------------------------------------------------------------------------------------------


class Unpacker:
    """Decodes a body piece by piece, LARGEST_REPLY bytes of it at the most; no single step decodes to more than that.

    Raises
    ------
    BadReply
        It is encoded in a way that nobody asked for.
    ReplyTooLarge
        It is larger.
    """

    __slots__ = ("_decoder", "_size", "_url")

    def __init__(self, headers: Mapping[str, str], url: str) -> None:
        encoding = headers.get("content-encoding", "identity").lower()
        if encoding not in ("identity", "gzip", "deflate"):
            raise errors.BadReply(f"{url} answers in {encoding!r}, which nobody asked for. Check base_url.", url=url)
        self._decoder = None if encoding == "identity" else zlib.decompressobj(zlib.MAX_WBITS | 32)
        self._size = 0
        self._url = url

    def __call__(self, data: bytes) -> bytes:
        """The next piece, decoded."""
        chunk = self._decoder.decompress(data, LARGEST_REPLY + 1) if self._decoder else data
        self._size += len(chunk)
        if self._size > LARGEST_REPLY:
            said = f"The reply of {self._url} is larger than {LARGEST_REPLY // 2**20} MiB. Check base_url."
            raise errors.ReplyTooLarge(said, url=self._url)
        return chunk
