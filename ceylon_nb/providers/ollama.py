"""``ollama::`` - Ollama's own ``/api/chat``, JSON and NDJSON.

Source of the wire format: https://docs.ollama.com/api/chat; of the forms of OLLAMA_HOST: Ollama's ``envconfig.Host``
and the official Python client.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, ClassVar

import orjson

from ..messages import CallsMessage, Message, Reply, ResultMessage, ToolCall
from ..urls import Address, server_parts
from .base import Connection, Request, Server, count_tokens, text_or_none
from .calls import offer
from .deltas import Delta
from .framing import Lines

if TYPE_CHECKING:
    from ..http import Handler, Transport

PATH = "/api/chat"


class Ollama:
    """An Ollama server.

    Parameters
    ----------
    base_url : str, optional
        Any form that OLLAMA_HOST may have; without it OLLAMA_URL or OLLAMA_HOST, else this machine's port 11434.
    api_key : str, optional
        For a server behind a key; without it OLLAMA_API_KEY, unless there is a login in the address.
    transport : httpx.AsyncBaseTransport, optional
        In place of the default one.
    handler : callable, optional
        What answers in place of a server, if there is no transport; see `http.embedded`.

    Raises
    ------
    ConfigurationError
        The address or the key cannot be right.
    """

    more_at_once = "for Ollama, OLLAMA_NUM_PARALLEL raises that"
    missing_model: ClassVar = "Fetch it with `ollama pull {model}`; `ollama list` shows what is there."

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        transport: Transport | None = None,
        *,
        handler: Handler | None = None,
    ) -> None:
        env = os.environ
        self.base_url = parse_host(base_url or env.get("OLLAMA_URL") or env.get("OLLAMA_HOST") or "")
        address = Address.of(self.base_url + PATH, api_key, env.get("OLLAMA_API_KEY"))
        self.account = address.account
        self._server = Server(
            address,
            missing_model=self.missing_model,
            authentication="The server wants a key, or another one: pass api_key or set OLLAMA_API_KEY.",
            dialect="Check base_url (an OpenAI-compatible server goes by openai::).",
        )
        self._connection = Connection(
            address,
            transport=transport,
            handler=handler,
            help_connecting="Is Ollama running there? Start it with `ollama serve`, or set OLLAMA_HOST or base_url.",
        )

    def prepare(self) -> None:
        """Import what asks, and read certificates."""
        self._connection.prepare()

    async def complete(self, request: Request) -> Reply:
        """Ask for the whole answer at once."""
        client = await self._connection.client()
        response = await client.post(_body(request, stream=False), timeout=request.timeout)
        self._server.check(response, request.model)
        delta = self._delta(response.content, request)
        if delta.finish_reason is None:
            raise self._server.broke_off()
        if not delta.text and not delta.tool_calls:
            raise self._server.without_text(response.content, delta.finish_reason)
        return self._server.reply(delta)

    async def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Ask, and yield one delta for each line of NDJSON."""
        client = await self._connection.client()
        async with await client.stream(_body(request, stream=True), timeout=request.timeout) as answer:
            self._server.check(answer.head, request.model)
            said, calls, lines, ended = False, 0, Lines(), False
            while not ended:
                chunk = await anext(answer.chunks, None)
                ended = chunk is None
                for line in lines.rest() if chunk is None else lines.feed(chunk):
                    if line.strip():
                        delta = self._delta(line, request, calls)
                        calls += len(delta.tool_calls)
                        said = said or bool(delta.text or calls)
                        yield delta
                        if delta.finish_reason is not None and not said:
                            raise self._server.without_text(line, delta.finish_reason)
                        if delta.finish_reason is not None:
                            return
        raise self._server.broke_off()

    def _delta(self, line: bytes, request: Request, calls_before: int = 0) -> Delta:
        value = self._server.decode(line)
        message = value.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        calls: tuple[ToolCall, ...] = ()
        if request.tools and isinstance(message, dict):
            calls = self._server.calls(message.get("tool_calls"), request, line, before=calls_before)
            text = "" if calls and text is None else text
        if not isinstance(text, str):
            raise self._server.foreign(line)
        model = text_or_none(value.get("model"))
        if not value.get("done"):
            return Delta(text, model, tool_calls=calls)
        usage = count_tokens(value, "prompt_eval_count", "eval_count")
        return Delta(text, model, text_or_none(value.get("done_reason")) or "stop", usage, line, calls)


def _body(request: Request, *, stream: bool) -> bytes:
    options: dict[str, float] = {}
    if request.temperature is not None:
        options["temperature"] = request.temperature
    if request.max_tokens is not None:
        options["num_predict"] = request.max_tokens
    body: dict[str, Any] = {"model": request.model, "messages": request.messages, "stream": stream}
    if options:
        body["options"] = options
    if request.tools:
        body["tools"] = offer(request.tools)
        body["messages"] = [_turn(message) for message in request.messages]
    return orjson.dumps(body)


def _turn(message: Message) -> object:
    """A message, with the calls it makes, or the name of the one it answers; newer servers know calls by ids, too."""
    match message:
        case CallsMessage(role, content, calls):
            made = [{"id": call.id, "function": _called(call)} for call in calls]
            return {"role": role, "content": content, "tool_calls": made}
        case ResultMessage(role, content, call):
            return {"role": role, "content": content, "tool_name": call.name, "tool_call_id": call.id}
    return message


def _called(call: ToolCall) -> dict[str, Any]:
    """A call; arguments that are no object cannot be said in this format."""
    return {"name": call.name, "arguments": {} if isinstance(call.arguments, str) else call.arguments}


def parse_host(host: str) -> str:
    """A base URL from any form that OLLAMA_HOST may have.

    ``host``, ``host:port``, ``:port``, ``scheme://host[:port]``, an IPv6 address with or without brackets, each with
    or without a path prefix and a trailing slash. A server's bind address (0.0.0.0, [::]) means this machine.

    Raises
    ------
    ConfigurationError
        It is none of these.
    """
    scheme, found, rest = host.strip().strip("\"'").partition("://")
    scheme, rest = (scheme.lower(), rest) if found else ("http", scheme)
    authority, slash, path = rest.partition("/")
    login, at, place = authority.rpartition("@")
    if place.count(":") > 1 and "[" not in place:
        place = f"[{place}]"
    if place.startswith(":") or not (place or found or slash):  # a port alone, or nothing at all
        place = f"127.0.0.1{place}"
    if slash and not found and place.endswith(":"):  # "ftp:/host"
        place = ""
    advice = "Write http://host:port, in base_url, OLLAMA_URL or OLLAMA_HOST."
    parts = server_parts(f"{scheme}://{place}/{path}", host, advice)
    default_port = (443 if scheme == "https" else 80) if found else 11434
    name, port = _reachable(parts.hostname or ""), parts.port or default_port
    return f"{scheme}://{login}{at}{name}:{port}/{parts.path.strip('/')}".rstrip("/")


def _reachable(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"[{address}]" if address.version == 6 else str(address)
