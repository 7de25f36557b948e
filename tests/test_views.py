"""The views: a bar in a terminal, a line in a cell, and nothing where nobody watches."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client.manager import KernelManager, start_new_kernel

from ceylon_nb import LlmAgent, batch
from ceylon_nb.views import line

SCRIPT = """
from ceylon_nb import LlmAgent
run = LlmAgent("clerk", "demo::instant").map(["What is AI?"] * 50 + [""], view="terminal")
run.result()
"""


def in_a_terminal(script: str, **environment: str) -> str:
    """What a script writes to a tty."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    env = {name: value for name, value in os.environ.items() if name != "CI"} | environment
    with subprocess.Popen([sys.executable, "-c", script], stdout=theirs, stderr=theirs, env=env) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                written += os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
        process.wait(30)
    os.close(ours)
    assert process.returncode == 0, written
    return written.decode()


def test_a_bar_in_a_terminal() -> None:
    written = in_a_terminal(SCRIPT)
    assert "51/51" in written
    assert "failed=1" in written
    assert written.count("\n") == 1  # one bar, not fifty


def test_no_bar_under_ci() -> None:
    assert in_a_terminal(SCRIPT, CI="true") == ""


def test_no_bar_when_switched_off() -> None:
    assert in_a_terminal(SCRIPT, CEYLON_NB_VIEW="off") == ""


def test_no_bar_where_there_is_no_tty() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=30)
    assert (done.stdout, done.stderr) == ("", "")


def test_auto_shows_nothing_in_a_script() -> None:
    assert in_a_terminal(SCRIPT.replace('"terminal"', '"auto"')) == ""


class Kernel:
    """A real kernel, driven over the wire."""

    def __init__(self, **environment: str) -> None:
        manager, client = start_new_kernel(env={**os.environ, **environment}, startup_timeout=60)
        self.manager: KernelManager = manager
        self.client: Any = client

    def run(self, code: str) -> list[tuple[str, str]]:
        """Run a cell; gives each output's kind and text, updates of displays included."""
        outputs: list[tuple[str, str]] = []

        def hook(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                outputs.append(("stream", content["text"]))
            elif message["msg_type"] == "error":
                outputs.append(("error", content["evalue"]))
            elif "data" in content:
                outputs.append((message["msg_type"], content["data"]["text/plain"]))

        self.client.execute_interactive(code, output_hook=hook, timeout=30)
        return outputs

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()


@pytest.fixture
def watched() -> Iterator[Kernel]:
    """A kernel as a Jupyter server starts it for a notebook: someone watches."""
    kernel = Kernel(JPY_SESSION_NAME="test.ipynb")
    yield kernel
    kernel.stop()


@pytest.fixture
def unwatched() -> Iterator[Kernel]:
    """A kernel as nbclient, papermill and nbval start it."""
    kernel = Kernel()
    yield kernel
    kernel.stop()


MAP = """
from ceylon_nb import LlmAgent
run = LlmAgent("clerk", "demo::instant").map(["What is AI?"] * 30 + [""], "{}", name="Ask", view=VIEW)
frame = await run
"""


def test_the_line_is_shown_once_and_kept_up_to_date(watched: Kernel) -> None:
    kinds, texts = zip(*watched.run(MAP.replace("VIEW", "'auto'") + "run"), strict=True)
    assert kinds[0] == "display_data"
    assert set(kinds[1:]) == {"update_display_data"}  # and `run` as the last line adds nothing
    assert re.fullmatch(r"Ask · 31 of 31 · 1 failed · done in \d\.\d s", texts[-1])


def test_a_later_cell_shows_the_line_again(watched: Kernel) -> None:
    watched.run(MAP.replace("VIEW", "'auto'"))
    [(kind, text), *_] = watched.run("run")
    assert kind == "display_data"
    assert "31 of 31" in text
    assert watched.run("print(run)") == [("stream", "Batch(30 ok, 1 failed of 31)\n")]


@pytest.mark.parametrize("view", ["None", "'auto'"])
def test_where_nobody_watches_a_batch_is_its_repr(unwatched: Kernel, view: str) -> None:
    assert unwatched.run(MAP.replace("VIEW", view) + "run") == [("execute_result", "Batch(30 ok, 1 failed of 31)")]


def test_the_line_can_be_asked_for_where_nobody_watches(unwatched: Kernel) -> None:
    outputs = unwatched.run(MAP.replace("VIEW", "'line'"))
    assert outputs[0][0] == "display_data"
    assert outputs[-1][1].startswith("Ask · 31 of 31")


def test_switched_off() -> None:
    kernel = Kernel(JPY_SESSION_NAME="test.ipynb", CEYLON_NB_VIEW="off")
    try:
        assert kernel.run(MAP.replace("VIEW", "'auto'")) == []
    finally:
        kernel.stop()


def test_a_reply_as_the_last_line_shows_its_text(unwatched: Kernel) -> None:
    code = "from ceylon_nb import LlmAgent\nawait LlmAgent('a', 'demo::instant').send_message('What is AI?')"
    [(kind, text)] = unwatched.run(code)
    assert kind == "execute_result"
    assert text.startswith("AI is")


def test_the_line_says_where_a_batch_stands() -> None:
    async def fine(item: str) -> str:
        return item

    run = batch(fine, ["a\nb"] * 1200, view=None, name="a very long name\nthat goes over a line and then some more")
    run.result()
    assert re.fullmatch(r"a very long name that goes over a line … · 1,200 of 1,200 · done in [\d.]+ s", line.text(run))
    cancelled = LlmAgent("a", "demo::tutor").map(["x"] * 10, view=None, name="Ask")
    cancelled.cancel()
    cancelled.result()
    assert re.fullmatch(r"Ask · 0 of 10( · \d+ cancelled)? · cancelled in [\d.]+ s", line.text(cancelled))


def test_a_view_that_fails_never_touches_the_run(caplog: pytest.LogCaptureFixture) -> None:
    def broken(run: object) -> None:
        raise RuntimeError("cannot draw")

    run = LlmAgent("a", "demo::instant").map(["What is AI?"] * 5, view=broken)
    assert (run.result()["status"] == "ok").all()
    assert "cannot draw" in caplog.text
