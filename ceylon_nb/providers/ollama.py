"""``ollama::`` - Ollama's own ``/api/chat``, JSON and NDJSON.

Source of the wire format: https://docs.ollama.com/api/chat; of the forms of OLLAMA_HOST: Ollama's ``envconfig.Host``
and the official Python client.
"""

from __future__ import annotations

import ipaddress
import os
import urllib.parse
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from .. import errors
from ..http import Client, Transport, lines
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

PATH = "/api/chat"


class Ollama:
    """An Ollama server.

    Parameters
    ----------
    base_url : str, optional
        Any form that OLLAMA_HOST may have; without it OLLAMA_URL or OLLAMA_HOST, else this machine's port 11434.
    api_key : str, optional
        For a server behind a key; without it OLLAMA_API_KEY.
    transport : httpx.AsyncBaseTransport, optional
        In place of the default one.
    """

    def __init__(
        self, base_url: str | None = None, api_key: str | None = None, transport: Transport | None = None
    ) -> None:
        env = os.environ
        self.base_url = parse_host(base_url or env.get("OLLAMA_URL") or env.get("OLLAMA_HOST") or "")
        self._key = api_key or env.get("OLLAMA_API_KEY") or None
        self._client = Client(
            self.base_url,
            headers={"authorization": f"Bearer {self._key}"} if self._key else None,
            transport=transport,
            help_connecting="Is Ollama running there? Start it with `ollama serve`, or set OLLAMA_HOST or base_url.",
        )

    async def complete(self, request: Request) -> Reply:
        """Ask for the whole answer at once."""
        response = await self._client.post(PATH, _body(request, stream=False), timeout=request.timeout)
        if not response.ok:
            raise self._no(response, request)
        check_content_type(response, self.base_url)
        delta = self._delta(response.content)
        if delta.finish_reason is None:
            raise broken_off(self.base_url)
        return make_reply(
            delta.text, model=delta.model, finish_reason=delta.finish_reason, usage=delta.usage, raw=delta.raw
        )

    async def stream(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Ask, and yield one delta for each line of NDJSON."""
        body = _body(request, stream=True)
        async with self._client.stream(PATH, body, timeout=request.timeout) as (head, chunks):
            if not head.ok:
                raise self._no(head, request)
            check_content_type(head, self.base_url)
            async with aclosing(lines(chunks)) as received:
                async for line in received:
                    if line.strip():
                        delta = self._delta(line)
                        yield delta
                        if delta.finish_reason is not None:
                            return
        raise broken_off(self.base_url)

    def _delta(self, line: bytes) -> Delta:
        value = decode(line)
        if "error" in value:
            raise reported_error(value["error"], self.base_url, self._key)
        message = value.get("message")
        text = message.get("content") if isinstance(message, dict) else None
        if not isinstance(text, str):
            raise errors.BadReply(
                "The server's answer has no message in it: it does not speak Ollama's API. Check base_url "
                "(an OpenAI-compatible server goes by openai::).",
                body=line[:200].decode("utf-8", "replace"),
            )
        if not value.get("done"):
            return Delta(text, value.get("model"))
        usage = Usage(value.get("prompt_eval_count"), value.get("eval_count"))
        return Delta(text, value.get("model"), value.get("done_reason") or "stop", usage, line)

    def _no(self, response: Any, request: Request) -> errors.StatusError:
        advice = Advice(
            missing_model=f"Fetch it with `ollama pull {request.model}`; `ollama list` shows what is there.",
            authentication="The server wants a key: pass api_key or set OLLAMA_API_KEY.",
        )
        return status_error(response, self.base_url, request.model, advice, self._key)


def _body(request: Request, *, stream: bool) -> bytes:
    options: dict[str, float] = {}
    if request.temperature is not None:
        options["temperature"] = request.temperature
    if request.max_tokens is not None:
        options["num_predict"] = request.max_tokens
    body: dict[str, Any] = {"model": request.model, "messages": request.messages, "stream": stream}
    if options:
        body["options"] = options
    return orjson.dumps(body)


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
    if not found:
        scheme, rest = "http", scheme
    default_port = {"http": 80, "https": 443}.get(scheme, 0) if found else 11434
    try:
        if default_port == 0:
            raise ValueError("the scheme is neither http nor https")
        if rest.count(":") > 1 and "[" not in rest:
            rest = f"[{rest}]"
        parts = urllib.parse.urlsplit(f"{scheme}://{rest}")
        port = parts.port or default_port
        name = _reachable(parts.hostname or "127.0.0.1")
    except ValueError as error:
        raise errors.ConfigurationError(
            f"Not a server's address: {host.rpartition('@')[2]!r} ({error}). Write http://host:port, "
            "in base_url, OLLAMA_URL or OLLAMA_HOST."
        ) from error
    login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    path = parts.path.strip("/")
    return f"{scheme}://{login}{name}:{port}" + (f"/{path}" if path else "")


def _reachable(host: str) -> str:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")
    return f"[{address}]" if address.version == 6 else str(address)
