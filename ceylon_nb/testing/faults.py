"""Faults to order: what a server, or the network before it, does wrong, one constructor each.

A fault *in place of* an answer (an error status, a reset …) comes at once and takes none of the server's ``parallel``
places. A fault *in* an answer (a cut stream …) takes a place and the usual latency first. To delay one of the former,
say ``slow(0.05, then=status(500))``.
"""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from .exchange import Exchange

Play = Callable[[Exchange], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to go wrong. Make your own from a coroutine function that is handed an `Exchange`.

    Attributes
    ----------
    name : str
        What its repr shows.
    play : callable
        ``async def play(exchange) -> StreamResponse``, by `Exchange.send`, or `Exchange.open_stream`, `Exchange.write`
        and `Exchange.finish`.
    at_once : bool
        Played without latency and without a place.
    harmless : bool
        The answer arrives complete and correct all the same: counted as served.

    Examples
    --------
    >>> from ceylon_nb import LlmAgent
    >>> from ceylon_nb.testing import Fault, ModelServer
    >>> async def play(exchange):
    ...     return await exchange.send(b'{"error": "out to lunch"}', status=503)
    >>> with ModelServer() as server:
    ...     server.next(Fault("lunch", play))
    ...     agent = LlmAgent("pupil", "ollama::mock", base_url=server.url, attempts=1)
    ...     run = agent.map(["Hello"])
    ...     frame = await run
    >>> frame["error"].tolist()[0].split(" (")[0]
    'ServerError: 503, "out to lunch"'
    """

    name: str
    play: Play = field(repr=False)
    at_once: bool = True
    harmless: bool = False


def status(code: int, body: bytes | str | None = None, headers: Mapping[str, str] | None = None) -> Fault:
    """An error status.

    Parameters
    ----------
    code : int
        The HTTP status.
    body : bytes or str, optional
        Without it the one that the real server sends with this status.
    headers : mapping, optional
        Sent besides the usual ones.

    Returns
    -------
    Fault
        For `ModelServer.next`, `ModelServer.faults` or `ModelServer.plan`.
    """
    content = body.encode() if isinstance(body, str) else body

    async def play(exchange: Exchange) -> web.StreamResponse:
        shown = exchange.wire.error(code) if content is None else content
        return await exchange.send(shown, status=code, headers=headers)

    return Fault(f"status({code})", play)


def rate_limited(retry_after: float | str | None = 1) -> Fault:
    """429, too many requests.

    Parameters
    ----------
    retry_after : float, str or None
        Seconds; any text (an HTTP date, nonsense); or None for no such header.

    Returns
    -------
    Fault
        For `ModelServer.next`, `ModelServer.faults` or `ModelServer.plan`.
    """
    value = retry_after if isinstance(retry_after, str) or retry_after is None else f"{retry_after:g}"
    refusal = status(429, headers=None if value is None else {"Retry-After": value})
    return Fault(f"rate_limited({retry_after!r})", refusal.play)


def body(
    content: bytes,
    content_type: str = "application/json",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
) -> Fault:
    """Any body at all, in place of the answer.

    Parameters
    ----------
    content : bytes
        As it is.
    content_type : str
        What the header says of it.
    status : int
        The HTTP status.
    headers : mapping, optional
        Sent besides the usual ones.

    Returns
    -------
    Fault
        For `ModelServer.next`, `ModelServer.faults` or `ModelServer.plan`.
    """

    async def play(exchange: Exchange) -> web.StreamResponse:
        return await exchange.send(content, status=status, content_type=content_type, headers=headers)

    return Fault(f"body({content[:20]!r})", play)


def redirect(url: str, status: int = 307) -> Fault:
    """A redirect.

    Parameters
    ----------
    url : str
        Where to.
    status : int
        The HTTP status, 3xx.

    Returns
    -------
    Fault
        For `ModelServer.next`, `ModelServer.faults` or `ModelServer.plan`.
    """
    answer = body(b"", "text/html", status, {"Location": url})
    return Fault(f"redirect({url!r})", answer.play)


def reset() -> Fault:
    """The connection is reset (RST) before any header is sent."""

    async def play(exchange: Exchange) -> web.StreamResponse:
        exchange.abort()
        return web.Response()

    return Fault("reset()", play)


def bad_status_line() -> Fault:
    """Bytes that are no HTTP, then the end of the connection."""

    async def play(exchange: Exchange) -> web.StreamResponse:
        exchange.settle()
        exchange.write_raw(b"HTTP/1.1 abc\r\n\r\n")
        exchange.close()
        return web.Response()

    return Fault("bad_status_line()", play)


def gzip_bomb(size: int) -> Fault:
    """A small gzip-encoded body that decodes to white space. Made here, about 2 s a GB.

    Parameters
    ----------
    size : int
        Bytes, decoded.

    Returns
    -------
    Fault
        For `ModelServer.next`, `ModelServer.faults` or `ModelServer.plan`.
    """
    content = _spaces_gzipped(size)
    bomb = body(content, headers={"Content-Encoding": "gzip"})
    return Fault(f"gzip_bomb({size})", bomb.play)


def hang(after: int | None = None) -> Fault:
    """Never answers, until the client leaves (and is counted as aborted).

    Parameters
    ----------
    after : int, optional
        Fall silent in the middle instead: after the headers and so many tokens of a stream; a plain answer's headers
        and first half.

    Returns
    -------
    Fault
        For `ModelServer.next`, `ModelServer.faults` or `ModelServer.plan`.
    """

    async def play(exchange: Exchange) -> web.StreamResponse:
        if after is not None:
            await _begin(exchange, after)
        await asyncio.Event().wait()
        raise AssertionError("nobody sets this event")

    return Fault(f"hang({after})", play, at_once=after is None)


def cut(after: int = 1) -> Fault:
    """The connection closes before the end.

    Parameters
    ----------
    after : int
        Tokens of a stream that are sent before; a plain answer is cut half-way through.

    Returns
    -------
    Fault
        For `ModelServer.next`, `ModelServer.faults` or `ModelServer.plan`.
    """

    async def play(exchange: Exchange) -> web.StreamResponse:
        response = await _begin(exchange, after)
        exchange.close()
        return response

    return Fault(f"cut({after})", play, at_once=False)


def malformed() -> Fault:
    """200 with broken JSON; in a stream one broken line, after which it goes on as if nothing had happened."""

    async def play(exchange: Exchange) -> web.StreamResponse:
        wire, answer = exchange.wire, exchange.compose()
        if not exchange.request.stream:
            return await exchange.send(wire.whole(answer)[:-2])
        broken = wire.chunk(answer, "broken").rstrip()[:-2] + wire.frame_end
        response = await exchange.open_stream()
        frames = wire.frames(answer)
        await exchange.write(response, [*frames[:1], broken, *frames[1:]])
        return await exchange.finish(response, wire.ending(answer))

    return Fault("malformed()", play, at_once=False)


def error_in_stream(message: str = "an error was encountered while running the model", after: int = 1) -> Fault:
    """An ``{"error": …}`` in the midst of a stream, then its end; a plain answer is that error, with a 200.

    Parameters
    ----------
    message : str
        What it says.
    after : int
        Tokens that are sent before.

    Returns
    -------
    Fault
        For `ModelServer.next`, `ModelServer.faults` or `ModelServer.plan`.
    """

    async def play(exchange: Exchange) -> web.StreamResponse:
        wire = exchange.wire
        if not exchange.request.stream:
            return await exchange.send(wire.error(500, message))
        response = await exchange.open_stream()
        await exchange.write(response, wire.frames(exchange.compose())[:after])
        return await exchange.finish(response, wire.error_frame(message))

    return Fault(f"error_in_stream({message!r}, {after})", play, at_once=False)


def half_character(*, cut: bool = False) -> Fault:
    """An answer whose last chunk ends within a UTF-8 character.

    Parameters
    ----------
    cut : bool
        Then close the connection, instead of ending the answer.

    Returns
    -------
    Fault
        For `ModelServer.next`, `ModelServer.faults` or `ModelServer.plan`.
    """

    async def play(exchange: Exchange) -> web.StreamResponse:
        wire, answer = exchange.wire, exchange.compose()
        streamed = exchange.request.stream
        frame = wire.chunk(answer, "caf\u00e9") if streamed else wire.whole(answer, ended=False)[:12] + b"caf\xc3\xa9"
        half = frame[: frame.index(b"\xc3") + 1]
        response = await (exchange.open_stream() if streamed else exchange.open_plain(len(half) + cut))
        await exchange.write(response, wire.frames(answer)[:1] if streamed else [])
        if not cut:
            return await exchange.finish(response, half)
        await response.write(half)
        exchange.close()
        return response

    return Fault(f"half_character(cut={cut})", play, at_once=False)


def no_end() -> Fault:
    """All the text and a clean end of HTTP, but no ``done``, no ``[DONE]``, no finish reason."""

    async def play(exchange: Exchange) -> web.StreamResponse:
        answer = exchange.compose()
        if not exchange.request.stream:
            return await exchange.send(exchange.wire.whole(answer, ended=False))
        response = await exchange.open_stream()
        await exchange.write(response, exchange.wire.frames(answer))
        return await exchange.finish(response)

    return Fault("no_end()", play, at_once=False)


def drip(interval: float = 0.0, *, forever: bool = False) -> Fault:
    """One byte at a time.

    Parameters
    ----------
    interval : float
        Seconds between two bytes.
    forever : bool
        Drip white space in place of the answer, without end.

    Returns
    -------
    Fault
        For `ModelServer.next`, `ModelServer.faults` or `ModelServer.plan`.
    """

    async def play(exchange: Exchange) -> web.StreamResponse:
        wire, answer = exchange.wire, exchange.compose()
        if exchange.request.stream or forever:
            content = b"".join(wire.frames(answer)) + wire.ending(answer)
            response = await exchange.open_stream()
        else:
            content = wire.whole(answer)
            response = await exchange.open_plain(len(content))
        while forever:
            await _drip(response, b"\n", interval)
        await _drip(response, content[:-1], interval)
        return await exchange.finish(response, content[-1:])

    return Fault(f"drip({interval:g}, forever={forever})", play, at_once=False, harmless=not forever)


def slow(seconds: float, then: Fault | None = None) -> Fault:
    """Later than usual; then the answer, or another fault.

    Parameters
    ----------
    seconds : float
        Seconds, besides the server's latency.
    then : Fault, optional
        In place of the answer.

    Returns
    -------
    Fault
        For `ModelServer.next`, `ModelServer.faults` or `ModelServer.plan`.
    """

    async def play(exchange: Exchange) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await (exchange.answer() if then is None else then.play(exchange))

    return Fault(f"slow({seconds:g}, {then})", play, at_once=False, harmless=then is None or then.harmless)


async def _begin(exchange: Exchange, after: int) -> web.StreamResponse:
    """Send the headers and `after` tokens of a stream, or half of a plain answer."""
    answer = exchange.compose()
    if exchange.request.stream:
        response = await exchange.open_stream()
        await exchange.write(response, exchange.wire.frames(answer)[:after])
    else:
        content = exchange.wire.whole(answer)
        response = await exchange.open_plain(len(content))
        await response.write(content[: len(content) // 2])
    return response


async def _drip(response: web.StreamResponse, content: bytes, interval: float) -> None:
    for i in range(len(content)):
        await response.write(content[i : i + 1])
        await asyncio.sleep(interval)


def _spaces_gzipped(size: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    block = b" " * (1 << 20)
    parts = [packer.compress(block) for _ in range(size >> 20)]
    parts += [packer.compress(block[: size % (1 << 20)]), packer.flush()]
    return b"".join(parts)
