"""`ModelServer`: Ollama's and OpenAI's wire formats on loopback, with faults to order.

- It runs on a loop of its own, in a thread of its own: it serves sync tests, async tests, threads and kernels alike,
  and a loop that a test blocks does not block it.
- The tests it is for count on it: what it counts (`Witness`) is exact, and how it fails (`faults`) is ordered.
- Paths are told apart by how they end, so that it works under any prefix.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web

from . import ollama, openai
from .exchange import Exchange
from .faults import Fault
from .listener import Listener
from .wire import Answer, Wire
from .witness import Outcome, Request, Witness

Reply = str | Mapping[str, Any]
Replier = Callable[[list[dict[str, Any]]], Reply]

_OLLAMA, _OPENAI = ollama.Ollama(), openai.OpenAI()
_CHATS: tuple[tuple[str, Wire], ...] = (("/api/chat", _OLLAMA), ("/chat/completions", _OPENAI))
_BACKLOG = 4096  # connections that come at the same moment wait to be accepted, not to be retried a second later


class ModelServer(Witness):
    """A model server on 127.0.0.1, for tests.

    ``with ModelServer() as server`` or ``async with``: listening on entry; on leaving, connections are closed, the
    thread is joined. A stopped server can be started again and keeps its port: a server that came back.

    Endpoints: POST …/api/chat and /api/show, GET …/api/tags and /api/version (Ollama), POST …/chat/completions and
    GET …/models (OpenAI).

    Parameters
    ----------
    reply : str or callable, optional
        What the model says: a text, or ``f(messages) -> str``, called in the server's thread. In place of a text, a
        message with ``{"content": …, "tool_calls": [{"function": {"name": …, "arguments": {…}}}]}``. Default: the
        answers of ``demo::tutor``, which calls the tools that it is offered.
    latency : float or callable
        Seconds before an answer, or ``f(request) -> seconds``.
    token_interval : float
        Seconds between the tokens of a stream. Tokens are words.
    models : sequence of str
        The models it has; others are answered with the real servers' 404. ``:latest`` may be left out.
    parallel : int, optional
        How many requests it works on at a time; the others queue. Default: all.
    api_key : str, optional
        The bearer without which it answers 401.
    headers : mapping or callable, optional
        Sent with each answer to a chat request, errors included: ``{"x-ratelimit-remaining-requests": "0", …}``; or
        ``f(request) -> mapping``, called when the request has come, after `plan`.
    host : str
        Loopback only: ``"127.0.0.1"``, ``"::1"``, ``"localhost"``.
    port : int
        0 means any free one; `url` has it.
    ssl_context : ssl.SSLContext, optional
        Speak TLS.
    keep : int
        How many records `requests` keeps.

    Attributes
    ----------
    faults : collections.deque of (Fault or None)
        Each chat request takes the first one, in order of arrival; None is an ordinary answer.
    plan : callable, optional
        ``f(request) -> Fault | None``, asked when `faults` is empty.

    Raises
    ------
    ValueError
        For a host that is not loopback, or a `parallel` below 1.
    OSError
        On entry, for a port that is taken.

    Notes
    -----
    Sources of the wire formats: https://github.com/ollama/ollama/blob/main/docs/api.md and
    https://platform.openai.com/docs/api-reference/chat.

    Examples
    --------
    >>> from ceylon_nb import LlmAgent
    >>> from ceylon_nb.testing import ModelServer
    >>> with ModelServer(reply=lambda messages: messages[-1]["content"].upper(), parallel=2) as server:
    ...     agent = LlmAgent("loud", "openai::mock", base_url=server.openai_url)
    ...     frame = await agent.map(["one", "two", "three"])
    >>> frame["reply"].tolist()
    ['ONE', 'TWO', 'THREE']
    >>> server.received, server.served, server.peak <= 3
    (3, 3, True)
    >>> sorted(request.prompt for request in server.requests)
    ['one', 'three', 'two']
    """

    def __init__(
        self,
        *,
        reply: Reply | Replier | None = None,
        latency: float | Callable[[Request], float] = 0.0,
        token_interval: float = 0.0,
        models: Sequence[str] = ("llama3.2:latest", "gemma3:latest", "mock"),
        parallel: int | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | Callable[[Request], Mapping[str, str]] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        keep: int = 100_000,
    ) -> None:
        super().__init__(keep=keep)
        if not _is_loopback(host):
            raise ValueError(f"a test server listens on loopback only, e.g. host='127.0.0.1', not on {host!r}")
        if parallel is not None and parallel < 1:
            raise ValueError(f"parallel is a number of requests from 1, or None for all; got {parallel}")
        self.reply = reply
        self.latency = latency
        self.token_interval = token_interval
        self.models = tuple(models)
        self.parallel = parallel
        self.api_key = api_key
        self.headers = headers
        self.host = host
        self.port = port
        self.faults: deque[Fault | None] = deque()
        self.plan: Callable[[Request], Fault | None] | None = None
        self._tutor: Callable[[list[dict[str, Any]], object], Reply] | None = None
        self._tls = ssl_context
        self._places: asyncio.Semaphore | None = None
        self._listener: Listener | None = None

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}"

    @property
    def ollama_url(self) -> str:
        """The base URL for Ollama's clients."""
        return self.url

    @property
    def openai_url(self) -> str:
        """The base URL for OpenAI's clients."""
        return f"{self.url}/v1"

    def next(self, *faults: Fault | None) -> None:
        """Order faults for the next chat requests, one each.

        Parameters
        ----------
        *faults : Fault or None
            In order of arrival; None is an ordinary answer.
        """
        self.faults.extend(faults)

    def start(self) -> Self:
        """Listen; when it returns, clients can connect.

        Returns
        -------
        ModelServer
            The server itself.

        Raises
        ------
        RuntimeError
            It is running.
        OSError
            The port is taken.
        """
        if self._listener is not None:
            raise RuntimeError("this server is running; for a second one make another ModelServer()")
        if self.reply is None:
            from ..providers import demo_tools

            self._tutor = demo_tools.reply
        self._places = asyncio.Semaphore(self.parallel) if self.parallel else None
        host = "127.0.0.1" if self.host == "localhost" else self.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, self.port), family=family, backlog=_BACKLOG)
        self.port = sock.getsockname()[1]
        self._listener = Listener(sock, self._handle, self._connect, self._tls)
        return self

    def stop(self) -> None:
        """Close every connection, end the thread. Requests that are active end as "stopped". Idempotent."""
        if self._listener is not None:
            self._listener.end().result()
            self._forget()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._listener is not None:
            await asyncio.wrap_future(self._listener.end())
            self._forget()

    def _forget(self) -> None:
        if self._listener is not None:
            self._listener.join()
            self._listener = None

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        path = http.raw_path.partition("?")[0]
        for suffix, wire in _CHATS:
            if path.endswith(suffix):
                if http.method != "POST":
                    return web.Response(status=405, text="405 method not allowed")
                return await self._chat(http, path, wire)
        return await self._page(http, path)

    async def _chat(self, http: web.BaseRequest, path: str, wire: Wire) -> web.StreamResponse:
        request = self._enter(path, http.headers)
        ordered = (self.faults.popleft(),) if self.faults else ()
        try:
            response = await self._respond(http, wire, request, ordered)
        except asyncio.CancelledError:
            self._settle(request, "stopped" if self._listener is None or self._listener.ending else "aborted")
            raise
        except ConnectionError:
            self._settle(request, "aborted")
            return web.Response()  # to nobody
        finally:
            if request.outcome == "active":  # an error in a callable that we were given: aiohttp logs it, and sends 500
                self._settle(request, "faulted")
        return response

    async def _respond(
        self, http: web.BaseRequest, wire: Wire, request: Request, ordered: tuple[Fault | None, ...]
    ) -> web.StreamResponse:
        refusal = self._read(request, wire, await http.content.read())
        fault = None if refusal else ordered[0] if ordered else self.plan and self.plan(request)
        outcome: Outcome = "refused" if refusal else "served" if fault is None or fault.harmless else "faulted"
        compose, settle = partial(self._compose, request, wire), partial(self._settle, request, outcome)
        headers = (self.headers(request) if callable(self.headers) else self.headers) or {}
        exchange = Exchange(http, wire, request, compose, self.token_interval, settle, headers)
        if refusal is not None:
            status, body = refusal
            return await exchange.send(body, status=status)
        if fault is not None and fault.at_once:
            return await fault.play(exchange)
        return await self._in_turn(exchange, fault)

    async def _in_turn(self, exchange: Exchange, fault: Fault | None) -> web.StreamResponse:
        if self._places is None:
            return await self._work(exchange, fault)
        if self._places.locked():
            self._queue(1)
            try:
                await self._places.acquire()
            finally:
                self._queue(-1)
        else:
            await self._places.acquire()
        try:
            return await self._work(exchange, fault)
        finally:
            self._places.release()

    async def _work(self, exchange: Exchange, fault: Fault | None) -> web.StreamResponse:
        seconds = self.latency(exchange.request) if callable(self.latency) else self.latency
        if seconds > 0:
            await asyncio.sleep(seconds)
        return await (exchange.answer() if fault is None else fault.play(exchange))

    def _compose(self, request: Request, wire: Wire) -> Answer:
        if self.reply is None and self._tutor is not None:
            reply: Reply = self._tutor(request.messages, request.body.get("tools"))
        else:
            reply = (self.reply(request.messages) if callable(self.reply) else self.reply) or ""
        limit = wire.limit(request.body)
        return Answer.compose(request, reply, limit if isinstance(limit, int) and limit > 0 else None)

    def _read(self, request: Request, wire: Wire, raw: bytes) -> tuple[int, bytes] | None:
        """Fill the record from the body; return status and body of the refusal, if it must be refused."""
        try:
            body = orjson.loads(raw)
        except ValueError:
            body = None
        if isinstance(body, dict):
            request.understand(body, stream=wire.streams(body))
            self._recognise(request)
        if refusal := self._locked_out(request.headers, wire):
            return refusal
        if not isinstance(body, dict):
            return 400, wire.error(400)
        model = body.get("model")
        if not isinstance(model, str) or not model:
            return 400, wire.error(400, "model is required")
        return None if self._has(model) else (404, wire.no_model(model))

    def _locked_out(self, headers: Mapping[str, str], wire: Wire) -> tuple[int, bytes] | None:
        key = headers.get("Authorization", "").removeprefix("Bearer ")
        return None if self.api_key in (None, key) else (401, wire.no_key(key))

    def _has(self, model: str) -> bool:
        return model in self.models or any(_full(model) == _full(mine) for mine in self.models)

    async def _page(self, http: web.BaseRequest, path: str) -> web.StreamResponse:
        """All but chats: small, counted by nobody."""
        wire = _OPENAI if path.endswith("/models") else _OLLAMA
        status, body = self._locked_out(http.headers, wire) or (200, b"")
        if not body:
            status, body = self._page_body(http.method, path, await http.content.read())
        kind = wire.plain_type if body.startswith(b"{") else "text/plain; charset=utf-8"
        return web.Response(status=status, body=body, headers={"Content-Type": kind})

    def _page_body(self, method: str, path: str, raw: bytes) -> tuple[int, bytes]:
        match method, path.rpartition("/")[2]:
            case "GET", "tags":
                return 200, ollama.tags(self.models)
            case "GET", "models":
                return 200, openai.model_list(self.models)
            case "GET", "version":
                return 200, b'{"version":"0.12.6"}'
            case "GET" | "HEAD", "":
                return 200, b"Ollama is running"
            case "POST", "show":
                return self._show(raw)
        return 404, b"404 page not found"

    def _show(self, raw: bytes) -> tuple[int, bytes]:
        try:
            model = orjson.loads(raw)["model"]
        except (ValueError, KeyError, TypeError):
            return 400, _OLLAMA.error(400)
        return (200, ollama.show()) if self._has(model) else (404, _OLLAMA.no_model(model))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _full(model: str) -> str:
    """The name with its tag, as Ollama reads it."""
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"
