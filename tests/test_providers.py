"""The wire formats: what goes out, what comes back, and what a server's no means to its user."""

import asyncio
import doctest
import ipaddress
import itertools
import json
import re
import traceback
from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ollama._client import _parse_host

from ceylon_nb import LlmAgent, Message, Reply, errors
from ceylon_nb.providers import demo, framing
from ceylon_nb.providers.base import Provider, Request, parse_retry_after
from ceylon_nb.providers.deltas import gather_stream
from ceylon_nb.providers.demo import Demo
from ceylon_nb.providers.demo_tasks import answer as demo_answer
from ceylon_nb.providers.function import Function
from ceylon_nb.providers.ollama import Ollama, parse_host
from ceylon_nb.providers.openai import OpenAI, parse_base_url
from ceylon_nb.testing import Fault, ModelServer, faults
from ceylon_nb.urls import Address

KEY = "sk-never-to-be-seen-0123456789"
TEXT = "Paris is nice."
FORMATS = ("ollama", "openai")


@pytest.fixture(autouse=True)
def nobodys_network(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(reply=TEXT) as running:
        yield running


@pytest.fixture(params=FORMATS)
def fmt(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


def connect(fmt: str, server: ModelServer, key: str | None = KEY, transport: Any = None) -> Ollama | OpenAI:
    if fmt == "ollama":
        return Ollama(server.ollama_url, key, transport)
    return OpenAI(server.openai_url, key, transport)


def request_of(prompt: str = "hi", **more: Any) -> Request:
    return Request("mock", (Message("user", prompt),), **{"timeout": 5.0, **more})


async def said(provider: Provider, request: Request, *, stream: bool) -> Reply:
    if not stream:
        return await provider.complete(request)
    async with aclosing(provider.stream(request)) as deltas:
        return gather_stream([delta async for delta in deltas])


def ask(provider: Provider, *, stream: bool = False, request: Request | None = None) -> Reply:
    return asyncio.run(said(provider, request or request_of(), stream=stream))


def failure(provider: Provider, *, stream: bool = False, request: Request | None = None) -> errors.RequestError:
    """The error that asking ends in; nothing that anybody can read of it shows the key."""
    with pytest.raises(errors.RequestError) as caught:
        ask(provider, stream=stream, request=request)
    error = caught.value
    shown = "".join(traceback.format_exception(error)) + repr(error) + error.body + error.url
    assert KEY not in shown
    return error


# -- what goes out ---------------------------------------------------------------------------------------------------

HEARD = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]


@both_ways
def test_what_ollama_is_sent(server: ModelServer, stream: bool) -> None:
    agent = LlmAgent("a", "ollama::mock", base_url=server.url)
    agent.with_system_prompt("Be brief.").with_temperature(0.2).with_max_tokens(7)
    asyncio.run(drain(agent) if stream else agent.send_message("hi"))
    assert server.requests[0].path == "/api/chat"
    assert server.requests[0].body == {
        "model": "mock",
        "messages": HEARD,
        "stream": stream,
        "options": {"temperature": 0.2, "num_predict": 7},
    }
    assert server.requests[0].headers["Content-Type"] == "application/json"
    assert "Authorization" not in server.requests[0].headers


@both_ways
def test_what_openai_is_sent(server: ModelServer, stream: bool) -> None:
    agent = LlmAgent("a", "openai::mock", base_url=server.openai_url, api_key=KEY)
    agent.with_system_prompt("Be brief.").with_temperature(0.2).with_max_tokens(7)
    asyncio.run(drain(agent) if stream else agent.send_message("hi"))
    assert server.requests[0].path == "/v1/chat/completions"
    usage = {"stream_options": {"include_usage": True}} if stream else {}
    assert server.requests[0].body == {
        "model": "mock",
        "messages": HEARD,
        "stream": stream,
        "temperature": 0.2,
        "max_tokens": 7,
        **usage,
    }
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"


async def drain(agent: LlmAgent) -> str:
    return "".join([text async for text in agent.stream("hi")])


def test_what_is_not_said_is_left_to_the_server(server: ModelServer, fmt: str) -> None:
    ask(connect(fmt, server))
    ask(connect(fmt, server), request=request_of(temperature=0.0, max_tokens=1))
    plain, zero = (request.body for request in server.requests)
    assert plain == {"model": "mock", "messages": HEARD[1:], "stream": False}
    assert (zero.get("options") or zero)["temperature"] == 0.0


def test_openais_own_address_gets_the_name_that_it_knows() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        message = {"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}
        return httpx.Response(200, json=message)

    provider = OpenAI(None, KEY, httpx.MockTransport(answer))
    assert ask(provider, request=request_of(max_tokens=7)) == "hi"
    assert str(seen[0].url) == "https://api.openai.com/v1/chat/completions"
    assert seen[0].headers["authorization"] == f"Bearer {KEY}"
    body = json.loads(seen[0].content)
    assert body["max_completion_tokens"] == 7
    assert "max_tokens" not in body


@both_ways
def test_half_a_character_is_mended_on_its_way_out(server: ModelServer, fmt: str, stream: bool) -> None:
    url = server.url if fmt == "ollama" else server.openai_url
    agent = LlmAgent("a", f"{fmt}::mock", base_url=url, api_key=KEY, system_prompt="s\udc00")

    async def main() -> None:
        if stream:
            async for _ in agent.stream("half \ud83d of it"):
                pass
        else:
            await agent.send_message("half \ud83d of it")

    asyncio.run(main())
    assert server.requests[0].system == "s\ufffd"
    assert server.requests[0].prompt == "half \ufffd of it"


# -- what comes back -------------------------------------------------------------------------------------------------


@both_ways
def test_a_reply_knows_how_it_came_about(server: ModelServer, fmt: str, stream: bool) -> None:
    reply = ask(connect(fmt, server), stream=stream)
    assert reply == TEXT
    assert reply.model == "mock"
    assert reply.finish_reason == "stop"
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (1, 3)
    assert reply.raw["model"] == "mock"


@both_ways
def test_a_reply_that_was_cut_to_length_says_so(server: ModelServer, fmt: str, stream: bool) -> None:
    reply = ask(connect(fmt, server), stream=stream, request=request_of(max_tokens=2))
    assert reply == "Paris is"
    assert reply.finish_reason == "length"
    assert reply.usage.output_tokens == 2


def test_a_stream_comes_in_pieces(server: ModelServer, fmt: str) -> None:
    async def main() -> list[str]:
        async with aclosing(connect(fmt, server).stream(request_of())) as deltas:
            return [delta.text async for delta in deltas if delta.text]

    assert asyncio.run(main()) == ["Paris", " is", " nice."]


def test_a_stream_left_early_is_closed_at_the_server(server: ModelServer, fmt: str) -> None:
    async def main() -> None:
        async with aclosing(connect(fmt, server).stream(request_of())) as deltas:
            await anext(deltas)
        await server.until(lambda seen: seen.aborted == 1 and seen.connections == 0)

    server.reply, server.token_interval = "word " * 1000, 0.01
    asyncio.run(main())


def ollama_bytes(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def sse_bytes(*values: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)


def openai_answer(content: Any, stream: bool, reason: Any = "stop", **more: Any) -> bytes:
    if not stream:
        return json.dumps({"choices": [{"message": {"content": content, **more}, "finish_reason": reason}]}).encode()
    piece = {"choices": [{"delta": {"content": content}, "finish_reason": None}]}
    end = {"choices": [{"delta": {}, "finish_reason": reason}]}
    return sse_bytes(piece, end) + b"data: [DONE]\n\n"


def order(server: ModelServer, fmt: str, content: Any, stream: bool) -> None:
    """Let the server's next answer be this content, exactly as JSON writes it."""
    if fmt == "ollama":
        body = ollama_bytes({"message": {"content": content}, "done": not stream}) + (
            ollama_bytes({"message": {"content": ""}, "done": True}) if stream else b""
        )
        server.next(faults.body(body, "application/x-ndjson" if stream else "application/json"))
    else:
        server.next(faults.body(openai_answer(content, stream), "text/event-stream" if stream else "application/json"))


@both_ways
def test_half_a_character_is_mended_on_its_way_in(server: ModelServer, fmt: str, stream: bool) -> None:
    order(server, fmt, "half \ud83d of it", stream)
    reply = ask(connect(fmt, server), stream=stream)
    assert reply == "half \ufffd of it"
    orjson.dumps(str(reply))
    orjson.dumps(reply.raw)


@both_ways
def test_line_ends_of_other_alphabets_do_not_end_a_line(server: ModelServer, fmt: str, stream: bool) -> None:
    text = "one\u2028two\u0085three\x0bfour\rfive\nsix"
    server.reply = text
    assert ask(connect(fmt, server), stream=stream) == text


@both_ways
@pytest.mark.parametrize("junk", ["many", -1, 1.5, True, None, [], 2**63, 2**70])
def test_a_count_that_is_none_is_not_given(server: ModelServer, fmt: str, stream: bool, junk: Any) -> None:
    if fmt == "ollama":
        end = {"message": {"content": "hi"}, "done": True, "done_reason": 7, "model": {}}
        body = ollama_bytes({**end, "prompt_eval_count": junk, "eval_count": 3})
    else:
        usage = {"prompt_tokens": junk, "completion_tokens": 3}
        choice = {"message": {"content": "hi"}, "delta": {"content": "hi"}, "finish_reason": "stop"}
        value = {"choices": [choice], "usage": usage, "model": {}}
        body = sse_bytes(value) if stream else json.dumps(value).encode()
    server.next(faults.body(body, "text/event-stream" if fmt == "openai" and stream else "application/json"))
    reply = ask(connect(fmt, server), stream=stream)
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (None, 3)
    assert reply.model is None
    assert reply.finish_reason == "stop"


@pytest.mark.parametrize(
    ("body", "text", "reason"),
    [
        pytest.param(openai_answer("hi", stream=True), "hi", "stop", id="as usual"),
        pytest.param(
            sse_bytes({"choices": [{"delta": {"content": "hi"}}]}) + b"data: [DONE]\n\n", "hi", "stop", id="no reason"
        ),
        pytest.param(
            sse_bytes({"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}),
            "hi",
            "stop",
            id="no [DONE]",
        ),
        pytest.param(openai_answer("hi", stream=True).replace(b"\n", b"\r\n"), "hi", "stop", id="CRLF"),
        pytest.param(b": ping\n\n" + openai_answer("hi", stream=True), "hi", "stop", id="comments"),
        pytest.param(openai_answer("hi", stream=True).replace(b"data: ", b"data:"), "hi", "stop", id="no space"),
        pytest.param(
            b"retry: 5\nid: 7\nevent: message\n" + openai_answer("hi", stream=True), "hi", "stop", id="fields"
        ),
        pytest.param(b"data:\n\n" + openai_answer("hi", stream=True), "hi", "stop", id="an empty event"),
        pytest.param(
            openai_answer([{"type": "text", "text": "h"}, {"text": "i"}], stream=True), "hi", "stop", id="parts"
        ),
        pytest.param(
            openai_answer("hi", stream=True) + sse_bytes({"choices": []}), "hi", "stop", id="more after the end"
        ),
        pytest.param(
            b'data: {"choices":\ndata: [{"delta": {"content": "hi"}}]}\n\ndata: [DONE]\n\n',
            "hi",
            "stop",
            id="two lines",
        ),
    ],
)
def test_streams_of_many_servers_are_understood(server: ModelServer, body: bytes, text: str, reason: str) -> None:
    server.next(faults.body(body, "text/event-stream; charset=utf-8"))
    reply = ask(connect("openai", server), stream=True)
    assert reply == text
    assert reply.finish_reason == reason


def test_a_server_that_does_not_stream_is_understood(server: ModelServer, fmt: str) -> None:
    order(server, fmt, TEXT, stream=False)
    assert ask(connect(fmt, server), stream=True) == TEXT


def test_parts_of_a_content_are_one_text(server: ModelServer) -> None:
    order(server, "openai", [{"type": "text", "text": "Paris"}, {"type": "image"}, {"text": "!"}], stream=False)
    assert ask(connect("openai", server)) == "Paris!"


@both_ways
@pytest.mark.parametrize("content", ["", None])
def test_an_answer_without_text_is_an_error(server: ModelServer, stream: bool, content: str | None) -> None:
    server.next(
        faults.body(openai_answer(content, stream, "length"), "text/event-stream" if stream else "application/json")
    )
    error = failure(connect("openai", server), stream=stream)
    assert type(error) is errors.EmptyReply
    assert "without any text (finish_reason: length)" in str(error)
    assert str(error).endswith("Raise max_tokens.")


def test_a_refusal_is_told(server: ModelServer) -> None:
    server.next(faults.body(openai_answer(None, stream=False, refusal=f"I won't say {KEY}.")))
    error = failure(connect("openai", server))
    assert type(error) is errors.EmptyReply
    assert str(error).startswith('The model refuses: "I won\'t say ***." (http://127.0.0.1:')
    assert error.body.startswith('{"choices"')


# -- what is no answer -----------------------------------------------------------------------------------------------

LOST, BAD, CUT, NO = errors.ConnectionLost, errors.BadReply, errors.IncompleteReply, errors.ServerError
BROKEN: list[tuple[Fault, type[Exception], str]] = [
    (faults.body(b""), BAD, "empty body"),
    (faults.body(b" \n "), BAD, "empty body"),
    (faults.body(b"{}"), BAD, "has no message in it"),
    (faults.body(b"[]"), BAD, "no object"),
    (faults.body(b"null"), BAD, "no object"),
    (faults.body(b'"text"'), BAD, "no object"),
    (faults.body(b'{"message": {"content": 7}}'), BAD, "has no message in it"),
    (faults.body(b'{"choices": []}'), BAD, "has no message in it"),
    (faults.body(b'{"choices": [{"message": "hi"}]}'), BAD, "has no message in it"),
    (faults.body(b"[" * 100_000), CUT, "breaks off"),
    (faults.body(b"[" * 100_000 + b"]" * 100_000), BAD, "not JSON"),
    (faults.body(f"plain text, {KEY}".encode(), "text/plain"), BAD, "not JSON"),
    (faults.body(b"\x89PNG\r\n", "image/png"), BAD, "not JSON"),
    (faults.body(b'{"message": "\xff"}'), BAD, "not JSON in UTF-8"),
    (faults.body(b"<html><title>Log in</title>", "text/html"), BAD, "web page"),
    (faults.body(b'{"error": "out of memory"}'), NO, 'broke off its answer: "out of memory"'),
    (faults.error_in_stream(f"out of memory {KEY}"), NO, 'broke off its answer: "out of memory ***"'),
    (faults.malformed(), CUT, "breaks off in the middle of its JSON"),
    (faults.half_character(), CUT, "breaks off|stopped before its end"),
    (faults.half_character(cut=True), LOST, "lost before the whole answer"),
    (faults.cut(0), LOST, "lost before the whole answer"),
    (faults.cut(2), LOST, "lost before the whole answer"),
    (faults.reset(), LOST, "broke before an answer came"),
    (faults.bad_status_line(), BAD, "cannot be read"),
    (faults.gzip_bomb(65 * 2**20), errors.ReplyTooLarge, "larger than 64 MiB"),
]


@both_ways
@pytest.mark.parametrize(
    ("fault", "kind", "text"), BROKEN, ids=[f"{fault.name}-{i}" for i, (fault, *_) in enumerate(BROKEN)]
)
def test_what_is_no_answer_is_an_error(
    server: ModelServer, fmt: str, stream: bool, fault: Fault, kind: type[Exception], text: str
) -> None:
    server.next(fault)
    error = failure(connect(fmt, server), stream=stream)
    if stream and fmt == "ollama" and text == "empty body":  # there is no line that could be called empty
        kind, text = CUT, "stopped before its end"
    assert type(error) is kind
    assert any(each in str(error) for each in text.split("|"))
    assert error.url == f"{server.url}{'/api/chat' if fmt == 'ollama' else '/v1/chat/completions'}"
    assert error.url in str(error)
    assert error.status is None


def test_an_answer_without_its_end_is_an_error(server: ModelServer, fmt: str) -> None:
    server.next(faults.no_end())
    assert type(failure(connect(fmt, server), stream=True)) is errors.IncompleteReply
    if fmt == "ollama":  # OpenAI's one body of JSON has its end in its last brace
        server.next(faults.no_end())
        assert type(failure(connect(fmt, server))) is errors.IncompleteReply


@pytest.mark.parametrize("after", [0, 1, 2])
def test_what_came_before_a_stream_broke_was_given(server: ModelServer, fmt: str, after: int) -> None:
    async def main() -> None:
        async with aclosing(connect(fmt, server).stream(request_of())) as deltas:
            async for delta in deltas:
                seen.append(delta.text)

    seen: list[str] = []
    server.next(faults.error_in_stream("boom", after))
    with pytest.raises(errors.ServerError, match="boom"):
        asyncio.run(main())
    assert "".join(seen) == "".join(["Paris", " is", " nice."][:after])


@both_ways
def test_the_wrong_wire_format_is_named(server: ModelServer, fmt: str, stream: bool) -> None:
    order(server, "openai" if fmt == "ollama" else "ollama", "hi", stream=False)
    error = failure(connect(fmt, server), stream=stream)
    assert type(error) is errors.BadReply
    assert ("openai::" if fmt == "ollama" else "ollama::") in str(error)


# -- a server's no ---------------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (204, errors.StatusError),
        (301, errors.Redirected),
        (304, errors.Redirected),
        (400, errors.BadRequest),
        (401, errors.AuthenticationFailed),
        (402, errors.StatusError),
        (403, errors.AuthenticationFailed),
        (404, errors.NotFound),
        (408, errors.StatusError),
        (413, errors.BadRequest),
        (418, errors.StatusError),
        (422, errors.BadRequest),
        (429, errors.RateLimited),
        (500, errors.ServerError),
        (503, errors.ServerError),
        (529, errors.ServerError),
    ],
)
def test_every_status_has_its_error(
    server: ModelServer, fmt: str, status: int, kind: type[errors.StatusError], stream: bool
) -> None:
    empty = status in (204, 304)
    server.next(faults.status(status, b"" if empty else f"no, says {KEY}\nand more".encode()))
    error = failure(connect(fmt, server), stream=stream)
    assert type(error) is kind
    assert error.status == status
    assert error.body == ("" if empty else "no, says ***")
    assert str(error).startswith(f"{status} (" if empty else f'{status}, "no, says ***" (')
    assert error.url in str(error)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": "plain"}', "plain"),
        (b'{"error": {"message": "nested", "code": 1}}', "nested"),
        (b'{"message": "flat"}', "flat"),
        (b'{"detail": "FastAPI"}', "FastAPI"),
        (b'{"error": "first line\\nsecond"}', "first line"),
        (b'{"detail": [{"loc": 1}]}', '{"detail": [{"loc": 1}]}'),
        (b'{"error": ""}', '{"error": ""}'),
        (b"[1, 2]", "[1, 2]"),
        (b"  text \n more", "text"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"", ""),
        (b"x" * 1000, "x" * 200),
        (b'{"error": "\\ud83d"}', "\ufffd"),
        (b"x" * 190 + KEY.encode(), "x" * 190 + "***"),
        (b"[" * 100_000, "[" * 200),
    ],
)
def test_what_the_server_said_whatever_form_it_has(server: ModelServer, body: bytes, said: str) -> None:
    server.next(faults.status(418, body))
    error = failure(connect("openai", server))
    assert error.body == said
    assert str(error).startswith(f'418, "{said}" (' if said else "418 (")


@both_ways
def test_a_missing_model_says_where_to_get_it(server: ModelServer, fmt: str, stream: bool) -> None:
    request = Request("nomodel", (Message("user", "hi"),), timeout=5.0)
    error = failure(connect(fmt, server), stream=stream, request=request)
    assert type(error) is errors.ModelNotFound
    if fmt == "ollama":
        assert str(error).endswith("Fetch it with `ollama pull nomodel`; `ollama list` shows what is there.")
    else:
        assert str(error).endswith(f"See {server.openai_url}/models for those that the server has.")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"404 page not found", errors.NotFound),
        (b'{"detail": "Not Found"}', errors.NotFound),
        (b"<html><title>404</title>", errors.NotFound),
        (b"no such path: /models/api/chat", errors.NotFound),
        (b"Cannot POST /model/api/chat", errors.NotFound),
        (b"Cannot POST /mock/api/chat", errors.NotFound),
        (b"mocked pages only", errors.NotFound),
        (b'{"error": "model \\"x\\" not found, try pulling it first"}', errors.ModelNotFound),
        (b'{"error": {"message": "The model `x` does not exist"}}', errors.ModelNotFound),
        (b'{"message": "No endpoints found for mock."}', errors.ModelNotFound),
    ],
)
def test_a_missing_page_is_no_missing_model(
    server: ModelServer, fmt: str, body: bytes, kind: type[errors.NotFound]
) -> None:
    server.next(faults.status(404, body))
    error = failure(connect(fmt, server))
    assert type(error) is kind
    assert ("check base_url" in str(error)) == (kind is errors.NotFound)


@both_ways
@pytest.mark.parametrize("key", ["short", KEY])
def test_a_wrong_key_says_where_to_put_it_and_is_not_shown(fmt: str, key: str, stream: bool) -> None:
    with ModelServer(api_key="another") as locked:
        error = failure(connect(fmt, locked, key), stream=stream)
    assert type(error) is errors.AuthenticationFailed
    assert "api_key" in str(error)
    assert f"{fmt.upper()}_API_KEY" in str(error)
    assert f"provided: {key}" not in str(error)
    assert key not in error.body


def test_a_login_that_the_server_repeats_is_not_shown(server: ModelServer, fmt: str) -> None:
    token = Address.of(f"http://me:{KEY}@host").headers["authorization"].removeprefix("Basic ")
    server.next(faults.status(401, f"no {token}, no {KEY}"))
    url = (server.url if fmt == "ollama" else server.openai_url).replace("://", f"://me:{KEY}@")
    provider = Ollama(url) if fmt == "ollama" else OpenAI(url)
    error = failure(provider)
    assert error.body == "no ***, no ***"
    assert server.requests[0].headers["Authorization"] == f"Basic {token}"


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("0", 0.0), ("1.5", 1.5), ("1e9", 600.0), ("soon", None), (None, None)]
)
@pytest.mark.parametrize("status", [429, 503])
def test_how_long_a_server_asks_to_wait(
    server: ModelServer, fmt: str, status: int, value: str | None, seconds: float | None
) -> None:
    server.next(faults.status(status, headers={"Retry-After": value} if value else None))
    error = failure(connect(fmt, server))
    assert error.retry_after == seconds
    assert (f"asks to wait {seconds:g} s" in str(error)) if seconds is not None else ("wait" not in str(error))


DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": DATE}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:27:00 GMT", "date": DATE}, 0.0),
        ({"retry-after": "Thu, 22 Oct 2026 07:28:00 GMT", "date": DATE}, 600.0),
        ({"retry-after": "Wed, 21 Oct 2026 09:28:30 +0200", "date": DATE}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30", "date": DATE}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2226 07:28:00 GMT"}, 600.0),
        ({"retry-after": " 12 "}, 12.0),
        ({"retry-after": "9" * 400}, 600.0),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "5, 6"}, None),
        ({"retry-after": "Wed, 99 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_retry_after_in_both_its_forms(headers: dict[str, str], seconds: float | None) -> None:
    assert parse_retry_after(httpx.Headers(headers)) == seconds


def test_a_date_to_wait_for_is_held_against_the_servers_own(server: ModelServer) -> None:
    server.next(faults.status(429, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:30 GMT", "Date": DATE}))
    assert failure(connect("ollama", server)).retry_after == 30.0


# -- addresses and keys ----------------------------------------------------------------------------------------------


def official(host: str | None) -> str:
    """What Ollama's own client makes of it, with IPv6 addresses in their short form."""
    return re.sub(r"\[(.+?)]", lambda found: f"[{ipaddress.ip_address(found[1])}]", _parse_host(host))


TABLE = doctest.DocTestParser().get_examples(_parse_host.__doc__ or "")


@pytest.mark.parametrize("host", [eval(example.source.partition("(")[2].rpartition(")")[0]) for example in TABLE])
def test_every_form_of_ollamas_own_table(host: str | None) -> None:
    assert parse_host(host or "") == official(host)


def test_ollamas_own_table_is_there() -> None:
    assert len(TABLE) >= 25


@pytest.mark.parametrize("scheme", ["", "http://", "https://"])
@pytest.mark.parametrize("path", ["", "/", "/ollama", "/a/b/", "/a:b"])
def test_every_form_as_ollamas_own_client_reads_it(scheme: str, path: str) -> None:
    hosts = ("host", "example.com", "10.0.0.1", "127.0.0.1", "localhost", "[::1]", "[fe80::1]")
    for host, port in itertools.product(hosts, ("", ":80", ":443", ":11434")):
        assert parse_host(f"{scheme}{host}{port}{path}") == official(f"{scheme}{host}{port}{path}")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("http://0.0.0.0:11434/", "http://127.0.0.1:11434"),
        ("[::]", "http://[::1]:11434"),
        ("[::]:8080", "http://[::1]:8080"),
        ("::", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        (":8080", "http://127.0.0.1:8080"),
        ('"http://host:1"', "http://host:1"),
        (" 'host' ", "http://host:11434"),
        ("https://me:pw@host/ollama", "https://me:pw@host:443/ollama"),
        ("me:pw@host:1", "http://me:pw@host:1"),
        ("me:pw@[::1]:1", "http://me:pw@[::1]:1"),
        ("HTTP://Host:1", "http://host:1"),
        ("host:1?x=y", "http://host:1"),
        ("", "http://127.0.0.1:11434"),
    ],
)
def test_more_forms_of_an_ollama_host(host: str, url: str) -> None:
    assert parse_host(host) == url


@pytest.mark.parametrize(
    "host",
    [
        *("ftp://host", "ftp:/host", "http:/host", "host:port", "host:99999", "[::1", "http://me:se/cret@host"),
        *("http://[x]", "http://", "http:///x", "https:///", "http://me@", "/x", "a host", "http://a host", "<host>"),
    ],
)
def test_an_ollama_host_that_is_none(host: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=r"Not a server's address: .*OLLAMA_HOST") as caught:
        parse_host(host)
    assert "cret" not in "".join(traceback.format_exception(caught.value)).partition("Not a server")[2]
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/", "http://localhost:8000/v1"),
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("http://localhost:8000/v1/chat/completions", "http://localhost:8000/v1"),
        ("https://host/openai/v2", "https://host/openai/v2"),
        (' "https://host/v1" ', "https://host/v1"),
        ("https://me:pw@host/v1", "https://me:pw@host/v1"),
        ("https://api.openai.com", "https://api.openai.com/v1"),
    ],
)
def test_a_base_url_for_openai(given: str, url: str) -> None:
    assert parse_base_url(given) == url


@pytest.mark.parametrize(
    "given",
    [
        *("localhost:8000/v1", "host", "ftp://host", "ftp:/host", "http://", "http:///v1", "http://[::1", "http://a b"),
        *("http://h:x/v1", "http://h:99999/v1", "http://h:0/v1", "http://h/v1?a=b", "/v1", ""),
    ],
)
def test_a_base_url_for_openai_that_is_none(given: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="Write http://host:port/v1"):
        parse_base_url(given)


@pytest.mark.parametrize("model", ["ollama::mock", "openai::mock"])
@pytest.mark.parametrize("nowhere", ["ftp:/x", "ftp://x", "http://", "http:///x", "x y", "localhost:99999"])
def test_an_address_that_leads_nowhere_is_refused_before_anything_is_sent(model: str, nowhere: str) -> None:
    agent = LlmAgent("a", model, api_key=KEY, base_url=nowhere)
    with pytest.raises(errors.ConfigurationError, match="Not a server's address"):
        agent.build()
    with pytest.raises(errors.ConfigurationError, match="Not a server's address"):
        asyncio.run(agent.send_message("Hello"))


@pytest.mark.parametrize("empty", ["", " ", "\n", '""'])
def test_an_empty_address_is_not_taken_for_none(empty: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="base_url is empty"):
        LlmAgent("a", "ollama::mock", base_url=empty)
    with pytest.raises(errors.ConfigurationError, match="base_url is empty"):
        LlmAgent("a", "ollama::mock").with_base_url(empty)


@pytest.mark.parametrize("transport", ["x", httpx.MockTransport, httpx.HTTPTransport(), object()])
def test_what_is_no_transport_is_refused_where_it_is_said(transport: Any) -> None:
    agent = LlmAgent("a", "ollama::mock")
    with pytest.raises(errors.ConfigurationError, match=r"transport is an httpx\.AsyncBaseTransport, not"):
        agent.with_transport(transport)
    with pytest.raises(errors.ConfigurationError, match=r"transport is an httpx\.AsyncBaseTransport, not"):
        LlmAgent("a", "ollama::mock", transport=transport)
    agent.with_transport(httpx.AsyncHTTPTransport()).with_transport(None)


def test_which_address_of_ollama_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ollama().base_url == "http://127.0.0.1:11434"
    monkeypatch.setenv("OLLAMA_HOST", "third:3")
    assert Ollama().base_url == "http://third:3"
    monkeypatch.setenv("OLLAMA_URL", "http://second:2/")
    assert Ollama().base_url == "http://second:2"
    assert Ollama("first:1/prefix/").base_url == "http://first:1/prefix"


def test_which_address_of_openai_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert OpenAI(api_key=KEY).base_url == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "http://second:2/v1")
    assert OpenAI().base_url == "http://second:2/v1"
    assert OpenAI("http://first:1").base_url == "http://first:1/v1"


@pytest.mark.parametrize(
    "form", ["{host}:{port}", "http://{host}:{port}/", "{host}:{port}/prefix", "0.0.0.0:{port}", ":{port}"]
)
@pytest.mark.parametrize("name", ["OLLAMA_HOST", "OLLAMA_URL"])
def test_the_environment_leads_to_the_server(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, form: str, name: str
) -> None:
    monkeypatch.setenv(name, form.format(host="127.0.0.1", port=server.port))
    assert ask(Ollama()) == TEXT
    assert server.requests[0].path == ("/prefix/api/chat" if "prefix" in form else "/api/chat")


def test_a_path_prefix_is_kept(server: ModelServer) -> None:
    ask(Ollama(f"{server.url}/a/b/"))
    ask(OpenAI(f"{server.url}/a/v2/"))
    assert [request.path for request in server.requests] == ["/a/b/api/chat", "/a/v2/chat/completions"]


@pytest.mark.parametrize("variable", ["OLLAMA_API_KEY", "OPENAI_API_KEY"])
def test_a_key_from_the_environment(server: ModelServer, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    fmt = variable.partition("_")[0].lower()
    monkeypatch.setenv(variable, f" {KEY}\n")
    ask(connect(fmt, server, None))
    ask(connect(fmt, server, "given"))
    ask(
        Ollama(server.url.replace("://", "://me:pw@"))
        if fmt == "ollama"
        else OpenAI(server.openai_url.replace("://", "://me:pw@"))
    )
    sent = [request.headers["Authorization"] for request in server.requests]
    assert sent == [f"Bearer {KEY}", "Bearer given", "Basic bWU6cHc="]


def test_openais_own_address_needs_a_key() -> None:
    with pytest.raises(errors.MissingAPIKey) as caught:
        OpenAI()
    assert str(caught.value) == (
        "API key required for provider 'openai'. Please set the OPENAI_API_KEY environment variable or pass the API "
        "key explicitly."
    )
    with pytest.raises(errors.MissingAPIKey):
        LlmAgent("a", "openai::gpt").build()


def test_nothing_of_a_provider_shows_its_key(fmt: str) -> None:
    provider = Ollama("http://host", KEY) if fmt == "ollama" else OpenAI("http://host", KEY)
    assert KEY not in repr(provider) + repr(vars(provider)) + repr(provider._server)


# -- pieces of a stream ----------------------------------------------------------------------------------------------


def in_pieces(content: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({0, len(content), *(cut % (len(content) + 1) for cut in cuts)})
    for begin, end in itertools.pairwise(places):
        yield content[begin:end]


def lines_of(content: bytes, cuts: list[int]) -> list[bytes]:
    split = framing.Lines()
    return [line for piece in in_pieces(content, cuts) for line in split.feed(piece)] + split.rest()


def events_of(content: bytes, cuts: list[int]) -> list[bytes]:
    split = framing.Events()
    return [event for piece in in_pieces(content, cuts) for event in split.feed(piece)]


cuts_anywhere = st.lists(st.integers(0, 10_000), max_size=20)


@given(st.binary(max_size=200).map(lambda data: data.replace(b"\r", b"")), cuts_anywhere)
def test_lines_are_the_same_however_they_come(content: bytes, cuts: list[int]) -> None:
    expected = content.split(b"\n")
    assert lines_of(content, cuts) == (expected if expected[-1] else expected[:-1])


@given(
    st.lists(st.lists(st.from_regex(r"[a-z{}:\" é]{0,8}", fullmatch=True), min_size=1, max_size=3), max_size=5),
    st.sampled_from(["\n", "\r\n"]),
    cuts_anywhere,
)
def test_events_are_the_same_however_they_come(contents: list[list[str]], end: str, cuts: list[int]) -> None:
    stream = "".join(
        f": comment{end}id: 1{end}" + "".join(f"data: {line}{end}" for line in lines) + end for lines in contents
    )
    expected = ["\n".join(lines).encode() for lines in contents]
    assert events_of(stream.encode(), cuts) == expected


def test_an_event_that_was_not_finished_is_none() -> None:
    assert events_of(b"data: one\n\ndata: two\n", []) == [b"one"]
    assert lines_of(b"one\ntwo", []) == [b"one", b"two"]


# -- a function of the user's ----------------------------------------------------------------------------------------


def test_a_function_is_a_model() -> None:
    heard: list[Message] = []

    async def shout(messages: list[Message]) -> str:
        heard.extend(messages)
        return messages[-1].content.upper()

    agent = LlmAgent("a", shout, system_prompt="Shout.")
    reply = asyncio.run(agent.send_message("hi"))
    assert reply == "HI"
    assert heard == [Message("system", "Shout."), Message("user", "hi")]
    assert (reply.model, reply.finish_reason, reply.usage.output_tokens) == ("shout", "stop", None)
    assert agent.model == "function::shout"


def test_a_function_streams_in_one_piece() -> None:
    async def whole(messages: list[Message]) -> str:
        return "all at once"

    async def main() -> list[str]:
        return [text async for text in LlmAgent("a", whole).stream("hi")]

    assert asyncio.run(main()) == ["all at once"]


@both_ways
def test_a_reply_of_a_functions_own_passes_as_it_is(stream: bool) -> None:
    from ceylon_nb import Usage

    mine = Reply("hi", model="mine", finish_reason="length", usage=Usage(1, 2))

    async def own(messages: list[Message]) -> str:
        return mine

    reply = ask(Function(own), stream=stream)
    assert reply == "hi"
    assert (reply.model, reply.finish_reason, reply.usage) == ("mine", "length", Usage(1, 2))
    assert stream or reply is mine


@pytest.mark.parametrize("value", [None, 7, b"bytes", ["text"]])
def test_a_function_that_returns_no_text(value: Any) -> None:
    async def wrong(messages: list[Message]) -> Any:
        return value

    with pytest.raises(TypeError, match=rf"wrong must return a str, not {type(value).__name__}\."):
        ask(Function(wrong))


def test_a_function_that_is_not_async() -> None:
    def plain(messages: list[Message]) -> Any:
        return "hi"

    with pytest.raises(TypeError, match=r"plain must be an `async def`; it returned str at once\."):
        ask(Function(plain))


@pytest.mark.parametrize("value", ["", Reply("")])
def test_a_function_that_returns_nothing_is_an_empty_reply(value: str) -> None:
    async def silent(messages: list[Message]) -> str:
        return value

    assert "silent returned no text" in str(failure(Function(silent)))


def test_half_a_character_of_a_function_is_mended() -> None:
    async def half(messages: list[Message]) -> str:
        return "half \ud83d"

    assert ask(Function(half)) == "half \ufffd"


def test_a_function_has_its_timeout() -> None:
    ended = []

    async def slow(messages: list[Message]) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)
        return ""

    error = failure(Function(slow), request=request_of(timeout=0.05))
    assert type(error) is errors.RequestTimeout
    assert str(error) == "slow gave no answer within 0.05 s; raise `timeout`."
    assert ended == [True]


@pytest.mark.parametrize("timeout", [None, 60.0])
def test_a_functions_own_errors_are_its_own(timeout: float | None) -> None:
    async def impatient(messages: list[Message]) -> str:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine") as caught:
        ask(Function(impatient), request=request_of(timeout=timeout))
    assert type(caught.value) is TimeoutError


def test_an_object_that_can_be_called_is_a_model_too() -> None:
    class Echo:
        async def __call__(self, messages: list[Message]) -> str:
            return messages[-1].content

    reply = asyncio.run(LlmAgent("a", Echo()).send_message("hi"))
    assert (reply, reply.model) == ("hi", "Echo")


# -- the demo --------------------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("model", demo.MODELS)
def test_the_demo_answers_the_same_every_time(model: str, stream: bool) -> None:
    request = Request(model, (Message("user", "What is Python?"),), timeout=5.0)
    first, second = (ask(Demo(), stream=stream, request=request) for _ in range(2))
    assert first == second == demo_answer([{"role": "user", "content": "What is Python?"}])
    assert first.model == model
    assert first.finish_reason == "stop"
    assert first.usage.input_tokens == 3
    assert first.usage.output_tokens == len(first.split())


def test_the_demo_streams_words() -> None:
    async def main() -> list[str]:
        return [text async for text in LlmAgent("a", "demo::instant").stream("What is Python?")]

    pieces = asyncio.run(main())
    assert len(pieces) > 3
    assert "".join(pieces) == demo_answer([{"role": "user", "content": "What is Python?"}])


@both_ways
def test_the_demo_keeps_to_a_length(stream: bool) -> None:
    request = Request("instant", (Message("user", "What is Python?"),), max_tokens=2, timeout=5.0)
    reply = ask(Demo(), stream=stream, request=request)
    assert len(reply.split()) == 2
    assert reply.finish_reason == "length"
    assert reply.usage.output_tokens == 2


@both_ways
def test_the_demo_has_two_models(stream: bool) -> None:
    error = failure(Demo(), stream=stream)
    assert type(error) is errors.ModelNotFound
    assert error.status == 404
    assert (
        str(error)
        == "404, \"model 'mock' not found\" (http://demo.localhost:80/api/chat). Write demo::tutor or demo::instant."
    )


def test_the_tutor_thinks_for_as_long_as_the_prompt_takes() -> None:
    times = [demo.thinking_time(f"prompt {i}") for i in range(200)]
    assert times == [demo.thinking_time(f"prompt {i}") for i in range(200)]
    assert min(times) >= demo.THINKING[0]
    assert max(times) <= demo.THINKING[1]
    assert len(set(times)) > 100
    demo.thinking_time("half \ud83d")


def test_the_tutor_can_be_waited_for_in_vain() -> None:
    request = Request("tutor", (Message("user", "hi"),), timeout=0.001)
    assert type(failure(Demo(), request=request)) is errors.RequestTimeout


def test_the_demo_asks_for_no_key_and_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "ftp://nonsense")
    agent = LlmAgent("a", "demo::instant", base_url="http://elsewhere", api_key=KEY)
    assert asyncio.run(agent.send_message("hi"))


@pytest.mark.parametrize("text", ["one two", " leading", "trailing \n", "", " ", "a\n\nb  c"])
def test_tokens_are_the_text(text: str) -> None:
    assert "".join(demo.tokens(text)) == text


def test_functions_share_a_rate_with_themselves_only():
    async def ask(messages):
        return "yes"

    def urls(count):
        async def other(messages):
            return "no"

        return {Function(other).base_url for _ in range(count)}

    assert Function(ask).base_url == Function(ask).base_url
    assert len(set.union(*(urls(2) for _ in range(50)))) == 50  # although each lies where the one before it lay
