"""The views: a bar in a terminal, and one that fails. Those of notebooks: test_feed, test_summary, kernels, browser."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from ceylon_nb import LlmAgent

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


def test_the_summary_says_what_came_from_the_store(tmp_path: Path) -> None:
    agent = LlmAgent("clerk", "demo::instant")
    agent.map(["a", "b"], store=tmp_path / "answers.sqlite").result()
    run = agent.map(["a", "b", "c"], store=tmp_path / "answers.sqlite", name="again")
    run.result()
    assert run.summary().splitlines()[1] == "2 from the store; fresh=True asks anew"


def test_a_view_that_fails_never_touches_the_run(caplog: pytest.LogCaptureFixture) -> None:
    def broken(run: object) -> None:
        raise RuntimeError("cannot draw")

    run = LlmAgent("a", "demo::instant").map(["What is AI?"] * 5, view=broken)
    assert (run.result()["status"] == "ok").all()
    assert "cannot draw" in caplog.text
