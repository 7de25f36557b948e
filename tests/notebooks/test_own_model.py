"""The tutorials on a model of one's own: ``CEYLON_NB_MODEL=… python -m pytest --nbval-lax notebooks``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ceylon_nb.testing import ModelServer

from .tutorials import FOLDER, TUTORIALS

ASKED = [path for path in TUTORIALS if "CEYLON_NB_MODEL" in path.read_text(encoding="utf-8")]
Run = Callable[..., tuple[str, str]]


@pytest.fixture
def server() -> ModelServer:
    """A model that says something else than demo::tutor, takes its time, and calls no tools."""
    return ModelServer(reply="It depends. Ask me later.", latency=0.05, models=["some-model"])


@pytest.fixture
def run(server: ModelServer) -> Run:
    def run(tutorial: Path, *options: str, **environ: str) -> tuple[str, str]:
        """Test it as somebody with a model of their own does; give the last line, and all that was said."""
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", *options, tutorial]
        own = {"CEYLON_NB_MODEL": "ollama::some-model", "OLLAMA_HOST": server.url, **environ}
        done = subprocess.run(
            command, cwd=FOLDER.parent, env={**os.environ, **own}, capture_output=True, text=True, check=False
        )
        return done.stdout.splitlines()[-1], done.stdout + done.stderr

    with server:
        yield run


@pytest.mark.parametrize("tutorial", ASKED, ids=lambda path: path.stem)
def test_it_is_asked_and_nothing_goes_wrong(tutorial: Path, run: Run, server: ModelServer) -> None:
    last, said = run(tutorial, "--nbval-lax")
    assert re.match(r"\d+ passed in ", last), said
    assert server.received


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
