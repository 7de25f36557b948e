"""The load server: built with the C compiler at hand, run in a process of its own."""

import contextlib
import functools
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).with_name("load_server.c")
WITH_TLS = ("-DWITH_TLS",), ("-lssl", "-lcrypto")


class LoadServer:
    """A running server, seen from outside.

    Attributes
    ----------
    authority : Path or None
        The certificate of the authority that has signed the server's, in a PEM file; None where it speaks no TLS.
    """

    def __init__(self, port: int, tls_port: int | None = None, authority: Path | None = None) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._tls_url = f"https://127.0.0.1:{tls_port}"
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.authority = authority

    def base_url(self, delay: float, *, tls: bool = False) -> str:
        """Where answers come after `delay` seconds."""
        return f"{self._tls_url if tls else self._url}/d{round(delay * 1000)}/v1"

    def stream_url(self, apart: float, tokens: int) -> str:
        """Where answers are streams of so many tokens, `apart` seconds from one to the next; without ``/v1``."""
        return f"{self._url}/s{round(apart * 1000)}x{tokens}"

    def stats(self) -> dict[str, int]:
        """What happened since this was last asked.

        Requests served and refused, connections accepted, the most in flight, and the server's CPU microseconds.
        """
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


@functools.cache
def missing_tls() -> str | None:
    """Why the load server speaks no TLS here; None if it does."""
    if missing():
        return missing()
    if importlib.util.find_spec("trustme") is None:
        return "the local authority is trustme's, which comes with the extra [test]"
    with tempfile.TemporaryDirectory() as folder:
        if build(Path(folder), tls=True, probing=True).returncode:
            return "the load server's TLS is OpenSSL's, and its headers are not here (Debian's libssl-dev)"
    return None


def compiler() -> str | None:
    """A C compiler, if there is one."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def build(folder: Path, *, tls: bool, probing: bool = False) -> subprocess.CompletedProcess[bytes]:
    """Compile it into a folder, as `load_server`. What the compiler has to say is shown, unless `probing`."""
    flags, libraries = WITH_TLS if tls else ((), ())
    command = [compiler() or "cc", "-O2", *flags, "-o", folder / "load_server", SOURCE, *libraries]
    return subprocess.run(command, stderr=subprocess.DEVNULL if probing else None, check=not probing)


@contextlib.contextmanager
def running() -> Iterator[LoadServer]:
    """Build and run a server; with TLS where that can be."""
    tls = missing_tls() is None
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at)
        build(folder, tls=tls)
        authority, certificate = certify(folder) if tls else (None, [])
        command = [folder / "load_server", *certificate]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                port = int(process.stdout.readline())
                yield LoadServer(port, int(process.stdout.readline()) if tls else None, authority)
            finally:
                process.stdin.close()  # it ends with this
                process.wait(10)


def certify(folder: Path) -> tuple[Path, list[Path]]:
    """Make an authority for this run, and what the server is given: its key and certificate in one file."""
    import trustme

    authority, certificate = folder / "authority.pem", folder / "server.pem"
    issuer = trustme.CA()
    issuer.cert_pem.write_to_path(authority)
    issuer.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    return authority, [certificate]
