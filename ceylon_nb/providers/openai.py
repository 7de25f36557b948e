"""``openai::`` - any OpenAI-compatible ``/v1/chat/completions``, JSON and server-sent events.

vLLM, llama.cpp's server, LM Studio, OpenRouter and Groq are this and a URL.
Source of the wire format: https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from .. import errors
from ..messages import CallsMessage, Message, Reply, ResultMessage, ToolCall, Usage
from ..urls import Address, mask, server_parts
from .base import Connection, Request, Server, count_tokens, text_or_none
from .calls import offer
from .deltas import Delta
from .framing import Events

if TYPE_CHECKING:
    from ..http import Transport

OFFICIAL = "https://api.openai.com/v1"
PATH = "/chat/completions"


class OpenAI:
    """A server that speaks OpenAI's chat completions.

    Parameters
    ----------
    base_url : str, optional
        With its path prefix (``http://localhost:8000/v1``); ``/v1`` is added to an address without any. Without it
        OPENAI_BASE_URL, else OpenAI's own.
    api_key : str, optional
        Without it OPENAI_API_KEY, unless there is a login in the address. OpenAI's own address needs one.
    transport : httpx.AsyncBaseTransport, optional
        In place of the default one.

    Raises
    ------
    MissingAPIKey
        OpenAI's own address, and no key.
    ConfigurationError
        The address or the key cannot be right.
    """

    more_at_once = ""

    def __init__(
        self, base_url: str | None = None, api_key: str | None = None, transport: Transport | None = None
    ) -> None:
        env = os.environ
        self.base_url = parse_base_url(base_url or env.get("OPENAI_BASE_URL") or OFFICIAL)
        address = Address.of(self.base_url + PATH, api_key, env.get("OPENAI_API_KEY"))
        self.account = address.account
        self._official = self.base_url == OFFICIAL
        if self._official and not address.headers:
            raise errors.MissingAPIKey(
                "API key required for provider 'openai'. Please set the OPENAI_API_KEY environment variable "
                "or pass the API key explicitly."
            )
        self._server = Server(
            address,
            missing_model=f"See {address.url.removesuffix(PATH)}/models for those that the server has.",
            authentication="Check the key: pass api_key or set OPENAI_API_KEY.",
            dialect="Check base_url: it usually ends in /v1 (Ollama's own API goes by ollama::).",
        )
        self._connection = Connection(
            address,
            transport=transport,
            help_connecting="Check that the server runs and that base_url (or OPENAI_BASE_URL) is its address.",
        )

    def prepare(self) -> None:
        """Import what asks, and read certificates."""
        self._connection.prepare()

    async def complete(self, request: Request) -> Reply:
        """Ask for the whole answer at once."""
        client = await self._connection.client()
        response = await client.post(self._body(request, stream=False), timeout=request.timeout)
        self._server.check(response, request.model)
        delta = self._whole(response.content, request)
        return self._server.reply(delta)

    async def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Ask, and yield one delta for each server-sent event, until ``[DONE]``."""
        reason, said, fragments = None, False, _Fragments()
        client = await self._connection.client()
        async with await client.stream(self._body(request, stream=True), timeout=request.timeout) as answer:
            self._server.check(answer.head, request.model)
            if "event-stream" not in answer.head.headers.get(
                "content-type", "event-stream"
            ):  # an answer, but no stream
                delta = self._whole(b"".join([chunk async for chunk in answer.chunks]), request)
                yield delta if delta.finish_reason else replace(delta, finish_reason="stop")
                return
            events, done = Events(), False
            async for chunk in answer.chunks:
                for event in events.feed(chunk):
                    if event.strip() == b"[DONE]":
                        done = True
                        break
                    if event.strip():
                        delta = self._delta(event, request, fragments)
                        reason = delta.finish_reason or reason
                        said = said or bool(delta.text or delta.tool_calls)
                        yield delta
                if done:
                    break
            if done and reason is None:
                reason = "stop"
                calls = self._server.calls(fragments.joined(), request, b"[DONE]")
                said = said or bool(calls)
                yield Delta(finish_reason=reason, tool_calls=calls)
        if reason is None:  # a server may leave out [DONE], or why it stopped, but not both
            raise self._server.broke_off()
        if not said:
            raise self._server.without_text(b"", reason)

    def _whole(self, content: bytes, request: Request) -> Delta:
        value = self._server.decode(content)
        choice = self._choice(value, content)
        message, reason = choice.get("message"), text_or_none(choice.get("finish_reason"))
        if not isinstance(message, dict):
            raise self._server.foreign(content)
        text = _text(message.get("content"))
        calls = self._server.calls(message.get("tool_calls"), request, content)
        if not text and not calls:
            raise self._server.without_text(content, reason, _text(message.get("refusal")))
        return Delta(text, text_or_none(value.get("model")), reason, _usage(value), content, calls)

    def _delta(self, event: bytes, request: Request, fragments: _Fragments) -> Delta:
        value = self._server.decode(event)
        model, usage = text_or_none(value.get("model")), _usage(value)
        if not value.get("choices"):  # the last event holds the usage alone
            return Delta(model=model, usage=usage)
        choice = self._choice(value, event)
        delta, reason = choice.get("delta"), text_or_none(choice.get("finish_reason"))
        text = _text(delta.get("content")) if isinstance(delta, dict) else ""
        if request.tools and isinstance(delta, dict):
            fragments.add(delta.get("tool_calls"))
        if not reason:
            return Delta(text, model, None, usage)
        return Delta(text, model, reason, usage, event, self._server.calls(fragments.joined(), request, event))

    def _choice(self, value: dict[str, Any], content: bytes) -> dict[str, Any]:
        choices = value.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise self._server.foreign(content)
        return choices[0]

    def _body(self, request: Request, *, stream: bool) -> bytes:
        body: dict[str, Any] = {"model": request.model, "messages": request.messages, "stream": stream}
        if stream:
            body["stream_options"] = {"include_usage": True}
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.max_tokens is not None:  # OpenAI's own newer models refuse the name that all others know
            body["max_completion_tokens" if self._official else "max_tokens"] = request.max_tokens
        if request.tools:
            body["tools"] = offer(request.tools)
            body["messages"] = [_turn(message) for message in request.messages]
        return orjson.dumps(body)


class _Fragments:
    """The calls of a stream, put together: their arguments come in pieces, told apart by an index.

    Some servers give whole calls one and the same index, or none; then each has its own id.
    """

    def __init__(self) -> None:
        self._calls: list[dict[str, Any]] = []
        self._open: dict[int | None, dict[str, Any]] = {}

    def add(self, found: object) -> None:
        for piece in found if isinstance(found, list) else ():
            if not isinstance(piece, dict):
                self._calls.append({})  # which nobody can read
                continue
            function = piece.get("function")
            function = function if isinstance(function, dict) else {}
            index = piece.get("index") if isinstance(piece.get("index"), int) else None
            call = self._open.get(index)
            if call is None or (function.get("name") and piece.get("id") not in (None, "", call["id"])):
                call = {"id": piece.get("id"), "function": {"name": None, "arguments": ""}}
                self._open[index] = call
                self._calls.append(call)
            self._extend(call["function"], function)

    def _extend(self, function: dict[str, Any], piece: dict[str, Any]) -> None:
        function["name"] = piece.get("name") or function["name"]
        more = piece.get("arguments")
        if isinstance(more, str) and isinstance(function["arguments"], str):
            function["arguments"] += more
        elif more is not None:
            function["arguments"] = more

    def joined(self) -> list[dict[str, Any]]:
        """Those that have come, once."""
        calls, self._calls, self._open = self._calls, [], {}
        return calls


def _turn(message: Message) -> object:
    """A message, with the calls it makes, or the id of the one it answers."""
    match message:
        case CallsMessage(role, content, calls):
            made = [{"id": call.id, "type": "function", "function": _called(call)} for call in calls]
            return {"role": role, "content": content or None, "tool_calls": made}
        case ResultMessage(role, content, call):
            return {"role": role, "content": content, "tool_call_id": call.id}
    return message


def _called(call: ToolCall) -> dict[str, str]:
    """A call; arguments that are no JSON object are left out, as some servers refuse to read them again."""
    arguments = "{}" if isinstance(call.arguments, str) else orjson.dumps(call.arguments).decode()
    return {"name": call.name, "arguments": arguments}


def _text(content: object) -> str:
    """The text of a content that is a string, null, or a list of parts."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _usage(value: dict[str, Any]) -> Usage | None:
    usage = value.get("usage")
    return count_tokens(usage, "prompt_tokens", "completion_tokens") if isinstance(usage, dict) else None


def parse_base_url(url: str) -> str:
    """A base URL without a trailing slash; ``/v1`` is added where there is no path at all.

    Raises
    ------
    ConfigurationError
        It is not an http(s) address.
    """
    advice = "Write http://host:port/v1, without a query, in base_url or OPENAI_BASE_URL."
    parts = server_parts(url.strip().strip("\"'"), url, advice)
    if parts.port == 0 or parts.query:
        raise errors.ConfigurationError(f"Not a server's address: {mask(url.rpartition('@')[2])!r}. {advice}")
    path = parts.path.rstrip("/").removesuffix(PATH) or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"
