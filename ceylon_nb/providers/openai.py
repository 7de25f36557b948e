"""``openai::`` - any OpenAI-compatible ``/v1/chat/completions``, JSON and server-sent events.

vLLM, llama.cpp's server, LM Studio, OpenRouter and Groq are this and a URL.
Source of the wire format: https://platform.openai.com/docs/api-reference/chat.
"""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from .. import errors
from ..http import Client, Response, Transport, events
from ..messages import Reply, Usage
from .base import (
    Advice,
    Delta,
    Request,
    broken_off,
    check_content_type,
    decode,
    make_reply,
    reported_error,
    status_error,
)

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
        Without it OPENAI_API_KEY. OpenAI's own address needs one.
    transport : httpx.AsyncBaseTransport, optional
        In place of the default one.

    Raises
    ------
    MissingAPIKey
        OpenAI's own address, and no key.
    """

    def __init__(
        self, base_url: str | None = None, api_key: str | None = None, transport: Transport | None = None
    ) -> None:
        self.base_url = parse_base_url(base_url or os.environ.get("OPENAI_BASE_URL") or OFFICIAL)
        self._key = api_key or os.environ.get("OPENAI_API_KEY") or None
        self._official = self.base_url == OFFICIAL
        if self._official and not self._key:
            raise errors.MissingAPIKey(
                "API key required for provider 'openai'. Please set the OPENAI_API_KEY environment variable "
                "or pass the API key explicitly."
            )
        self._client = Client(
            self.base_url,
            headers={"authorization": f"Bearer {self._key}"} if self._key else None,
            transport=transport,
            help_connecting="Check that the server runs and that base_url (or OPENAI_BASE_URL) is its address.",
        )

    async def complete(self, request: Request) -> Reply:
        """Ask for the whole answer at once."""
        response = await self._client.post(PATH, self._body(request, stream=False), timeout=request.timeout)
        if not response.ok:
            raise self._no(response, request)
        check_content_type(response, self.base_url)
        value = self._decode(response.content)
        choice = _choice(value)
        message = choice.get("message")
        if not isinstance(message, dict):
            raise _foreign(response.content)
        return make_reply(
            _text(message.get("content")),
            model=value.get("model"),
            finish_reason=choice.get("finish_reason"),
            usage=_usage(value),
            raw=response.content,
            instead=message.get("refusal") or "",
        )

    async def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Ask, and yield one delta for each server-sent event, until ``[DONE]``."""
        body = self._body(request, stream=True)
        finished = False
        async with self._client.stream(PATH, body, timeout=request.timeout) as (head, chunks):
            if not head.ok:
                raise self._no(head, request)
            check_content_type(head, self.base_url)
            async with aclosing(events(chunks)) as received:
                async for event in received:
                    if event.strip() == "[DONE]":
                        yield Delta(finish_reason=None if finished else "stop")
                        return
                    if event.strip():
                        delta = self._delta(event)
                        finished = finished or delta.finish_reason is not None
                        yield delta
        if not finished:  # a server may leave out [DONE], or why it stopped, but not both
            raise broken_off(self.base_url)

    def _delta(self, event: str) -> Delta:
        value = self._decode(event)
        choices = value.get("choices")
        if not choices:  # the last event holds the usage alone
            return Delta(model=value.get("model"), usage=_usage(value))
        choice = _choice(value)
        delta = choice.get("delta")
        reason = choice.get("finish_reason")
        return Delta(
            _text(delta.get("content")) if isinstance(delta, dict) else "",
            value.get("model"),
            reason,
            _usage(value),
            event.encode("utf-8", "replace") if reason else b"",
        )

    def _decode(self, data: bytes | str) -> dict[str, Any]:
        value = decode(data)
        if value.get("error"):
            raise reported_error(value["error"], self.base_url, self._key)
        return value

    def _body(self, request: Request, *, stream: bool) -> bytes:
        body: dict[str, Any] = {"model": request.model, "messages": request.messages, "stream": stream}
        if stream:
            body["stream_options"] = {"include_usage": True}
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.max_tokens is not None:  # OpenAI's own newer models refuse the name that all others know
            body["max_completion_tokens" if self._official else "max_tokens"] = request.max_tokens
        return orjson.dumps(body)

    def _no(self, response: Response, request: Request) -> errors.StatusError:
        advice = Advice(
            missing_model=f"The server has no model {request.model!r}: see its list at {self.base_url}/models.",
            authentication="Check the key: pass api_key or set OPENAI_API_KEY.",
        )
        return status_error(response, self.base_url, request.model, advice, self._key)


def _choice(value: dict[str, Any]) -> dict[str, Any]:
    choices = value.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise _foreign(orjson.dumps(value))
    return choices[0]


def _foreign(body: bytes) -> errors.BadReply:
    return errors.BadReply(
        "The server's answer has no choices in it: it does not speak OpenAI's API. Check base_url "
        "(it usually ends in /v1; Ollama's own API goes by ollama::).",
        body=body[:200].decode("utf-8", "replace"),
    )


def _text(content: object) -> str:
    """The text of a content that is a string, null, or a list of parts."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _usage(value: dict[str, Any]) -> Usage | None:
    usage = value.get("usage")
    if not isinstance(usage, dict):
        return None
    return Usage(usage.get("prompt_tokens"), usage.get("completion_tokens"))


def parse_base_url(url: str) -> str:
    """A base URL without a trailing slash; ``/v1`` is added where there is no path at all.

    Raises
    ------
    ConfigurationError
        It is not an http(s) address.
    """
    parts = urllib.parse.urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise errors.ConfigurationError(
            f"Not a server's address: {url.rpartition('@')[2]!r}. Write http://host:port/v1, in base_url or "
            "OPENAI_BASE_URL."
        )
    path = parts.path.rstrip("/").removesuffix(PATH) or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"
