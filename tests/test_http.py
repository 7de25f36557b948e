"""The only sockets: TLS, redirects, sizes, what goes wrong on the way, and who closes what."""

import asyncio
import base64
import gc
import gzip
import os
import re
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from errno import ECONNREFUSED, ECONNRESET, ENETUNREACH, EPIPE
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import orjson
import pytest
import trustme
from aiohttp.abc import AbstractResolver
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from aiohttp.http_exceptions import HttpProcessingError
from httpx_aiohttp import AiohttpTransport
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from ceylon_nb import LlmAgent, errors, http, loop, wire
from ceylon_nb.foreign import translate
from ceylon_nb.http import Client, Transport
from ceylon_nb.testing import Fault, ModelServer, faults
from ceylon_nb.timeouts import STALL
from ceylon_nb.urls import Address, is_loopback, mask, proxy_for

ROOT = Path(__file__).parent.parent
KEY = "sk-never-to-be-seen-0123456789"
BODY = b'{"model": "mock", "stream": false, "messages": [{"role": "user", "content": "hi"}]}'
STREAMED = BODY.replace(b"false", b"true")
TIMEOUT = 5.0

TRANSPORTS: dict[str, Callable[[], Transport | None]] = {
    "default": lambda: None,
    "AsyncHTTPTransport": httpx.AsyncHTTPTransport,
    "AiohttpTransport": AiohttpTransport,
}


@pytest.fixture(autouse=True, scope="module")
def _no_loop_in_the_background() -> None:
    """Sync calls in other tests leave the library's own loop behind, and its connections with it."""
    loop.stop_background()


@pytest.fixture(autouse=True)
def nobodys_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test meets the proxy, the certificates or the logins of whoever runs it."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").touch()


@asynccontextmanager
async def opened(kind: str) -> AsyncIterator[Transport | None]:
    transport = TRANSPORTS[kind]()
    try:
        yield transport
    finally:
        if transport is not None:
            await transport.aclose()


@pytest.fixture(params=TRANSPORTS)
def by(request: pytest.FixtureRequest) -> str:
    """The name of a transport."""
    name: str = request.param
    return name


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer(reply="Paris is nice.") as running:
        yield running


class RawServer:
    """Sends what it is told to whoever connects, byte for byte, and keeps what it was sent."""

    def __init__(self, *answers: bytes | None) -> None:
        self._answers = list(answers)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.seen: list[bytes] = []
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "RawServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for each in (self._listener, *self._open):
            each.close()

    def _run(self) -> None:
        for answer in self._answers:
            with suppress(OSError):
                connection, _ = self._listener.accept()
                self._open.append(connection)
                if answer is None:  # never says anything
                    continue
                self.seen.append(self._request(connection))
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)

    def _request(self, connection: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65_536)
        length = re.search(rb"content-length: (\d+)", data.lower())
        while length and len(data.partition(b"\r\n\r\n")[2]) < int(length[1]):
            data += connection.recv(65_536)
        return data


def client(url: str, key: str | None = None, transport: Transport | None = None) -> Client:
    return Client(Address.of(f"{url}/api/chat", key), transport=transport, help_connecting="Is it running?")


async def ask(asked: Client, *, stream: bool = False, timeout: float | None = TIMEOUT) -> tuple[int, bytes]:
    """Status and body, whole or streamed."""
    if not stream:
        response = await asked.post(BODY, timeout=timeout)
        return response.status, response.content
    async with await asked.stream(STREAMED, timeout=timeout) as answer:
        return answer.head.status, answer.head.content + b"".join([chunk async for chunk in answer.chunks])


def answer(
    url: str, *, key: str | None = KEY, stream: bool = False, timeout: float | None = TIMEOUT, by: str = "default"
) -> tuple[int, bytes]:
    """Status and body, on a loop of its own."""

    async def main() -> tuple[int, bytes]:
        async with opened(by) as transport:
            return await ask(client(url, key, transport), stream=stream, timeout=timeout)

    return asyncio.run(main())


def failure(
    url: str, *, key: str | None = KEY, stream: bool = False, timeout: float | None = TIMEOUT, by: str = "default"
) -> errors.RequestError:
    """The error that asking ends in; nothing that anybody can read of it shows the key."""

    async def main() -> errors.RequestError:
        async with opened(by) as transport:
            with pytest.raises(errors.RequestError) as caught:
                await ask(client(url, key, transport), stream=stream, timeout=timeout)
            return caught.value

    error = asyncio.run(main())
    shown = "".join(traceback.format_exception(error))
    assert KEY not in shown + repr(error) + error.body + error.url
    assert not [link for link in linked(error) if KEY in f"{link!r}{link.args}{vars(link)}"]
    assert str(error).endswith((".", "?"))
    return error


def linked(error: BaseException) -> list[BaseException]:
    """An error, and all that can be reached from it, shown or not."""
    links = [error]
    for link in links:
        links += [each for each in (link.__cause__, link.__context__) if each is not None and each not in links]
    return links


both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


# -- any transport ---------------------------------------------------------------------------------------------------


@both_ways
def test_any_transport_answers(server: ModelServer, by: str, stream: bool) -> None:
    async def main() -> None:
        async with opened(by) as transport:
            for _ in range(3):
                status, body = await ask(client(server.url, KEY, transport), stream=stream)
                assert status == 200
                assert b"Paris" in body

    asyncio.run(main())
    assert server.served == 3
    assert {request.headers["Authorization"] for request in server.requests} == {f"Bearer {KEY}"}


@both_ways
def test_a_function_of_requests_is_a_transport(stream: bool) -> None:
    seen: list[httpx.Request] = []

    def said(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=b"said")

    assert asyncio.run(ask(client("http://model.test", KEY, httpx.MockTransport(said)), stream=stream)) == (
        200,
        b"said",
    )
    assert str(seen[0].url) == "http://model.test/api/chat"
    assert seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert seen[0].content == (STREAMED if stream else BODY)


def test_a_transport_of_the_users_stays_open(server: ModelServer) -> None:
    class Watched(httpx.AsyncHTTPTransport):
        closed = False

        async def aclose(self) -> None:
            self.closed = True
            await super().aclose()

    async def main() -> None:
        mine = Watched()
        async with LlmAgent("a", "ollama::mock", base_url=server.url, transport=mine) as agent:
            await agent.send_message("one")
        assert not mine.closed
        await mine.aclose()

    asyncio.run(main())


def test_a_closed_transport_is_named() -> None:
    async def main() -> None:
        session = aiohttp.ClientSession()
        await session.close()
        with pytest.raises(errors.ConnectionLost, match="is closed: hand in an open one"):
            await ask(client("http://127.0.0.1:9", transport=AiohttpTransport(client=session)))

    asyncio.run(main())


# -- TLS -------------------------------------------------------------------------------------------------------------


def tls_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure_server(authority: trustme.CA) -> Iterator[ModelServer]:
    with ModelServer(reply="Paris is nice.", ssl_context=tls_context(authority, "127.0.0.1")) as running:
        yield running


@both_ways
def test_a_certificate_that_nobody_vouches_for_is_refused(secure_server: ModelServer, by: str, stream: bool) -> None:
    error = failure(secure_server.url, stream=stream, by=by)
    assert type(error) is errors.TLSFailed
    assert "unable to get local issuer certificate" in str(error)
    assert "SSL_CERT_FILE" in str(error)
    assert "running" not in str(error)
    assert secure_server.received == 0


def test_tls_that_failed_is_not_tried_again(secure_server: ModelServer) -> None:
    agent = LlmAgent("a", "ollama::mock", base_url=secure_server.url, attempts=3)
    with pytest.raises(errors.TLSFailed) as caught:
        asyncio.run(agent.send_message("hi"))
    assert caught.value.attempts == 1


@both_ways
def test_an_authority_named_in_a_cell_is_trusted_from_then_on(
    secure_server: ModelServer, authority: trustme.CA, stream: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def main() -> None:
        asked = client(secure_server.url, KEY)
        with pytest.raises(errors.TLSFailed):
            await ask(asked, stream=stream)
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        status, _ = await ask(asked, stream=stream)
        assert status == 200
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(errors.TLSFailed):
            await ask(asked, stream=stream)

    asyncio.run(main())
    assert secure_server.served == 1


def test_a_certificate_for_another_host_is_refused(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with ModelServer(ssl_context=tls_context(authority, "model.test")) as other:
        error = failure(other.url)
    assert type(error) is errors.TLSFailed
    assert "127.0.0.1" in str(error).partition(": ")[2]
    assert other.received == 0


@pytest.mark.parametrize("content", [None, "no certificate"], ids=["missing", "not a certificate"])
def test_certificates_that_cannot_be_read_are_named(
    content: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "ca.pem"
    if content:
        path.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with pytest.raises(errors.ConfigurationError, match=re.escape(f"No certificates can be read from {path}")):
        asyncio.run(ask(client("https://127.0.0.1:9")))


def test_https_to_a_plain_server_says_so(server: ModelServer, by: str) -> None:
    error = failure(server.url.replace("http:", "https:"), by=by)
    assert type(error) is errors.TLSFailed
    assert re.search("wrong version number.*write http://", str(error))


# -- redirects -------------------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_never_carries_anything_to_another_host(server: ModelServer, status: int, stream: bool) -> None:
    with ModelServer() as other:
        server.next(faults.redirect(f"{other.url}/api/chat?token=secret", status))
        agent = LlmAgent("a", "ollama::mock", base_url=server.url, api_key=KEY)
        with pytest.raises(errors.Redirected, match="set base_url") as caught:
            asyncio.run(drain(agent) if stream else agent.send_message("hi"))
        assert other.received == 0
        assert other.connections == 0
    assert f"points to {other.url}/api/chat?token=***" in str(caught.value)
    assert caught.value.status == status
    assert server.received == 1


async def drain(agent: LlmAgent) -> str:
    return "".join([text async for text in agent.stream("hi")])


@both_ways
@pytest.mark.parametrize("status", [307, 308])
@pytest.mark.parametrize(
    "where", ["/moved/api/chat", "{url}/moved/api/chat", "http://root:x@127.0.0.1:{port}/moved/api/chat"]
)
def test_a_redirect_to_the_same_origin_is_followed(
    server: ModelServer, by: str, where: str, status: int, stream: bool
) -> None:
    server.next(faults.redirect(where.format(url=server.url, port=server.port), status))
    assert answer(server.url, stream=stream, by=by)[0] == 200
    first, second = server.requests
    assert (first.path, second.path) == ("/api/chat", "/moved/api/chat")
    assert first.body == second.body
    assert second.headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_redirect_that_would_lose_the_body_is_not_followed(server: ModelServer, status: int) -> None:
    server.next(faults.redirect("/moved/api/chat", status))
    assert answer(server.url)[0] == status
    assert server.received == 1


@pytest.mark.parametrize("location", ["", "http://[::1", "https://{host}/api/chat", "http://{host}.evil.test/api/chat"])
def test_a_redirect_that_leads_nowhere_good_is_an_error(server: ModelServer, location: str) -> None:
    server.next(faults.redirect(location.format(host=f"127.0.0.1:{server.port}"), 307))
    with pytest.raises(errors.RequestError) as caught:
        asyncio.run(LlmAgent("a", "ollama::mock", base_url=server.url, api_key=KEY).send_message("hi"))
    assert isinstance(caught.value, errors.Redirected)
    assert server.received == 1


def test_a_redirect_leaves_no_connection_behind(server: ModelServer) -> None:
    async def main() -> None:
        server.next(faults.body(b"x" * 10_000_000, "text/plain", 307, {"Location": "/moved/api/chat"}))
        assert (await ask(client(server.url)))[0] == 200
        await server.until(lambda seen: seen.connections == 1)

    asyncio.run(main(), debug=True)  # in which aiohttp complains of an answer that nobody closed
    gc.collect()


@both_ways
def test_a_redirect_to_no_address_leaves_no_connection_behind(server: ModelServer, by: str, stream: bool) -> None:
    async def main() -> None:
        server.plan = lambda _: faults.body(b"moved", "text/plain", 307, {"Location": "http://[::1"})
        async with opened(by) as transport:
            asked = client(server.url, KEY, transport)
            for _ in range(3):
                if stream:
                    async with await asked.stream(STREAMED, timeout=TIMEOUT) as answer:
                        assert (answer.head.status, answer.head.content) == (307, b"moved")
                else:
                    assert await ask(asked) == (307, b"moved")
            await server.until(lambda seen: seen.connections == 1)

    asyncio.run(main(), debug=True)  # in which aiohttp complains of an answer that nobody closed
    gc.collect()


def test_where_a_server_points_is_text_that_can_be_kept_whatever_its_bytes() -> None:
    redirect = b"HTTP/1.1 302 Found\r\nlocation: http://x/\xff\xe9\r\ncontent-length: 0\r\n\r\n"
    with RawServer(redirect) as server, pytest.raises(errors.Redirected, match="points to http://x/") as caught:
        asyncio.run(LlmAgent("a", "ollama::mock", base_url=server.url).send_message("hi"))
    str(caught.value).encode()  # half a surrogate pair cannot be said in UTF-8


def test_redirects_in_a_circle_end(server: ModelServer) -> None:
    server.plan = lambda _: faults.redirect("/api/chat")
    with pytest.raises(errors.Redirected, match="points to /api/chat"):
        asyncio.run(LlmAgent("a", "ollama::mock", base_url=server.url).send_message("hi"))
    assert server.received == http.MAX_REDIRECTS + 1


# -- sizes and encodings ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(wire, "LARGEST_REPLY", 2**20)
    return 2**20


def peak_of(work: Callable[[], Any]) -> int:
    """Bytes that Python objects took at the most while it ran."""
    gc.collect()
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@both_ways
def test_a_small_body_that_decodes_to_a_huge_one_is_stopped(
    server: ModelServer, by: str, stream: bool, small_limit: int
) -> None:
    def work() -> None:
        error = failure(server.url, stream=stream, by=by)
        assert type(error) is errors.ReplyTooLarge
        assert "larger than 1 MiB" in str(error)

    server.next(faults.gzip_bomb(64 * small_limit))
    assert peak_of(work) < 24 * small_limit  # the chunk that does not fit, a piece of it decoded: and not 64


@both_ways
def test_a_bomb_in_one_piece_is_stopped_too(stream: bool, small_limit: int) -> None:
    bomb = gzip.compress(b" " * 64 * small_limit)

    class Bomber(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            headers = {"content-encoding": "gzip"}
            return httpx.Response(200, headers=headers, stream=httpx.ByteStream(bomb))

    def work() -> None:
        with pytest.raises(errors.ReplyTooLarge):
            asyncio.run(ask(client("http://model.test", transport=Bomber()), stream=stream))

    assert peak_of(work) < 8 * small_limit


@both_ways
def test_a_reply_may_be_as_large_as_the_limit_and_no_larger(
    server: ModelServer, stream: bool, small_limit: int
) -> None:
    server.next(faults.body(b" " * small_limit), faults.body(b" " * (small_limit + 1)))
    assert answer(server.url, stream=stream) == (200, b" " * small_limit)
    assert type(failure(server.url, stream=stream)) is errors.ReplyTooLarge


@both_ways
@pytest.mark.parametrize(
    ("encoding", "encode"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("GZIP", gzip.compress)]
)
def test_an_encoding_that_nobody_asked_for_is_understood(
    server: ModelServer, by: str, encoding: str, encode: Any, stream: bool
) -> None:
    said = orjson.dumps({"message": {"content": "Paris"}, "done": True}) * 1000

    server.next(faults.body(encode(said), headers={"Content-Encoding": encoding}))
    assert answer(server.url, stream=stream, by=by) == (200, said)
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


@both_ways
@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
def test_an_encoding_without_a_bound_is_refused(server: ModelServer, encoding: str, stream: bool) -> None:
    server.next(faults.body(gzip.compress(gzip.compress(b"{}")), headers={"Content-Encoding": encoding}))
    error = failure(server.url, stream=stream)
    assert type(error) is errors.BadReply
    assert repr(encoding) in str(error)
    assert error.url == f"{server.url}/api/chat"


@both_ways
def test_a_body_that_is_not_what_its_encoding_says_is_an_error(server: ModelServer, by: str, stream: bool) -> None:
    server.next(faults.body(b"no gzip", headers={"Content-Encoding": "gzip"}))
    error = failure(server.url, stream=stream, by=by)
    assert type(error) is errors.BadReply
    assert "cannot be read" in str(error)


# -- no connection ---------------------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses: taken, and never listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@both_ways
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_a_refused_connection_is_said_in_human_words(by: str, host: str, closed_port: int, stream: bool) -> None:
    error = failure(f"http://{host}:{closed_port}", stream=stream, by=by)
    assert type(error) is errors.ConnectionFailed
    url = f"http://{host}:{closed_port}/api/chat"
    assert re.fullmatch(
        rf"Cannot connect to {re.escape(url)}: (Connection refused|Cannot assign requested address|Network is "
        r"unreachable)(, [A-Z][a-z ]+)?\. Is it running\?",
        str(error),
    )
    assert error.url == url


class Resolver(AbstractResolver):
    """Knows these addresses; where there are none, no host at all. Nobody outside is asked."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> Any:
        if not self._addresses:
            raise OSError(None, "DNS lookup failed")
        return [
            {"hostname": host, "host": each, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}
            for each in self._addresses
        ]

    async def close(self) -> None:
        pass


def failure_by(resolver: Resolver, url: str) -> errors.RequestError:
    async def main() -> errors.RequestError:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=resolver)) as session:
            with pytest.raises(errors.RequestError) as caught:
                await ask(client(url, KEY, AiohttpTransport(client=session)))
            return caught.value

    return asyncio.run(main())


def test_a_host_that_does_not_exist() -> None:
    error = failure_by(Resolver(), "http://nothing.invalid:11434")
    assert type(error) is errors.ConnectionFailed
    assert str(error) == (
        "Cannot connect to http://nothing.invalid:11434/api/chat: there is no host of that name. Check base_url, and "
        "the network."
    )


def test_several_addresses_that_all_refuse_are_one_sentence(closed_port: int) -> None:
    error = failure_by(Resolver("127.0.0.1", "127.0.0.2"), f"http://two.test:{closed_port}")
    assert str(error) == f"Cannot connect to http://two.test:{closed_port}/api/chat: Connection refused. Is it running?"


def test_a_server_that_never_finishes_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECT_TIMEOUT", 0.05)
    with RawServer(None) as mute:
        error = failure(mute.url.replace("http:", "https:"))
    assert type(error) is errors.ConnectionTimeout
    assert re.fullmatch(r"No connection to \S+ within 0\.05 s\. Is it running\?", str(error))


# -- broken answers --------------------------------------------------------------------------------------------------

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@both_ways
@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        pytest.param(b"", errors.ConnectionLost, id="nothing"),
        pytest.param(b"HTTP/1.1 2", errors.RequestError, id="half a status line"),
        pytest.param(b"HTTP/1.1 abc\r\n\r\n", errors.BadReply, id="malformed status line"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", errors.BadReply, id="another protocol"),
        pytest.param(HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n", errors.BadReply, id="over-long header"),
        pytest.param(HEAD + b"no header\r\n\r\n", errors.BadReply, id="malformed header"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nab\r\n", errors.RequestError, id="bad chunk"),
        pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{}", errors.ConnectionLost, id="cut chunk"),
        pytest.param(HEAD + b"Content-Length: 10\r\n\r\n{}", errors.ConnectionLost, id="cut body"),
    ],
)
def test_what_is_not_http_is_an_error(answer: bytes, kind: type[Exception], stream: bool) -> None:
    with RawServer(answer) as broken:
        error = failure(broken.url, stream=stream)
    assert isinstance(error, kind)
    assert error.url == f"{broken.url}/api/chat"
    assert broken.url in str(error)


@both_ways
def test_a_reset_before_the_headers(server: ModelServer, by: str, stream: bool) -> None:
    server.next(faults.reset())
    assert type(failure(server.url, stream=stream, by=by)) is errors.ConnectionLost


@both_ways
@pytest.mark.parametrize("fault", [faults.cut(0), faults.cut(2), faults.half_character(cut=True)], ids=str)
def test_a_cut_answer_is_lost_not_short(server: ModelServer, by: str, fault: Fault, stream: bool) -> None:
    server.next(fault)
    assert type(failure(server.url, stream=stream, by=by)) is errors.ConnectionLost


def test_what_was_read_of_a_stream_before_it_broke_was_given(server: ModelServer) -> None:
    async def main() -> None:
        async with await client(server.url).stream(STREAMED, timeout=TIMEOUT) as coming:
            async for chunk in coming.chunks:
                seen.append(chunk)

    seen: list[bytes] = []
    server.next(faults.cut(1))
    with pytest.raises(errors.ConnectionLost):
        asyncio.run(main())
    assert b"Paris" in b"".join(seen)


# -- time ------------------------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("fault", [faults.hang(), faults.hang(1), faults.drip(0.01, forever=True)], ids=str)
def test_the_timeout_runs_to_the_last_byte(server: ModelServer, by: str, fault: Fault, stream: bool) -> None:
    server.next(fault)
    began = time.monotonic()
    error = failure(server.url, stream=stream, timeout=0.2, by=by)
    assert 0.2 <= time.monotonic() - began < 2.0
    assert type(error) is errors.RequestTimeout
    assert re.search(r"within 0\.2 s\. Raise `timeout`", str(error))
    server.wait_for(lambda seen: seen.aborted == 1)


def test_a_slow_reader_of_a_stream_is_out_of_time_too(server: ModelServer) -> None:
    async def main() -> None:
        async with await client(server.url).stream(STREAMED, timeout=0.1) as coming:
            await anext(coming.chunks)
            await asyncio.sleep(0.2)
            await anext(coming.chunks)

    server.next(faults.hang(1))
    with pytest.raises(errors.RequestTimeout, match=r"within 0\.1 s"):
        asyncio.run(main())


def test_a_stream_that_falls_silent_is_dead(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SILENCE", 0.05)
    server.next(faults.hang(1))
    error = failure(server.url, stream=True)
    assert type(error) is errors.RequestTimeout
    assert "fell silent for 0.05 s in the middle of its answer" in str(error)
    server.wait_for(lambda seen: seen.aborted == 1)


def test_a_stream_may_queue_before_it_begins(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SILENCE", 0.05)
    server.next(faults.hang(0))  # headers at once, and then nothing
    error = failure(server.url, stream=True, timeout=0.2)
    assert "No answer" in str(error)
    assert "within 0.2 s" in str(error)


@both_ways
def test_a_busy_cell_is_not_the_servers_fault(server: ModelServer, stream: bool) -> None:
    async def main() -> None:
        asking = asyncio.ensure_future(ask(client(server.url), stream=stream, timeout=0.3))
        await server.until(lambda seen: seen.received == 1)
        time.sleep(0.3 + 2 * STALL)  # noqa: ASYNC251 - a cell that computes, longer than the deadline
        assert (await asking)[0] == 200

    server.latency = 0.1
    asyncio.run(main())
    assert server.served == 1


@both_ways
def test_a_busy_cell_while_connecting_is_not_the_servers_fault(
    server: ModelServer, stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        asking = asyncio.gather(*(ask(client(server.url), stream=stream) for _ in range(50)))
        while not server.connections and not asking.done():
            await asyncio.sleep(0)  # until some have begun to connect, and no longer
        time.sleep(0.1 + 2 * STALL)  # noqa: ASYNC251 - a cell that computes
        assert {status for status, _ in await asking} == {200}

    monkeypatch.setattr(http, "CONNECT_TIMEOUT", 0.1)
    asyncio.run(main())


# -- cancelled, or left ----------------------------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("after", [None, 1], ids=["before the answer", "in the answer"])
def test_one_cancel_aborts_the_request_at_the_server(
    server: ModelServer, by: str, after: int | None, stream: bool
) -> None:
    async def main() -> None:
        server.next(faults.hang(after))
        async with opened(by) as transport:
            asking = asyncio.ensure_future(ask(client(server.url, KEY, transport), stream=stream))
            await server.until(lambda seen: seen.active == 1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            await server.until(lambda seen: seen.aborted == 1 and seen.connections == 0)

    asyncio.run(main())


def test_a_hundred_cancelled_requests_leave_no_connection(server: ModelServer) -> None:
    async def main() -> None:
        server.plan = lambda request: faults.hang(1 if request.number % 2 else None)
        asked = client(server.url)
        asking = [asyncio.ensure_future(ask(asked, stream=bool(i % 3))) for i in range(100)]
        await server.until(lambda seen: seen.active == 100)
        for each in asking:
            each.cancel()
        await asyncio.wait(asking)
        await server.until(lambda seen: seen.aborted == 100 and seen.connections == 0)

    asyncio.run(main())


def test_a_stream_left_early_is_closed_at_the_server(server: ModelServer, by: str) -> None:
    async def main() -> None:
        server.reply, server.token_interval = "word " * 1000, 0.01
        async with opened(by) as transport:
            async with await client(server.url, KEY, transport).stream(STREAMED, timeout=TIMEOUT) as coming:
                await anext(coming.chunks)
            await server.until(lambda seen: seen.aborted == 1 and seen.connections == 0)

    asyncio.run(main())


def test_an_error_of_the_readers_own_passes_as_it_is(server: ModelServer) -> None:
    async def main() -> None:
        async with await client(server.url).stream(STREAMED, timeout=TIMEOUT):
            raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        asyncio.run(main())


def test_an_error_of_the_library_keeps_its_cause(server: ModelServer) -> None:
    mine = errors.BadReply("mine")

    async def main() -> None:
        async with await client(server.url).stream(STREAMED, timeout=TIMEOUT):
            raise mine from LookupError("because")

    with pytest.raises(errors.BadReply):
        asyncio.run(main())
    assert isinstance(mine.__cause__, LookupError)


# -- cookies, logins, proxies ----------------------------------------------------------------------------------------


@both_ways
def test_cookies_do_not_last(server: ModelServer, stream: bool) -> None:
    async def main() -> None:
        server.next(faults.body(b"{}", headers={"Set-Cookie": "session=someone; Path=/"}))
        for _ in range(2):
            await ask(client(server.url), stream=stream)

    asyncio.run(main())
    assert all("Cookie" not in request.headers for request in server.requests)


def test_a_login_in_the_address_is_sent_and_never_shown(server: ModelServer, by: str) -> None:
    url = server.url.replace("://", f"://me:{KEY}%40@")

    answer(url, key=None, by=by)
    assert server.requests[0].headers["Authorization"] == "Basic " + base64.b64encode(f"me:{KEY}@".encode()).decode()
    asked = Address.of(url)
    assert KEY not in repr(asked) + asked.url
    assert (
        asked.hide(f"no {KEY}@ here, nor {server.requests[0].headers['Authorization']}") == "no *** here, nor Basic ***"
    )


def test_a_key_and_a_login_are_one_too_many() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"http://\*\*\*@host/.*leave one out") as caught:
        Address.of("http://me:secret@host/", KEY)
    assert KEY not in str(caught.value)
    assert "Basic" in Address.of("http://me:secret@host/", None, KEY).headers["authorization"]


@pytest.mark.parametrize("key", ["sk-a\nb", "sk–dash", "sk-\N{ZERO WIDTH SPACE}"])
def test_a_key_that_no_header_can_carry(key: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="copy it again") as caught:
        Address.of("http://host/", key)
    assert key not in str(caught.value)


def test_white_space_around_a_key_is_not_sent() -> None:
    assert Address.of("http://host/", f" {KEY}\n").headers == {"authorization": f"Bearer {KEY}"}


def test_a_login_from_netrc_is_not_sent(server: ModelServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("default login me password secret\n")
    with RawServer(HEAD + b"Content-Length: 2\r\n\r\n{}") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert answer("http://model.test:11434", key=None) == (200, b"{}")
        assert b"authorization" not in proxy.seen[0].lower()


@both_ways
def test_a_proxy_is_used_for_a_host_outside(monkeypatch: pytest.MonkeyPatch, stream: bool) -> None:
    with RawServer(HEAD + b"Content-Length: 2\r\n\r\n{}") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url.replace("://", "://me:pass@"))
        assert answer("http://model.test:11434", stream=stream) == (200, b"{}")
    head, _, body = proxy.seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST http://model.test:11434/api/chat HTTP/1.1\r\n")
    assert f"Authorization: Bearer {KEY}".lower().encode() in head.lower()
    assert b"proxy-authorization: basic " + base64.b64encode(b"me:pass").lower() in head.lower()
    assert body == (STREAMED if stream else BODY)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_proxy_is_never_used_for_this_machine(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    with RawServer(b"") as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert answer(f"http://{host}:{server.port}")[0] == 200
        assert proxy.seen == []


def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch, closed_port: int) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://me:{KEY}@127.0.0.1:{closed_port}")
    error = failure("http://model.test:11434", key=None)
    assert type(error) is errors.ConnectionFailed
    assert str(error).startswith(
        "The proxy does not let us through to http://model.test:11434/api/chat: Connection ref"
    )
    assert "Is it running?" not in str(error)


def test_a_proxy_that_wants_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    with RawServer(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        error = failure("https://model.test")
    assert type(error) is errors.ConnectionFailed
    assert "The proxy does not let us through" in str(error)
    assert "Proxy Authentication Required" in str(error)
    assert proxy.seen[0].startswith(b"CONNECT model.test:443 ")
    assert KEY.encode() not in proxy.seen[0]


@pytest.mark.parametrize(
    ("env", "scheme", "host", "proxy"),
    [
        ({"HTTP_PROXY": "http://p:1"}, "http", "model.test", "http://p:1"),
        ({"http_proxy": "p:1"}, "http", "model.test", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https", "model.test", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https", "model.test", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "other.test,.test"}, "http", "model.test", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, "http", "model.test", None),
        ({"HTTP_PROXY": "http://p:1"}, "http", "0.0.0.0", None),
        ({}, "http", "model.test", None),
    ],
)
def test_which_proxy(
    env: dict[str, str], scheme: str, host: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert proxy_for(scheme, host) == proxy


# -- addresses -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "demo.localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]", "0.0.0.0", "::", "[::]"]
)
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["localhost.example", "example", "10.0.0.1", "128.0.0.1", "fe80::1", "", "127.0.0.1.x"]
)
def test_another_machine(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://host:1/v1", "http://host:1/v1"),
        ("http://me:p%40ss@host:1/v1", "http://***@host:1/v1"),
        ("http://token@host", "http://***@host"),
        ("http://host/@scope/x", "http://host/@scope/x"),
        ("https://host/?api_key=1&a=2&access_token=3", "https://host/?api_key=***&a=2&access_token=***"),
        ("/login?next=/&sig=abc#top", "/login?next=/&sig=***"),
        ("http://me:pw@[::1", "http://***@[::1"),
        ("", ""),
    ],
)
def test_what_is_shown_of_a_url(url: str, shown: str) -> None:
    assert mask(url) == shown


@pytest.mark.parametrize("url", ["http://[::1", "http://a\x01b", "http://\N{SNOWMAN}\N{SNOWMAN}.xn--/"])
def test_an_address_that_nobody_has(url: str) -> None:
    with pytest.raises(errors.ConfigurationError):
        Client(Address(url))


# -- loops, and who closes -------------------------------------------------------------------------------------------


def test_one_client_serves_many_loops_and_threads(server: ModelServer) -> None:
    asked = client(server.url)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for stream in (False, True, False):
                assert asyncio.run(ask(asked, stream=stream))[0] == 200
        except BaseException as error:  # noqa: BLE001 (shown by the test's own thread)
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert server.served == 24
    assert not http._pools
    server.wait_for(lambda seen: seen.connections == 0)


def test_a_loops_connections_are_used_again_and_end_with_it(server: ModelServer) -> None:
    async def main() -> None:
        asked = client(server.url)
        for _ in range(5):
            await ask(asked)
        await asyncio.gather(*(ask(asked, stream=True) for _ in range(1)))
        assert server.connections == 1

    asyncio.run(main())
    server.wait_for(lambda seen: seen.connections == 0)


def test_a_thousand_at_once_are_not_queued(server: ModelServer) -> None:
    async def main() -> None:
        server.next(*[faults.hang()] * 300)
        asked = client(server.url)
        asking = [asyncio.ensure_future(ask(asked)) for _ in range(300)]
        await server.until(lambda seen: seen.active == 300)
        for each in asking:
            each.cancel()
        await asyncio.wait(asking)

    asyncio.run(main())


def test_closing_what_is_idle_leaves_what_is_not(server: ModelServer) -> None:
    goes_on = threading.Event()

    async def wait(exchange: Any) -> Any:
        await asyncio.to_thread(goes_on.wait, TIMEOUT)
        return await exchange.answer()

    async def main() -> None:
        asked = client(server.url)
        await ask(asked)
        server.next(Fault("wait", wait, harmless=True))
        asking = asyncio.ensure_future(ask(asked))
        await server.until(lambda seen: seen.active == 1)
        await http.close_idle()
        goes_on.set()
        assert (await asking)[0] == 200
        await http.close_idle()
        await server.until(lambda seen: seen.connections == 0)
        assert (await ask(asked))[0] == 200

    asyncio.run(main())
    assert server.served == 3


def test_a_loop_closed_without_ceremony_is_forgotten() -> None:
    once = HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\n{}"
    with RawServer(*[once] * 4) as raw:
        for _ in range(3):
            other = asyncio.new_event_loop()
            other.run_until_complete(ask(client(raw.url)))
            for _ in range(3):  # asyncio's own way to close a socket takes a step or two
                other.run_until_complete(asyncio.sleep(0))
            other.close()
        assert len(http._pools) == 1
        answer(raw.url)
    assert not http._pools


SCRIPT = """
    import asyncio, sys
    from ceylon_nb import LlmAgent

    agent = LlmAgent("a", "{provider}::mock", base_url="{url}", api_key="k")

    async def ask():
        return await agent.send_message("hi")

    async def leave_early():
        stream = agent.stream("hi")
        await anext(stream)
        await stream.aclose()

    async def walk_away():
        async for text in agent.stream("hi"):
            break
"""
ENDINGS = {
    "asyncio.run": "asyncio.run(ask())",
    "asyncio.run, twice": "asyncio.run(ask()); asyncio.run(ask())",
    "asyncio.run, a stream left early": "asyncio.run(leave_early())",
    "asyncio.run, a stream walked away from": "asyncio.run(walk_away())",
    "the background loop": "agent.send_message_sync('hi')",
    "both": "agent.send_message_sync('hi'); asyncio.run(ask())",
    "a batch": "print(agent.map(['a', 'b', 'c'], view=None).result(timeout=10).shape)",
    "a loop closed after its generators": (
        "loop = asyncio.new_event_loop(); loop.run_until_complete(ask()); "
        "loop.run_until_complete(loop.shutdown_asyncgens()); loop.close()"
    ),
}


def run_script(server: ModelServer, provider: str, code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    url = server.openai_url if provider == "openai" else server.url
    script = textwrap.dedent(SCRIPT).format(provider=provider, url=url) + code
    env = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    return subprocess.run(
        [sys.executable, *flags, "-c", script],
        cwd=ROOT,
        env={**env, "PYTHONPATH": str(ROOT), "CEYLON_NB_STORE": "off"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def noise(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What it said on stderr, but for asyncio's remark in debug mode that a step was slow."""
    return [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]


@pytest.mark.parametrize("provider", ["ollama", "openai"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_an_agent_that_nobody_closes_is_silent(server: ModelServer, provider: str, ending: str) -> None:
    server.token_interval = 0.001
    done = run_script(server, provider, ENDINGS[ending], "-W", "error", "-X", "dev")
    assert noise(done) == []
    assert done.returncode == 0
    server.wait_for(lambda seen: seen.connections == 0)


@pytest.mark.parametrize("work", ["ask", "leave_early"])
@pytest.mark.parametrize("provider", ["ollama", "openai"])
def test_a_loop_that_is_closed_without_its_generators_makes_no_noise(
    server: ModelServer, provider: str, work: str
) -> None:
    server.token_interval = 0.001
    code = f"loop = asyncio.new_event_loop(); loop.run_until_complete({work}()); loop.close()"
    assert run_script(server, provider, code).stderr == ""
    strict = run_script(server, provider, code, "-W", "error", "-X", "dev").stderr
    assert not re.search("Unclosed|destroyed|never", strict)  # what remains is asyncio's own, of the socket


def test_a_loop_that_is_never_closed_is_left_in_order(server: ModelServer) -> None:
    code = "loop = asyncio.new_event_loop(); loop.run_until_complete(ask())"
    assert (
        noise(run_script(server, "ollama", code, "-W", "error", "-W", "ignore:unclosed event loop", "-X", "dev")) == []
    )


# -- every foreign error ---------------------------------------------------------------------------------------------

WHERE = Address.of("http://host:1/api/chat", KEY)
PATIENCE = 10.0
PLACE = ConnectionKey("host", 1, False, True, None, None, None)
ASKED = RequestInfo(
    URL("http://host:1"), "POST", CIMultiDictProxy(CIMultiDict({"Authorization": KEY})), URL("http://host:1")
)


def family(*roots: type[BaseException]) -> Iterator[type[BaseException]]:
    for root in roots:
        yield root
        yield from family(*root.__subclasses__())


def instance(kind: type[BaseException], said: str) -> BaseException:
    """An error as its library would raise it."""
    if issubclass(kind, aiohttp.ClientConnectorCertificateError):
        return kind(PLACE, ssl.SSLCertVerificationError(1, said))
    if issubclass(kind, aiohttp.client_exceptions.UnixClientConnectorError):
        return kind("/socket", PLACE, OSError(ECONNREFUSED, said))
    if issubclass(kind, aiohttp.ClientConnectorError):
        return kind(PLACE, OSError(ECONNREFUSED, said))
    if issubclass(kind, aiohttp.ClientResponseError):
        return kind(ASKED, (), status=400, message=said)
    if issubclass(kind, aiohttp.ServerFingerprintMismatch):
        return kind(b"a", b"b", "host", 1)
    if issubclass(kind, httpx.HTTPStatusError):
        asked = httpx.Request("POST", "http://host:1")
        return kind(said, request=asked, response=httpx.Response(500, request=asked))
    if issubclass(kind, OSError):
        return kind(ECONNREFUSED, said)
    return kind(said)


AIOHTTP = sorted(set(family(aiohttp.ClientError)), key=repr)
HTTPX = sorted(set(family(httpx.HTTPError)), key=repr)
SYSTEM = sorted({kind for kind in family(OSError) if kind.__module__ in ("builtins", "ssl", "socket")}, key=repr)


@pytest.mark.parametrize("kind", [*AIOHTTP, *HTTPX, *SYSTEM], ids=lambda kind: f"{kind.__module__}.{kind.__qualname__}")
def test_every_foreign_error_is_translated(kind: type[BaseException]) -> None:
    foreign = instance(kind, f"said {KEY}\n<object at 0x7f>")
    found = translate(foreign, WHERE, PATIENCE, 3.0, "Is it running?")
    assert found is not None
    assert found.url == WHERE.url
    text = str(found)
    assert WHERE.url in text
    assert text.endswith((".", "?"))
    assert KEY not in text
    assert "\n" not in text
    assert "{" not in text


@pytest.mark.parametrize("kind", AIOHTTP, ids=lambda kind: kind.__qualname__)
def test_what_httpx_aiohttp_makes_of_an_error_changes_nothing(kind: type[BaseException]) -> None:
    foreign = instance(kind, "said")
    wrapped = httpx.ConnectTimeout("said")
    wrapped.__cause__ = foreign
    assert type(translate(wrapped, WHERE, PATIENCE)) is type(translate(foreign, WHERE, PATIENCE))


@pytest.mark.parametrize(
    ("foreign", "kind"),
    [
        (aiohttp.ConnectionTimeoutError("x"), errors.ConnectionTimeout),
        (httpx.ConnectTimeout("x"), errors.ConnectionTimeout),
        (httpx.PoolTimeout("x"), errors.ConnectionTimeout),
        (aiohttp.SocketTimeoutError("x"), errors.RequestTimeout),
        (TimeoutError(), errors.RequestTimeout),
        (httpx.ReadTimeout("x"), errors.RequestTimeout),
        (aiohttp.ClientConnectorError(PLACE, OSError(ECONNREFUSED, "x")), errors.ConnectionFailed),
        (aiohttp.ClientConnectorDNSError(PLACE, OSError(None, "x")), errors.ConnectionFailed),
        (httpx.ConnectError("x"), errors.ConnectionFailed),
        (httpx.ProxyError("x"), errors.ConnectionFailed),
        (aiohttp.ClientProxyConnectionError(PLACE, OSError(ECONNREFUSED, "x")), errors.ConnectionFailed),
        (ssl.SSLError(1, "x"), errors.TLSFailed),
        (aiohttp.ClientConnectorSSLError(PLACE, ssl.SSLError(1, "x")), errors.TLSFailed),
        (aiohttp.ClientConnectorCertificateError(PLACE, ssl.SSLCertVerificationError(1, "x")), errors.TLSFailed),
        (aiohttp.ServerFingerprintMismatch(b"", b"", "host", 1), errors.TLSFailed),
        (aiohttp.ServerDisconnectedError(), errors.ConnectionLost),
        (aiohttp.ClientOSError(ECONNRESET, "x"), errors.ConnectionLost),
        (aiohttp.ClientPayloadError("x"), errors.ConnectionLost),
        (ConnectionResetError(ECONNRESET, "x"), errors.ConnectionLost),
        (BrokenPipeError(EPIPE, "x"), errors.ConnectionLost),
        (httpx.ReadError("x"), errors.ConnectionLost),
        (httpx.WriteError("x"), errors.ConnectionLost),
        (httpx.RemoteProtocolError("x"), errors.ConnectionLost),
        (aiohttp.ClientResponseError(ASKED, (), message="x"), errors.BadReply),
        (HttpProcessingError(message="x"), errors.BadReply),
        (httpx.DecodingError("x"), errors.BadReply),
        (
            httpx.HTTPStatusError("x", request=httpx.Request("POST", "http://h"), response=httpx.Response(500)),
            errors.BadReply,
        ),
        (zlib.error("x"), errors.BadReply),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value.__name__,
)
def test_which_error_it_becomes(foreign: BaseException, kind: type[errors.RequestError]) -> None:
    assert type(translate(foreign, WHERE, PATIENCE)) is kind


@pytest.mark.parametrize(
    "mine", [ValueError("x"), KeyError("x"), RuntimeError("loop is closed"), asyncio.CancelledError()]
)
def test_what_is_not_foreign_is_left_alone(mine: BaseException) -> None:
    assert translate(mine, WHERE, PATIENCE) is None


def test_what_somebody_else_raised_from_a_foreign_error_is_left_alone() -> None:
    mine = LookupError("x")
    mine.__cause__ = ssl.SSLError(1, "x")
    assert translate(mine, WHERE, PATIENCE) is None


def test_what_the_user_was_handling_does_not_count() -> None:
    """In ``except ssl.SSLError: await agent.send_message(…)`` the second error is its own."""
    late = httpx.ReadTimeout("x")
    late.__context__ = ssl.SSLError(1, "earlier")
    assert type(translate(late, WHERE, PATIENCE)) is errors.RequestTimeout


def test_errors_of_several_addresses_are_told_by_name() -> None:
    both = OSError(f"Multiple exceptions: [Errno {ECONNREFUSED}] Connect call failed, [Errno {ENETUNREACH}] the same")
    found = aiohttp.ClientConnectorError(PLACE, both)
    found.__cause__ = both
    said = str(translate(found, WHERE, PATIENCE))
    assert said == f"Cannot connect to {WHERE.url}: Connection refused, Network is unreachable."


def test_no_timeout_known_none_told() -> None:
    assert "in time" in str(translate(TimeoutError(), WHERE, PATIENCE))
    assert "within 600 s" in str(translate(TimeoutError(), WHERE, PATIENCE, 600.0))
