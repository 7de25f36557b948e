"""The load server: built with the C compiler at hand, run in a process of its own."""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).with_name("load_server.c")


class LoadServer:
    """A running server, seen from outside."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def base_url(self, delay: float) -> str:
        """Where answers come after `delay` seconds."""
        return f"{self._url}/d{round(delay * 1000)}/v1"

    def stream_url(self, apart: float, tokens: int) -> str:
        """Where answers are streams of so many tokens, `apart` seconds from one to the next; without ``/v1``."""
        return f"{self._url}/s{round(apart * 1000)}x{tokens}"

    def stats(self) -> dict[str, int]:
        """Requests served and refused, connections accepted, and the most in flight, since this was last asked."""
        with self._opener.open(f"{self._url}/stats", timeout=10) as response:
            found: dict[str, int] = json.load(response)
        return found


def missing() -> str | None:
    """Why no load server can be run here; None if one can."""
    if sys.platform != "linux":
        return "the load server waits with epoll, which only Linux has"
    if compiler() is None:
        return "the load server is built with a C compiler, and there is no cc, gcc or clang"
    return None


def compiler() -> str | None:
    """A C compiler, if there is one."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


@contextlib.contextmanager
def running() -> Iterator[LoadServer]:
    """Build and run a server."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "load_server")
        subprocess.run([compiler() or "cc", "-O2", "-o", program, SOURCE], check=True)
        with subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                yield LoadServer(int(process.stdout.readline()))
            finally:
                process.stdin.close()  # it ends with this
                process.wait(10)
