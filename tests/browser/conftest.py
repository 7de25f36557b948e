"""JupyterLab in headless Chromium. Screenshots lie in pytest's temporary folder, or where CEYLON_SCREENSHOTS says.

`page` is a window of a test's own. What needs none takes `desk`, in which one notebook after the other is opened: that
is four times as fast.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from ..kernels.environments import RUNNING, interpreter
from .notebooks import CLEAR, OPEN, SETTLED, Notebook, write

CHROMIUM = shutil.which("chromium")
QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking \
--disable-component-update --disable-sync".split()
expect.set_options(timeout=20_000)  # two cores, a browser, a server and a kernel


@dataclass
class Lab:
    """A JupyterLab that serves `root`.

    Attributes
    ----------
    kernelspecs : Path
        Where it looks for kernels, whenever it is asked for one.
    cache : Path
        Where the environments of other kernels are.
    """

    root: Path
    url: str
    token: str
    kernelspecs: Path
    cache: Path

    def kernel(self, ipykernel: str) -> str:
        """What the kernel with that ipykernel is called here; ``"here"`` is the one of the tests' own environment."""
        if ipykernel == "here":
            return "python3"
        folder = self.kernelspecs / ipykernel
        if not folder.exists():
            python = interpreter(f"{ipykernel}-{RUNNING}", self.cache)
            folder.mkdir(parents=True)
            argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            spec = {"argv": argv, "display_name": f"ipykernel {ipykernel}", "language": "python"}
            (folder / "kernel.json").write_text(json.dumps(spec))
        return ipykernel

    def open(self, page: Page, notebook: str) -> None:
        """Open a notebook and wait for its kernel: keys pressed before are swallowed."""
        page.goto(f"{self.url}/doc/tree/{notebook}?token={self.token}&reset")
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=60_000)
        page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.context")
        page.evaluate(SETTLED)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A real JupyterLab, with settings of its own, whose kernels run the tests' Python, or the one of `Lab.kernel`."""
    root = tmp_path_factory.mktemp("lab")
    home = tmp_path_factory.mktemp("home")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    settings = home / "settings"
    quiet = settings / "@jupyterlab" / "apputils-extension"
    quiet.mkdir(parents=True)
    (quiet / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    folders = {
        f"JUPYTER{name}": str(home / name.strip("_").lower())
        for name in ("_CONFIG_DIR", "_RUNTIME_DIR", "_DATA_DIR", "LAB_WORKSPACES_DIR")
    }
    arguments = (
        "-m jupyterlab --no-browser --allow-root --ServerApp.ip=127.0.0.1 --ServerApp.port_retries=0 "
        "--LabApp.expose_app_in_browser=True --LabApp.extension_manager=readonly --ServerApp.terminals_enabled=False "
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"
    ).split()
    with (home / "lab.log").open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                *arguments,
                f"--ServerApp.port={port}",
                f"--IdentityProvider.token={token}",
                f"--ServerApp.root_dir={root}",
            ],
            env={
                **{name: value for name, value in os.environ.items() if name != "CEYLON_NB_STORE"},  # as a user has it
                **folders,
                "JUPYTERLAB_SETTINGS_DIR": str(settings),
                "IPYTHONDIR": str(home / "ipython"),
            },
            stdout=log,
            stderr=log,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_until_it_answers(f"{url}/api/status?token={token}", process, home / "lab.log")
            yield Lab(root, url, token, home / "data_dir" / "kernels", Path(request.config.cache.mkdir("kernels")))
        finally:
            process.terminate()
            process.wait(20)


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > ends:
                raise RuntimeError(log.read_text()) from None
            time.sleep(0.1)


@pytest.fixture(scope="module")  # not longer: Playwright's sync API keeps a loop running in this thread
def chromium() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium chromium-driver")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET, headless=True)
        yield browser
        browser.close()


@contextlib.contextmanager
def window(chromium: Browser) -> Iterator[Page]:
    """A window, in a context of its own, that must not ask anybody outside this machine for anything."""
    context = chromium.new_context(viewport={"width": 1100, "height": 1400})
    page = context.new_page()
    outside: list[str] = []
    page.on(
        "request",
        lambda request: (
            None
            if request.url.startswith(("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:", "file:"))
            else outside.append(request.url)
        ),
    )
    yield page
    context.close()
    assert not outside


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A window of this test's own."""
    with window(chromium) as page:
        yield page


@pytest.fixture(scope="module")
def desk(lab: Lab, chromium: Browser) -> Iterator[Page]:
    """A window with JupyterLab, for `notebook`."""
    with window(chromium) as page:
        page.goto(f"{lab.url}/doc?token={lab.token}&reset")
        page.wait_for_function("() => window.jupyterapp")
        page.evaluate("async () => { await window.jupyterapp.restored; }")
        yield page


class Open(Protocol):
    """Opens a notebook of these cells."""

    def __call__(self, *sources: str, ipykernel: str = "here") -> Notebook: ...


@pytest.fixture
def notebook(
    lab: Lab, opened: Callable[[Path], Notebook], page: Page, request: pytest.FixtureRequest
) -> Iterator[Open]:
    """Opens notebooks of a test's own, as `opened` does. No view in the kernel may fail: it would say so on stderr."""

    def begin(*sources: str, ipykernel: str = "here") -> Notebook:
        path = lab.root / f"{request.node.name}-{secrets.token_hex(2)}.ipynb"
        write(path, list(sources), lab.kernel(ipykernel))
        return opened(path)

    yield begin
    said = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').all_text_contents()
    assert not [text for text in said if "Traceback" in text]


@pytest.fixture
def opened(lab: Lab, page: Page) -> Iterator[Callable[[Path], Notebook]]:
    """Opens files of `Lab.root` in the test's window, which shows JupyterLab by then. In the end their kernels stop.

    In the meantime no script of ours may fail.
    """
    failures: list[str] = []

    def failed(error: Error) -> None:
        if "blob:" in (error.stack or ""):  # JupyterLab's own scripts have failures of their own
            failures.append(f"{error}\n{error.stack}")

    page.on("pageerror", failed)

    def show(path: Path) -> Notebook:
        book, where = Notebook(page, path), str(path.relative_to(lab.root))
        page.evaluate(OPEN, where)
        try:
            book.settle()
        except Error:  # JupyterLab does not always hear of a kernel that starts slowly, and then waits for ever
            page.evaluate(CLEAR)
            page.evaluate(OPEN, where)
            book.settle()
        return book

    yield show
    page.evaluate(CLEAR)
    page.remove_listener("pageerror", failed)
    assert not failures


@pytest.fixture
def screenshot(page: Page, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Take a picture for a person to look at."""
    folder = Path(os.environ.get("CEYLON_SCREENSHOTS", tmp_path))

    def take(name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"{request.node.name}-{name}.png")

    return take
