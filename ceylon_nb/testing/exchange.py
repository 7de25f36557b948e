"""One request and the means to answer it, well or badly."""

import asyncio
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from .wire import Answer, Wire
from .witness import Request

_LARGE = 1 << 16  # bytes: what is longer may wait for its reader, and is not ended before


@dataclass(eq=False, slots=True)
class Exchange:
    """What a fault is handed: the request, its wire format, and ways to send.

    Attributes
    ----------
    http : aiohttp.web.BaseRequest
        The request, as aiohttp has it.
    wire : Wire
        The format in which the client speaks, a `Wire`: what writes answers, frames and errors as bytes.
    request : Request
        The request, as the server saw it.
    compose : callable
        Returns the `ceylon_nb.testing.wire.Answer` that the server would give; call it once.
    token_interval : float
        Seconds between the frames of a stream.
    headers : Mapping
        Sent with whatever is sent.
    settle : callable
        Counts the request as ended. Called by `finish`, `close` and `abort`, right before the client can know.
    """

    http: web.BaseRequest
    wire: Wire
    request: Request
    compose: Callable[[], Answer]
    token_interval: float
    settle: Callable[[], None]
    headers: Mapping[str, str] = field(default_factory=dict)

    async def answer(self) -> web.StreamResponse:
        """Answer as asked, completely.

        Returns
        -------
        aiohttp.web.StreamResponse
            What `Fault.play` returns.
        """
        answer = self.compose()
        if not self.request.stream:
            return await self.send(self.wire.whole(answer))
        response = await self.open_stream()
        await self.write(response, self.wire.frames(answer))
        return await self.finish(response, self.wire.ending(answer))

    async def send(
        self,
        body: bytes,
        *,
        status: int = 200,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> web.StreamResponse:
        """Send one whole body.

        Parameters
        ----------
        body : bytes
            As it is.
        status : int
            The HTTP status.
        content_type : str, optional
            JSON, unless told.
        headers : mapping, optional
            Sent besides those of the server.

        Returns
        -------
        aiohttp.web.StreamResponse
            What `Fault.play` returns.
        """
        heads = self._headers(content_type or self.wire.plain_type) | dict(headers or {})
        if len(body) > _LARGE:
            response = await self._open(heads | {"Content-Length": str(len(body))}, status)
            await response.write(body[:-1])
            return await self.finish(response, body[-1:])
        small = web.Response(status=status, body=body, headers=heads)
        await small.prepare(self.http)
        return await self.finish(small)

    async def open_stream(self) -> web.StreamResponse:
        """Send the headers of a stream.

        Returns
        -------
        aiohttp.web.StreamResponse
            For `write` and `finish`.
        """
        return await self._open(self._headers(self.wire.stream_type))

    async def open_plain(self, length: int) -> web.StreamResponse:
        """Send the headers of a plain answer.

        Parameters
        ----------
        length : int
            Bytes that are to follow.

        Returns
        -------
        aiohttp.web.StreamResponse
            For `write` and `finish`.
        """
        return await self._open(self._headers(self.wire.plain_type) | {"Content-Length": str(length)})

    async def write(self, response: web.StreamResponse, frames: Iterable[bytes]) -> None:
        """Write frames, each as one chunk, `token_interval` seconds apart.

        Parameters
        ----------
        response : aiohttp.web.StreamResponse
            That was opened.
        frames : iterable of bytes
            A frame is one line of NDJSON or one server-sent event, its end included.
        """
        for i, frame in enumerate(frames):
            if i and self.token_interval:
                await asyncio.sleep(self.token_interval)
            await response.write(frame)

    async def finish(self, response: web.StreamResponse, last: bytes = b"") -> web.StreamResponse:
        """Write the last bytes, and the end.

        Parameters
        ----------
        response : aiohttp.web.StreamResponse
            That was opened.
        last : bytes
            May be empty.

        Returns
        -------
        aiohttp.web.StreamResponse
            What `Fault.play` returns.
        """
        self.settle()
        await response.write_eof(last)
        return response

    def write_raw(self, data: bytes) -> None:
        """Write bytes past all that knows of HTTP.

        Parameters
        ----------
        data : bytes
            As they are.
        """
        if self.http.transport is not None:
            self.http.transport.write(data)

    def close(self) -> None:
        """Close the connection once what is written has gone; nothing more is sent, no end of a stream either."""
        self.settle()
        if self.http.transport is not None:
            self.http.transport.close()

    def abort(self) -> None:
        """Close the connection with a RST, at once."""
        self.settle()
        transport = self.http.transport
        if transport is not None:
            linger_not = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
            transport.abort()

    def _headers(self, content_type: str) -> dict[str, str]:
        return {"Content-Type": content_type} | self.wire.headers(self.request) | dict(self.headers)

    async def _open(self, headers: Mapping[str, str], status: int = 200) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(self.http)
        return response
