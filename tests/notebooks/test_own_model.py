"""The tutorials on a model of one's own: ``CEYLON_NB_MODEL=… python -m pytest --nbval-lax notebooks``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from ceylon_nb.testing import ModelServer

from .tutorials import FOLDER, TUTORIALS, code_cells

ASKED = [
    path
    for path in TUTORIALS
    if any("CEYLON_NB_MODEL" in cell.source for cell in code_cells(nbformat.read(path, as_version=4)))
]
Run = Callable[..., tuple[str, str]]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def server() -> ModelServer:
    """A model that says something else than demo::tutor, takes its time, and calls no tools."""
    return ModelServer(reply="It depends. Ask me later.", latency=0.05, models=["some-model"])


@pytest.fixture
def run(server: ModelServer) -> Run:
    def run(*arguments: str | Path, **environ: str) -> tuple[str, str]:
        """Test tutorials as somebody with a model of their own does; give the last line, and all that was said."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", *arguments]
        own = {"CEYLON_NB_MODEL": "ollama::some-model", "OLLAMA_HOST": server.url, **environ}
        done = subprocess.run(
            command, cwd=FOLDER.parent, env={**os.environ, **own}, capture_output=True, text=True, check=False
        )
        return done.stdout.splitlines()[-1], done.stdout + done.stderr

    with server:
        yield run


def test_it_is_asked_and_nothing_goes_wrong(run: Run, server: ModelServer) -> None:
    assert len(ASKED) > 1
    last, said = run("--nbval-lax", *ASKED)
    assert re.match(r"\d+ passed in ", last), said
    assert server.received > 1000


def test_compared_outputs_stay_those_of_the_demo(run: Run, server: ModelServer) -> None:
    last, said = run(ASKED[0])
    assert re.match(r"\d+ passed in ", last), said
    assert not server.received


def test_it_can_be_another_provider_with_a_key(run: Run, server: ModelServer) -> None:
    server.api_key = "secret"
    own = {"CEYLON_NB_MODEL": "openai::some-model", "OPENAI_BASE_URL": server.openai_url, "OPENAI_API_KEY": "secret"}
    last, said = run(ASKED[0], "--nbval-lax", **own)
    assert re.match(r"\d+ passed in ", last), said
    assert server.received
