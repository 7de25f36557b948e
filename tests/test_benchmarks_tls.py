"""The benchmarks over TLS: the load server speaks it, all contestants verify it, and without OpenSSL there is none."""

import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .benchmarks import __main__ as benchmarks
from .benchmarks import contestants, disk, server

ROOT = Path(__file__).parent.parent
needs_tls = pytest.mark.skipif(server.missing_tls() is not None, reason=str(server.missing_tls()))


@pytest.fixture(scope="module")
def load() -> Iterator[server.LoadServer]:
    with server.running() as running:
        yield running


@pytest.fixture
def connection(load) -> Iterator[http.client.HTTPSConnection]:
    load.stats()
    context = ssl.create_default_context(cafile=str(load.authority))
    connection = http.client.HTTPSConnection(address_of(load), timeout=10, context=context)
    yield connection
    connection.close()


def address_of(load: server.LoadServer) -> str:
    return load.base_url(0, tls=True).split("/")[2]


@needs_tls
@pytest.mark.parametrize("size", [2, 40_000], ids=["small", "of several records"])
def test_the_load_server_answers_over_tls_on_one_connection(load, connection, size):
    for delay in (0, 1, 0):
        connection.request("POST", f"/d{delay}/v1/chat/completions", body=b" " * size)
        choice = json.loads(connection.getresponse().read())["choices"][0]
        assert choice["message"]["content"].startswith(contestants.ANSWER)

    stats = load.stats()
    assert (stats["requests"], stats["accepted"], stats["peak"]) == (3, 2, 1)


@needs_tls
def test_the_load_server_reads_two_requests_of_one_record(connection):
    connection.connect()
    whole = b"POST /d0/v1/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    for piece in (whole[:10], whole[10:] + whole + whole):
        connection.sock.sendall(piece)
    received = b""
    while received.count(b"HTTP/1.1 200 OK") < 3 or not received.endswith(b"}"):
        received += connection.sock.recv(65536)


@needs_tls
def test_who_fails_at_the_handshake_disturbs_nobody_else(load, connection):
    connection.connect()
    plain = http.client.HTTPConnection(address_of(load), timeout=10)
    with pytest.raises((http.client.HTTPException, OSError)):
        plain.request("POST", "/d0/v1/chat/completions", body=b"{}")
        plain.getresponse()

    connection.request("POST", "/d0/v1/chat/completions", body=b"{}")
    assert connection.getresponse().status == 200
    plain.close()


JOB = {"kind": "tls", "n": 20, "at_once": 4, "delay": 0.0}


@needs_tls
@pytest.mark.parametrize("contestant", contestants.OVER_HTTP)
def test_a_contestant_trusts_the_authority_and_no_other(contestant, tmp_path):
    with server.running() as load, disk.shelf() as shelf:
        figures = benchmarks.run(sys.executable, {**JOB, "contestant": contestant}, load, shelf)
        assert figures["answered"] == 20

        load.authority, _ = server.certify(tmp_path)
        with pytest.raises(benchmarks.ContestantFailed, match=r"(?i)certificate"):
            benchmarks.run(sys.executable, {**JOB, "contestant": contestant}, load, shelf)
        assert load.stats()["requests"] == 0, "nothing was asked of a stranger"


@pytest.mark.skipif(server.missing() is not None, reason=str(server.missing()))
def test_without_openssl_there_is_a_sentence_instead(tmp_path):
    compiler = tmp_path / "cc"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *-lssl*) exit 1;; esac\nexec {shutil.which("cc")} "$@"\n')
    compiler.chmod(0o755)
    command = [sys.executable, "-m", "tests.benchmarks", "--quick", "--part", "tls"]
    here = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}

    done = subprocess.run(command, cwd=ROOT, env=here, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert "no TLS: the load server's TLS is OpenSSL's, and its headers are not here" in done.stderr
    assert "### Over" not in done.stdout
