"""``demo::`` - an embedded stand-in for a model: no network, no key, no download.

It is a transport that speaks Ollama's wire format, so the code that runs is the code that talks to a real server.
``demo::tutor`` takes its time (deterministically, a few hundredths of a second) so that concurrency can be seen;
``demo::instant`` answers at once.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from . import demo_tools
from .ollama import Ollama

if TYPE_CHECKING:
    from ..http import Transport

MODELS = ("tutor", "instant")
BASE_URL = "http://demo.localhost:80"

THINKING = (0.03, 0.15)
"""Seconds: the shortest and the longest that ``tutor`` thinks; the prompt decides."""

TOKEN = 0.015
"""Seconds between two streamed tokens of ``tutor``."""


class Demo(Ollama):
    """The embedded model, asked through Ollama's wire format."""

    more_at_once = ""
    missing_model = "Write demo::tutor or demo::instant."

    def __init__(self, base_url: str | None = None, api_key: str | None = None, transport: Transport | None = None):
        del base_url, api_key  # it is here, and open
        super().__init__(BASE_URL, None, transport, handler=_serve)


def tokens(text: str) -> list[str]:
    """Split a text into words, each with the white space before it."""
    return re.findall(r"\s*\S+\s*\Z|\s*\S+", text) or [text]


def thinking_time(prompt: str) -> float:
    """Seconds that ``tutor`` thinks about a prompt; always the same for the same prompt."""
    shortest, longest = THINKING
    return shortest + (longest - shortest) * (zlib.crc32(prompt.encode("utf-8", "replace")) % 1000) / 999


async def _serve(path: str, body: bytes) -> tuple[int, str, bytes | AsyncIterator[bytes]]:
    ask = orjson.loads(body)
    model, messages = ask["model"], ask["messages"]
    if model not in MODELS:
        said = f"model '{model}' not found"
        return 404, "application/json", orjson.dumps({"error": said})
    prompt = messages[-1].get("content") or ""
    slow = model == "tutor"
    answer = demo_tools.reply(messages, ask.get("tools"))
    calls = answer["tool_calls"]
    words = [] if calls else tokens(answer["content"])
    limit = ask.get("options", {}).get("num_predict")
    done = _done(messages, words, calls, limit)
    if limit is not None and limit > 0:
        words = words[:limit]
    if slow:
        await asyncio.sleep(thinking_time(prompt))
    if ask.get("stream", True):
        return 200, "application/x-ndjson", _stream(model, words, calls, done, TOKEN if slow else 0.0)
    return 200, "application/json", _line(model, "".join(words), done, calls)


def _done(
    messages: Sequence[Mapping[str, Any]], words: Sequence[str], calls: Sequence[Mapping[str, Any]], limit: int | None
) -> dict[str, Any]:
    cut = limit is not None and 0 < limit < len(words)
    return {
        "done": True,
        "done_reason": "length" if cut else "stop",
        "prompt_eval_count": sum(len((message.get("content") or "").split()) for message in messages),
        "eval_count": limit if cut else len(words) + sum(1 + len(call["function"]["arguments"]) for call in calls),
    }


async def _stream(
    model: str, words: Sequence[str], calls: Sequence[Mapping[str, Any]], done: dict[str, Any], pause: float
) -> AsyncIterator[bytes]:
    for word in words:
        yield _line(model, word, {"done": False})
        await asyncio.sleep(pause)
    if calls:
        yield _line(model, "", {"done": False}, calls)
    yield _line(model, "", done)


def _line(model: str, text: str, rest: Mapping[str, Any], calls: Sequence[Mapping[str, Any]] = ()) -> bytes:
    message = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
    return orjson.dumps({"model": model, "message": message, **rest}) + b"\n"
