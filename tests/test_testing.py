"""The model server: the official clients judge its wire formats, raw clients its faults, its counters themselves."""

import asyncio
import gc
import http.client
import json
import queue
import socket
import ssl
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import ollama
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ceylon_nb.testing import Fault, ModelServer, faults
from ceylon_nb.testing.wire import tokens

REPLY = "Colombo is the largest city.\n"
WORDS = ["Colombo", " is", " the", " largest", " city.\n"]
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name one city"}]
ROOT = Path(__file__).parent.parent
CHATS = {"ollama": "/api/chat", "openai": "/v1/chat/completions"}


@pytest.fixture(autouse=True)
def no_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OLLAMA_API_KEY", "OLLAMA_HOST", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(reply=REPLY) as running:
        yield running


def ollama_client(server: ModelServer, **options: Any) -> ollama.Client:
    assert server.url.startswith("http://127.0.0.1:")
    return ollama.Client(host=server.ollama_url, **options)


def openai_client(server: ModelServer, api_key: str = "test") -> openai.OpenAI:
    assert server.openai_url.startswith("http://127.0.0.1:")
    return openai.OpenAI(base_url=server.openai_url, api_key=api_key, max_retries=0)


def body(*, stream: bool = False, prompt: str = "Name one city", **more: Any) -> bytes:
    messages = [MESSAGES[0], {"role": "user", "content": prompt}]
    return json.dumps({"model": "mock", "stream": stream, "messages": messages, **more}).encode()


def post(
    server: ModelServer, content: bytes, path: str = "/api/chat", headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One request over one connection, by a client that hides nothing."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        connection.request("POST", path, content, headers or {})
        response = connection.getresponse()
        heads = {name.lower(): value for name, value in response.getheaders()}
        return response.status, heads, response.read()
    finally:
        connection.close()


def wire_bytes(server: ModelServer, content: bytes, path: str = "/api/chat") -> bytes:
    """All that comes over the socket until the server closes it."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(head.encode() + content)
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def events(content: bytes) -> list[bytes]:
    """The data of SSE events."""
    return [part.removeprefix(b"data: ") for part in content.split(b"\n\n") if part]


def parsed(dialect: str, content: bytes) -> list[dict[str, Any]]:
    """The JSON frames of a stream, without SSE's end mark."""
    frames = content.splitlines() if dialect == "ollama" else events(content)
    return [json.loads(frame) for frame in frames if frame != b"[DONE]"]


def text_in(dialect: str, content: bytes) -> str:
    if dialect == "ollama":
        return "".join(frame["message"]["content"] for frame in parsed(dialect, content))
    choices = [choice for frame in parsed(dialect, content) for choice in frame["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


# ---- wire formats, judged by the official clients ----


def test_ollama_plain(server: ModelServer) -> None:
    with ollama_client(server) as client:
        answer = client.chat("llama3.2", MESSAGES)
    assert answer.message.role == "assistant"
    assert answer.message.content == REPLY
    assert (answer.model, answer.done, answer.done_reason) == ("llama3.2", True, "stop")
    assert (answer.prompt_eval_count, answer.eval_count) == (5, 5)
    assert answer.created_at is not None
    for duration in (answer.total_duration, answer.load_duration, answer.prompt_eval_duration, answer.eval_duration):
        assert duration is not None
        assert duration > 0


def test_ollama_stream(server: ModelServer) -> None:
    with ollama_client(server) as client:
        parts = list(client.chat("mock", MESSAGES, stream=True))
    assert [part.message.content for part in parts] == [*WORDS, ""]
    assert [part.done for part in parts] == [False] * 5 + [True]
    assert (parts[-1].done_reason, parts[-1].eval_count) == ("stop", 5)
    assert parts[0].eval_count is None


def test_ollama_streams_unless_told_otherwise(server: ModelServer) -> None:
    unsaid = json.dumps({"model": "mock", "messages": MESSAGES}).encode()
    status, heads, content = post(server, unsaid)
    assert (status, heads["content-type"]) == (200, "application/x-ndjson")
    assert len(content.splitlines()) == 6


def test_openai_plain(server: ModelServer) -> None:
    with openai_client(server) as client:
        answer = client.chat.completions.create(model="mock", messages=MESSAGES)
    assert answer.choices[0].message.content == REPLY
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 5, 10)
    assert answer._request_id == "req_1"


def test_openai_stream_with_usage(server: ModelServer) -> None:
    with openai_client(server) as client:
        options = {"include_usage": True}
        parts = list(
            client.chat.completions.create(model="mock", messages=MESSAGES, stream=True, stream_options=options)
        )
    assert parts[0].choices[0].delta.role == "assistant"
    assert [part.choices[0].delta.content for part in parts[1:-2]] == WORDS
    assert parts[-2].choices[0].finish_reason == "stop"
    assert parts[-1].choices == []
    assert parts[-1].usage.total_tokens == 10
    assert all(part.usage is None for part in parts[:-1])


def test_openai_stream_without_usage_ends_in_done(server: ModelServer) -> None:
    status, heads, content = post(server, body(stream=True), "/v1/chat/completions")
    assert (status, heads["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert events(content)[-1] == b"[DONE]"
    assert content.endswith(b"data: [DONE]\n\n")
    assert b'"usage"' not in content


def test_both_async_clients(server: ModelServer) -> None:
    async def both() -> tuple[str, list[str], str, list[str]]:
        async with ollama.AsyncClient(host=server.ollama_url) as client:
            whole = (await client.chat("mock", MESSAGES)).message.content
            pieces = [part.message.content async for part in await client.chat("mock", MESSAGES, stream=True)]
        async with openai.AsyncOpenAI(base_url=server.openai_url, api_key="test", max_retries=0) as other:
            completion = await other.chat.completions.create(model="mock", messages=MESSAGES)
            stream = await other.chat.completions.create(model="mock", messages=MESSAGES, stream=True)
            chunks = [part.choices[0].delta.content async for part in stream]
        return whole, pieces, completion.choices[0].message.content, chunks

    whole, pieces, completion, chunks = asyncio.run(both())
    assert whole == completion == REPLY
    assert pieces == [*WORDS, ""]
    assert chunks == ["", *WORDS, None]


def test_tool_calls() -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Kandy"}}}
    with ModelServer(reply={"content": "", "tool_calls": [call]}) as server:
        with ollama_client(server) as client:
            for answer in (client.chat("mock", MESSAGES), next(iter(client.chat("mock", MESSAGES, stream=True)))):
                assert answer.message.tool_calls[0].function.arguments == {"city": "Kandy"}
        with openai_client(server) as client:
            completion = client.chat.completions.create(model="mock", messages=MESSAGES)
            parts = list(client.chat.completions.create(model="mock", messages=MESSAGES, stream=True))
    choice = completion.choices[0]
    assert choice.finish_reason == parts[-1].choices[0].finish_reason == "tool_calls"
    first, *others = [part.choices[0].delta.tool_calls[0].function for part in parts[1:-1]]
    assert len(others) > 1  # in fragments
    streamed = "".join([first.arguments, *(piece.arguments for piece in others)])
    for name, arguments in (
        (choice.message.tool_calls[0].function.name, choice.message.tool_calls[0].function.arguments),
        (first.name, streamed),
    ):
        assert (name, json.loads(arguments)) == ("weather", {"city": "Kandy"})


def test_a_limit_cuts_the_reply(server: ModelServer) -> None:
    with ollama_client(server) as client:
        answer = client.chat("mock", MESSAGES, options={"num_predict": 2})
        assert (answer.message.content, answer.done_reason, answer.eval_count) == ("Colombo is", "length", 2)
        assert client.chat("mock", MESSAGES, options={"num_predict": 5}).done_reason == "stop"
        assert client.chat("mock", MESSAGES, options={"num_predict": -1}).message.content == REPLY
    with openai_client(server) as client:
        for limit in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
            choice = client.chat.completions.create(model="mock", messages=MESSAGES, **limit).choices[0]
            assert (choice.message.content, choice.finish_reason) == ("Colombo is", "length")
            *parts, last = client.chat.completions.create(model="mock", messages=MESSAGES, stream=True, **limit)
            assert [part.choices[0].delta.content for part in parts] == ["", "Colombo", " is"]
            assert last.choices[0].finish_reason == "length"


def test_what_it_has(server: ModelServer) -> None:
    with ollama_client(server) as client:
        assert [model.model for model in client.list().models] == ["llama3.2:latest", "gemma3:latest", "mock"]
        assert client.show("gemma3").capabilities == ["completion", "tools"]
        with pytest.raises(ollama.ResponseError, match="model 'x' not found") as error:
            client.show("x")
        assert error.value.status_code == 404
    with openai_client(server) as client:
        assert [model.id for model in client.models.list()] == ["llama3.2:latest", "gemma3:latest", "mock"]
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for path, status, content in (
        ("/api/version", 200, b'{"version":"0.12.6"}'),
        ("/", 200, b"Ollama is running"),
        ("/nothing", 404, b"404 page not found"),
        ("/api/chat", 405, b"405 method not allowed"),
    ):
        connection.request("GET", path)
        response = connection.getresponse()
        assert (response.status, response.read()) == (status, content)
    connection.close()
    assert server.received == 0


@pytest.mark.parametrize("stream", [False, True])
def test_typed_errors_of_ollama(server: ModelServer, stream: bool) -> None:
    def status_of(model: str) -> tuple[int, str]:
        with ollama_client(server) as client, pytest.raises(ollama.ResponseError) as error:
            list(client.chat(model, MESSAGES, stream=stream))
        return error.value.status_code, error.value.error

    assert status_of("nope") == (404, "model 'nope' not found")
    server.next(faults.rate_limited(), faults.status(500), faults.status(503))
    assert [status_of("mock")[0] for _ in range(3)] == [429, 500, 503]
    server.api_key = "secret"
    assert status_of("mock") == (401, "unauthorized")
    assert (server.refused, server.faulted, server.served) == (2, 3, 0)


@pytest.mark.parametrize("stream", [False, True])
def test_typed_errors_of_openai(server: ModelServer, stream: bool) -> None:
    def fails_as(kind: type[openai.APIStatusError], model: str = "mock") -> openai.APIStatusError:
        with openai_client(server, "wrong") as client, pytest.raises(kind) as error:
            client.chat.completions.create(model=model, messages=MESSAGES, stream=stream)
        return error.value

    assert fails_as(openai.NotFoundError, "nope").code == "model_not_found"
    server.next(faults.rate_limited(retry_after=7), faults.status(500), faults.status(400))
    limited = fails_as(openai.RateLimitError)
    assert (limited.code, limited.response.headers["retry-after"]) == ("rate_limit_exceeded", "7")
    assert fails_as(openai.InternalServerError).type == "server_error"
    fails_as(openai.BadRequestError)
    server.api_key = "secret"
    assert fails_as(openai.AuthenticationError).code == "invalid_api_key"


def test_a_key_opens(server: ModelServer) -> None:
    server.api_key = "secret"
    with openai_client(server, "secret") as client:
        assert client.chat.completions.create(model="mock", messages=MESSAGES).choices
        assert client.models.list().data
    with ollama_client(server, headers={"authorization": "Bearer secret"}) as client:
        assert client.chat("mock", MESSAGES).done
    with ollama_client(server) as client, pytest.raises(ollama.ResponseError, match="unauthorized"):
        client.list()
    status, _, content = post(server, body(), "/v1/chat/completions")
    assert (status, json.loads(content)["error"]["type"]) == (401, "invalid_request_error")


@pytest.mark.parametrize("dialect", CHATS)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"model": 1}'])
def test_a_bad_request_is_refused(server: ModelServer, dialect: str, content: bytes) -> None:
    status, _, answer = post(server, content, CHATS[dialect])
    assert status == 400
    assert "error" in json.loads(answer)
    assert server.refused == 1


@pytest.mark.parametrize("prefix", ["", "/some/prefix", "/v1", "/proxy%20one"])
def test_any_prefix(server: ModelServer, prefix: str) -> None:
    for path in ("/api/chat", "/chat/completions", "/v1/chat/completions?version=1"):
        assert post(server, body(), prefix + path)[0] == 200
    assert server.requests[-1].path == f"{prefix}/v1/chat/completions"


@given(st.text(alphabet=st.characters(categories=["L", "Zs", "Cc"])))
def test_tokens_are_the_text(text: str) -> None:
    assert "".join(tokens(text)) == text
    assert len(tokens(text)) == max(len(text.split()), bool(text))


# ---- faults ----

BOTH_WAYS = pytest.mark.parametrize("stream", [False, True])
BOTH_DIALECTS = pytest.mark.parametrize("dialect", CHATS)


def test_each_request_takes_one_fault(server: ModelServer) -> None:
    server.next(faults.status(500), None)
    server.faults.append(faults.status(502))
    server.plan = lambda request: faults.status(418) if request.attempt < 6 else None
    assert [post(server, body())[0] for _ in range(6)] == [500, 200, 502, 418, 418, 200]
    assert (server.served, server.faulted, server.received) == (2, 4, 6)


def test_status(server: ModelServer) -> None:
    server.next(faults.status(529, body="busy", headers={"X-A": "1"}), faults.status(500))
    status, heads, content = post(server, body())
    assert (status, heads["x-a"], content) == (529, "1", b"busy")
    assert "error" in json.loads(post(server, body())[2])


@pytest.mark.parametrize(
    ("given", "sent"),
    [(1, "1"), (0.5, "0.5"), ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:00 GMT"), (None, None)],
)
def test_rate_limited(server: ModelServer, given: float | str | None, sent: str | None) -> None:
    server.next(faults.rate_limited(retry_after=given))
    status, heads, _ = post(server, body())
    assert (status, heads.get("retry-after")) == (429, sent)


@BOTH_DIALECTS
@BOTH_WAYS
def test_hang(server: ModelServer, dialect: str, stream: bool) -> None:
    server.next(faults.hang())
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        content = body(stream=stream)
        sock.sendall(
            f"POST {CHATS[dialect]} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
        )
        server.wait_for(lambda s: s.active == 1)
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.recv(1)
    server.wait_for(lambda s: s.aborted == 1 and s.connections == 0)
    assert (server.active, server.faulted, server.requests[0].outcome) == (0, 0, "aborted")


@BOTH_DIALECTS
def test_hang_within_a_stream(server: ModelServer, dialect: str) -> None:
    server.next(faults.hang(after=2))

    async def read_two() -> bytes:
        async with (
            aiohttp.ClientSession() as session,
            session.post(server.url + CHATS[dialect], data=body(stream=True)) as r,
        ):
            content = b""
            while b" is" not in content:
                content += await r.content.readany()
            assert (server.active, server.aborted) == (1, 0)
            return content

    assert text_in(dialect, asyncio.run(read_two())) == "Colombo is"
    server.wait_for(lambda s: s.aborted == 1)


def test_reset(server: ModelServer) -> None:
    server.next(faults.reset())
    with pytest.raises(ConnectionResetError):
        wire_bytes(server, body())
    assert (server.faulted, server.aborted) == (1, 0)


@BOTH_DIALECTS
@pytest.mark.parametrize("after", [0, 2])
def test_cut_stream(server: ModelServer, dialect: str, after: int) -> None:
    server.next(faults.cut(after=after), faults.cut(after=after))
    raw = wire_bytes(server, body(stream=True), CHATS[dialect])
    head, _, chunks = raw.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding: chunked" in head
    assert chunks.count(b'"content":"') == after + (dialect == "openai" and after > 0)
    assert not chunks.endswith(b"0\r\n\r\n")
    with pytest.raises(http.client.IncompleteRead):
        post(server, body(stream=True), CHATS[dialect])
    assert (server.faulted, server.aborted) == (2, 0)


@BOTH_DIALECTS
def test_cut_plain(server: ModelServer, dialect: str) -> None:
    server.next(faults.cut())
    with pytest.raises(http.client.IncompleteRead) as error:
        post(server, body(), CHATS[dialect])
    assert error.value.partial
    assert error.value.expected > 0
    assert server.faulted == 1


@BOTH_DIALECTS
@BOTH_WAYS
def test_malformed(server: ModelServer, dialect: str, stream: bool) -> None:
    server.next(faults.malformed())
    status, _, content = post(server, body(stream=stream), CHATS[dialect])
    assert status == 200
    with pytest.raises(json.JSONDecodeError):
        parsed(dialect, content) if stream else json.loads(content)
    assert content.count(b"city.") == 1  # a client that skips the broken line would not notice


@BOTH_DIALECTS
@BOTH_WAYS
def test_error_in_stream(server: ModelServer, dialect: str, stream: bool) -> None:
    server.next(faults.error_in_stream("out of memory", after=2))
    status, _, content = post(server, body(stream=stream), CHATS[dialect])
    *before, error = parsed(dialect, content) if stream else [json.loads(content)]
    text = error["error"] if dialect == "ollama" else error["error"]["message"]
    assert (status, text) == (200, "out of memory")
    assert len(before) == (0 if not stream else 2 + (dialect == "openai"))


def test_error_in_stream_as_the_official_clients_see_it(server: ModelServer) -> None:
    server.next(faults.error_in_stream("out of memory"), faults.error_in_stream("out of memory"))
    with ollama_client(server) as client, pytest.raises(ollama.ResponseError, match="out of memory"):
        list(client.chat("mock", MESSAGES, stream=True))
    with openai_client(server) as other, pytest.raises(openai.APIError, match="out of memory"):
        list(other.chat.completions.create(model="mock", messages=MESSAGES, stream=True))


@BOTH_DIALECTS
@BOTH_WAYS
def test_half_character(server: ModelServer, dialect: str, stream: bool) -> None:
    server.next(faults.half_character(), faults.half_character(cut=True))
    content = post(server, body(stream=stream), CHATS[dialect])[2]
    with pytest.raises(UnicodeDecodeError) as error:
        content.decode()
    assert (error.value.reason, error.value.end) == ("unexpected end of data", len(content))
    with pytest.raises(http.client.IncompleteRead):
        post(server, body(stream=stream), CHATS[dialect])


@BOTH_DIALECTS
def test_no_end(server: ModelServer, dialect: str) -> None:
    server.next(faults.no_end(), faults.no_end())
    content = post(server, body(stream=True), CHATS[dialect])[2]
    assert text_in(dialect, content) == REPLY
    whole = json.loads(post(server, body(), CHATS[dialect])[2])
    if dialect == "ollama":
        assert not any(frame["done"] for frame in [*parsed(dialect, content), whole])
    else:
        assert b"[DONE]" not in content
        reasons = [
            choice["finish_reason"] for frame in [*parsed(dialect, content), whole] for choice in frame["choices"]
        ]
        assert set(reasons) == {None}
    assert (server.faulted, server.served) == (2, 0)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"<html>"])
def test_body(server: ModelServer, content: bytes) -> None:
    server.next(faults.body(content, content_type="text/html", status=203))
    status, heads, got = post(server, body())
    assert (status, heads["content-type"], heads["content-length"], got) == (
        203,
        "text/html",
        str(len(content)),
        content,
    )


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect(server: ModelServer, status: int) -> None:
    server.next(faults.redirect("/elsewhere/api/chat", status))
    got, heads, _ = post(server, body())
    assert (got, heads["location"]) == (status, "/elsewhere/api/chat")


def test_a_redirect_to_another_server_is_followed(server: ModelServer) -> None:
    with ModelServer(reply="There.") as other, ollama_client(server) as client:
        server.next(faults.redirect(f"{other.url}/api/chat"))
        assert client.chat("mock", MESSAGES).message.content == "There."
        assert (server.faulted, other.served) == (1, 1)


@BOTH_DIALECTS
@BOTH_WAYS
def test_drip(server: ModelServer, dialect: str, stream: bool) -> None:
    server.next(faults.drip(), faults.drip(), None)
    dripped = post(server, body(stream=stream), CHATS[dialect])[2]
    raw = wire_bytes(server, body(stream=stream), CHATS[dialect])
    if stream:
        assert text_in(dialect, dripped) == REPLY
        chunks = raw.partition(b"\r\n\r\n")[2]
        assert chunks.startswith(b"1\r\n{\r\n1\r\n" if dialect == "ollama" else b"1\r\nd\r\n1\r\na\r\n")
    else:
        assert json.loads(dripped).keys() == json.loads(post(server, body(), CHATS[dialect])[2]).keys()
    assert server.faulted == 0


def test_drip_forever(server: ModelServer) -> None:
    server.next(faults.drip(forever=True))
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        content = body()
        sock.sendall(f"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        got = 0
        while got < 5_000:
            got += len(sock.recv(65536))
    server.wait_for(lambda s: s.aborted == 1)


def test_gzip_bomb(server: ModelServer) -> None:
    size = 20_000_001
    server.next(faults.gzip_bomb(size))
    _, heads, content = post(server, body())
    assert heads["content-encoding"] == "gzip"
    assert len(content) < size // 500
    assert zlib.decompress(content, wbits=31) == b" " * size


def test_bad_status_line(server: ModelServer) -> None:
    server.next(faults.bad_status_line())
    with pytest.raises(http.client.BadStatusLine):
        post(server, body())
    assert server.faulted == 1


@pytest.mark.parametrize(("then", "status"), [(None, 200), (faults.status(500), 500)])
def test_slow(server: ModelServer, then: Fault | None, status: int) -> None:
    server.next(faults.slow(0.05, then=then))
    assert post(server, body())[0] == status
    request = server.requests[0]
    assert request.ended is not None
    assert request.ended - request.at >= 0.05
    assert request.outcome == ("served" if then is None else "faulted")


def test_a_fault_of_your_own(server: ModelServer) -> None:
    async def play(exchange: Any) -> Any:
        response = await exchange.open_stream()
        await exchange.write(response, [b"tea"])
        return await exchange.finish(response, b"pot")

    server.next(Fault("teapot", play))
    assert post(server, body())[2] == b"teapot"
    assert repr(Fault("teapot", play)) == "Fault(name='teapot', at_once=True, harmless=False)"


# ---- what it saw ----


def test_the_record(server: ModelServer) -> None:
    parts = [{"type": "text", "text": "two "}, {"type": "image_url"}, {"type": "text", "text": "parts"}]
    for content in ("one", "two", "one", parts):
        messages = [*MESSAGES, {"role": "assistant", "content": "x"}, {"role": "user", "content": content}]
        post(server, json.dumps({"model": "mock", "messages": messages}).encode(), headers={"X-Me": "me"})
    first, second, third, fourth = server.requests
    assert [request.number for request in server.requests] == [1, 2, 3, 4]
    assert (first.prompt, first.attempt, second.attempt, third.attempt) == ("one", 1, 1, 2)
    assert (fourth.prompt, fourth.system, fourth.stream, fourth.path) == ("two parts", "Be brief.", True, "/api/chat")
    assert (first.body["model"], len(first.messages), first.headers["x-me"]) == ("mock", 4, "me")
    assert first.at < second.at < third.at
    assert {request.outcome for request in server.requests} == {"served"}


def test_a_request_without_a_system_prompt(server: ModelServer) -> None:
    post(server, json.dumps({"model": "mock", "messages": [{"role": "user", "content": "x"}]}).encode())
    assert server.requests[0].system is None


def test_an_answer_that_has_arrived_is_counted(server: ModelServer) -> None:
    with ollama_client(server) as client:
        for n in range(1, 201):
            stream = n % 2 == 0
            list(client.chat("mock", MESSAGES, stream=stream))
            assert (server.served, server.active) == (n, 0)


def test_it_keeps_the_newest() -> None:
    with ModelServer(reply="x", keep=2) as server:
        for prompt in ("a", "b", "c", "a"):
            post(server, body(prompt=prompt))
        assert [request.prompt for request in server.requests] == ["c", "a"]
        assert (server.received, server.requests[-1].attempt) == (4, 1)


def test_a_client_that_leaves_is_aborted_and_the_rest_served() -> None:
    async def some_leave(server: ModelServer) -> None:
        server.plan = lambda request: faults.hang() if request.prompt == "hang" else None
        async with aiohttp.ClientSession() as session:

            async def ask(prompt: str) -> bytes:
                async with session.post(f"{server.url}/api/chat", data=body(prompt=prompt)) as response:
                    return await response.read()

            hanging = [asyncio.create_task(ask("hang")) for _ in range(3)]
            await server.until(lambda s: s.active == 3)
            assert server.connections == 3
            await asyncio.gather(ask("go"), ask("go"))
            assert (server.served, server.aborted, server.active) == (2, 0, 3)
            for task in hanging:
                task.cancel()
            await asyncio.wait(hanging)
            await server.until(lambda s: s.active == 0)
        await server.until(lambda s: s.connections == 0)

    with ModelServer(reply=REPLY) as server:
        asyncio.run(some_leave(server))
        assert (server.aborted, server.served, server.faulted, server.received) == (3, 2, 0, 5)
        assert 4 <= server.peak <= 5


def test_a_client_that_leaves_within_a_stream_is_aborted() -> None:
    async def read_one(server: ModelServer) -> None:
        async with ollama.AsyncClient(host=server.url) as client:
            async for _ in await client.chat("mock", MESSAGES, stream=True):
                break
        await server.until(lambda s: s.aborted == 1)

    with ModelServer(reply=REPLY, token_interval=30) as server:
        asyncio.run(read_one(server))
        assert (server.active, server.served) == (0, 0)


def test_an_answer_that_nobody_reads_is_active() -> None:
    content = body()
    with ModelServer(reply="x" * 50_000_000) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
            sock.sendall(
                f"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content
            )
            sock.recv(1)
            assert (server.active, server.served) == (1, 0)
        server.wait_for(lambda s: s.aborted == 1)
        assert len(post(server, content)[2]) > 50_000_000
        assert server.served == 1


def test_parallel_places_are_taken_in_order() -> None:
    begun: queue.Queue[int] = queue.Queue()

    def begin(request: Any) -> float:
        begun.put(request.number)
        return 60

    async def five(server: ModelServer) -> None:
        async with aiohttp.ClientSession() as session:
            tasks = []
            for n in range(1, 6):
                tasks.append(asyncio.create_task(session.post(f"{server.url}/api/chat", data=body())))
                await server.until(lambda s, n=n: s.received == n and s.queued == max(n - 2, 0))
            assert {begun.get(timeout=5), begun.get(timeout=5)} == {1, 2}
            assert (server.active, server.peak) == (5, 5)
            tasks[2].cancel()  # leaves the queue
            await server.until(lambda s: s.queued == 2)
            tasks[0].cancel()  # makes a place
            await server.until(lambda s: s.queued == 1)
            assert begun.get(timeout=5) == 4
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        await server.until(lambda s: s.active == 0)

    with ModelServer(reply=REPLY, latency=begin, parallel=2) as server:
        asyncio.run(five(server))
        assert (server.queued, server.aborted) == (0, 5)
        server.latency = 0
        assert post(server, body())[0] == 200
        assert server.peak == 5


def test_faults_at_once_take_no_place() -> None:
    with ModelServer(reply=REPLY, latency=60, parallel=1) as server:
        with ThreadPoolExecutor() as pool:
            working = pool.submit(post, server, body())
            server.wait_for(lambda s: s.active == 1)
            server.next(faults.rate_limited())
            assert post(server, body())[0] == 429
            server.stop()
            with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
                working.result()
        assert (server.stopped, server.aborted) == (1, 0)


def test_reset_keeps_what_is_active(server: ModelServer) -> None:
    post(server, body())
    server.reset()
    assert (server.received, server.served, server.peak, server.requests) == (0, 0, 0, [])
    server.next(faults.hang())
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        sock.sendall(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        server.wait_for(lambda s: s.active == 1)  # its headers are read, its body is not
        server.reset()
        assert (server.received, server.active, server.peak) == (1, 1, 1)
    server.wait_for(lambda s: s.active == 0)
    assert (server.received, server.aborted) == (1, 1)


def test_every_request_ends_in_one_way(server: ModelServer) -> None:
    kinds = [None, faults.status(500), faults.reset(), faults.cut(), faults.malformed(), faults.drip(), faults.no_end()]
    server.next(*kinds * 3)
    for n in range(len(kinds) * 3):
        try:
            post(server, body(stream=n % 2 == 0))
        except (OSError, http.client.HTTPException):
            continue
    post(server, b"{")
    server.wait_for(lambda s: s.connections == 0)
    assert (server.received, server.served, server.faulted, server.refused) == (22, 6, 15, 1)
    assert server.received == server.served + server.faulted + server.refused + server.aborted + server.active


def test_waiting_from_a_thread_sees_a_state_that_passes(server: ModelServer) -> None:
    waiting = threading.Event()
    first = True

    def one_active(s: ModelServer) -> bool:
        nonlocal first
        if first:
            first = False
            waiting.set()
        return s.active == 1

    with ThreadPoolExecutor() as pool:
        waiter = pool.submit(server.wait_for, one_active)
        assert waiting.wait(5)
        post(server, body())
        waiter.result(5)
    assert server.active == 0


def test_waiting_in_vain(server: ModelServer) -> None:
    with pytest.raises(TimeoutError, match=r"not within 0\.01 s: ModelServer\(received=0"):
        server.wait_for(lambda s: s.served == 1, timeout=0.01)
    with pytest.raises(TimeoutError, match=r"not within 0\.01 s"):
        asyncio.run(server.until(lambda s: s.served == 1, timeout=0.01))
    with pytest.raises(ZeroDivisionError):
        server.wait_for(lambda s: 1 / s.served)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(server.until(lambda s: 1 / s.served))
    assert post(server, body())[0] == 200


def test_an_error_in_your_reply_is_a_logged_500(server: ModelServer, caplog: pytest.LogCaptureFixture) -> None:
    server.reply = lambda messages: messages[7]
    assert post(server, body())[0] == 500
    assert (server.faulted, server.active) == (1, 0)
    assert "IndexError" in caplog.text


def test_the_default_is_the_demo_tutor() -> None:
    from ceylon_nb.providers.demo_tasks import answer

    with ModelServer() as server:
        assert json.loads(post(server, body())[2])["message"]["content"] == answer(MESSAGES)


def test_replies_and_latency_by_request() -> None:
    def reply(messages: list[dict[str, Any]]) -> str:
        return str(messages[-1]["content"]).upper()

    with ModelServer(reply=reply, latency=lambda request: 0.05 if request.prompt == "slow" else 0) as server:
        assert json.loads(post(server, body(prompt="slow"))[2])["message"]["content"] == "SLOW"
        request = server.requests[0]
        assert request.ended is not None
        assert request.ended - request.at >= 0.05


# ---- its life ----


def test_stopping_leaves_nothing() -> None:
    before = set(threading.enumerate())
    server = ModelServer(reply=REPLY)
    server.start()
    server.next(faults.hang())
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as sock:
        content = body()
        sock.sendall(b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))
        server.wait_for(lambda s: s.active == 1)
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 5  # it does not wait for what never ends
        server.stop()
        assert set(threading.enumerate()) == before
        assert (server.connections, server.active, server.stopped) == (0, 0, 1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)


@pytest.mark.parametrize("late", [0, 1, 2, 60])
def test_stopping_while_clients_connect_leaves_nothing(late: int) -> None:
    content = body()
    head = b"POST /api/chat HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(content)
    clients: list[socket.socket] = []
    server = ModelServer()
    stopper = threading.Thread(target=server.stop)

    def block_the_loop(messages: Any) -> str:
        """The clients connect, without being accepted; then the server is stopped: it learns of all at once."""
        for _ in range(late):
            clients.append(socket.create_connection(("127.0.0.1", server.port), timeout=5))
            clients[-1].sendall(head + content)
        stopper.start()
        return "x"

    server.reply = block_the_loop
    server.start()
    post(server, content)
    stopper.join(5)
    assert not stopper.is_alive()
    for client in clients:
        client.close()
    assert (server.active, server.connections) == (0, 0)
    gc.collect()  # warnings are errors: no socket, no transport is left open


def test_a_server_comes_back_on_its_port(server: ModelServer) -> None:
    port = server.port
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        post(server, body())
    server.start()
    assert (server.port, post(server, body())[0]) == (port, 200)
    with pytest.raises(RuntimeError, match="make another"):
        server.start()


def test_async_with() -> None:
    async def main() -> tuple[int, int]:
        async with ModelServer(reply=REPLY) as server, ollama.AsyncClient(host=server.url) as client:
            await client.chat("mock", MESSAGES)
            with pytest.raises(OSError, match=r"(?i)address already in use"):
                async with ModelServer(reply=REPLY, port=server.port):
                    pass
        return server.served, server.connections

    assert asyncio.run(main()) == (1, 0)
    assert not [thread for thread in threading.enumerate() if thread.name == "model-server"]


def test_a_taken_port(server: ModelServer) -> None:
    with pytest.raises(OSError, match=r"(?i)address already in use"):
        ModelServer(reply=REPLY, port=server.port).start()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.1", "::", "example.com"])
def test_loopback_only(host: str) -> None:
    with pytest.raises(ValueError, match="loopback only"):
        ModelServer(host=host)


def test_localhost_and_ipv6() -> None:
    with ModelServer(reply=REPLY, host="localhost") as server:
        assert server.url == f"http://localhost:{server.port}"
        assert post(server, body())[0] == 200
    assert ModelServer(host="::1", port=1).openai_url == "http://[::1]:1/v1"
    with pytest.raises(ValueError, match="parallel"):
        ModelServer(parallel=0)


def test_tls() -> None:
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    ours, theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(ours)

    async def ask(server: ModelServer, tls: ssl.SSLContext) -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{server.url}/api/chat", data=body(), ssl=tls) as response,
        ):
            return await response.json()

    with ModelServer(reply=REPLY, ssl_context=ours) as server:
        assert server.url.startswith("https://127.0.0.1:")
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            asyncio.run(ask(server, theirs))
        authority.configure_trust(theirs)
        assert asyncio.run(ask(server, theirs))["message"]["content"] == REPLY
        server.next(faults.reset())
        with pytest.raises(aiohttp.ClientConnectionError):
            asyncio.run(ask(server, theirs))
        server.wait_for(lambda s: s.connections == 0)
        assert (server.served, server.faulted) == (1, 1)


def test_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest, urllib.request\n"
        "@pytest.mark.model_server(reply='Paris.', models=['m'])\n"
        "def test_it(model_server):\n"
        "    with urllib.request.urlopen(model_server.url + '/api/tags') as response:\n"
        "        assert b'\"m\"' in response.read()\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]")  # whatever lies in the folders above
    options = ["-q", "-W", "error", "--strict-markers", "-p", "ceylon_nb.testing.plugin", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        env={"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed" in run.stdout


def test_importing_the_plugin_is_cheap() -> None:
    code = (
        "import sys, ceylon_nb; before = set(sys.modules); import ceylon_nb.testing.plugin;"
        "new = set(sys.modules) - before; assert not {'aiohttp', 'ceylon_nb.testing.server'} & new, new"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, check=True, timeout=60)


def test_the_names() -> None:
    import ceylon_nb.testing as package

    assert all(hasattr(package, name) for name in package.__all__)
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing
