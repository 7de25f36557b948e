"""The pytest plugin: a fresh `ModelServer` for each test that asks for one, and recordings in place of a model.

::

    import pytest
    from ceylon_nb import LlmAgent

    def test_it(model_server):
        agent = LlmAgent("a", "ollama::llama3.2", base_url=model_server.url)
        assert agent.send_message_sync("Hello").model == "llama3.2"
        assert model_server.served == 1

    @pytest.mark.model_server(reply="Paris.", parallel=2)
    def test_queue(model_server):
        agent = LlmAgent("a", "ollama::llama3.2", base_url=model_server.url)
        assert set(agent.map(range(9), "{}", view=None).result(60)["reply"]) == {"Paris."}

    def test_review(replay):  # from recordings/test_reviews/test_review.jsonl, beside the test's file
        assert LlmAgent("a", "ollama::llama3.2").send_message_sync("Is this positive? Great.") == "Yes."

    @pytest.mark.replay("reviews.jsonl")  # from this file, beside the test's
    def test_another(replay):
        assert LlmAgent("a", "ollama::llama3.2").send_message_sync("Is this English?") == "Yes."

``pytest --ceylon-record`` asks the models what is not recorded yet, and records it; ``--ceylon-record=all`` asks them
everything anew. Without either nothing is sent. Notebooks under nbval replay what ``CEYLON_NB_REPLAY=answers.jsonl``
names in the environment, a path beside the notebook, and record by the same options; what a notebook does not ask any
more stays in its recording until the file is deleted. How long a batch took, which a notebook's summary of it says, is
not compared.
"""

import argparse
import hashlib
import os
import re
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..recording import Recording
    from .server import ModelServer

_passed = pytest.StashKey[bool]()
_before = pytest.StashKey[str | None]()

TOOK = r'(?s)(<span class="ceylon-nb-time">).*?(</span>)'
"""In the summary of a batch that a notebook holds."""

LONGEST = 100
"""Characters of a recording's name."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option ``--ceylon-record``."""
    parser.getgroup("ceylon-nb").addoption(
        "--ceylon-record",
        nargs="?",
        const="missing",
        type=_what_to_record,
        metavar="all",
        help="ask the models what no recording holds, and record it (or, with =all, ask and record everything anew); "
        "for the fixture `replay`, and for notebooks under nbval",
    )


def _what_to_record(value: str) -> str:
    if value not in ("missing", "all"):
        raise argparse.ArgumentTypeError(f"it is missing or all, not {value!r}; before a path, say =missing")
    return value


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks known, and tell the kernels that nbval starts what to record."""
    from ..recording import RECORD

    config.addinivalue_line("markers", "model_server(**options): what the fixture model_server gives to ModelServer")
    config.addinivalue_line("markers", "replay(path): the recording of the fixture replay, beside the test's file")
    record = config.getoption("--ceylon-record")
    if record is not None:
        config.stash[_before] = os.environ.get(RECORD)
        os.environ[RECORD] = record


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Have nbval leave out of its comparison how long a batch took; all else that a summary says is compared."""
    patterns = getattr(collector, "sanitize_patterns", None)
    if isinstance(patterns, dict):
        patterns[TOOK] = r"\1\2"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave the environment as it was."""
    from ..recording import RECORD

    if _before in config.stash:
        os.environ.pop(RECORD, None)
        if (before := config.stash[_before]) is not None:
            os.environ[RECORD] = before


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the test passed: only then it has asked all that it asks."""
    report = yield
    if report.when == "call":
        item.stash[_passed] = report.passed
    return report


@pytest.fixture
def model_server(request: pytest.FixtureRequest) -> "Iterator[ModelServer]":
    """A running `ModelServer`, made with the options of the test's mark ``model_server``; stopped after the test.

    Yields
    ------
    ModelServer
        Nobody else's.
    """
    from .server import ModelServer

    mark = request.node.get_closest_marker("model_server")
    with ModelServer(**(mark.kwargs if mark else {})) as server:
        yield server


class _Failed(Exception):
    """The test did not pass."""


@pytest.fixture
def replay(request: pytest.FixtureRequest) -> "Iterator[Recording]":
    """The test's own `Recording`, in force until the test ends: see `ceylon_nb.replay`.

    It lies at ``recordings/<module>/<test>.jsonl`` beside the test's file, or where the test's mark ``replay`` says. By
    ``--ceylon-record`` it is recorded.

    Yields
    ------
    Recording
        With the counts of what was replayed and recorded.
    """
    from ..recording import Recording

    record = request.config.getoption("--ceylon-record")
    try:
        recording = Recording(_path(request), record, "run pytest with --ceylon-record", said_by="--ceylon-record")
    except ConfigurationError as error:
        pytest.fail(str(error), pytrace=False)
    with suppress(_Failed), recording:
        yield recording
        if not request.node.stash.get(_passed, False):
            raise _Failed


def _path(request: pytest.FixtureRequest) -> Path:
    """The file of a test's recording, as short as it can be said from here."""
    folder = request.path.parent
    mark = request.node.get_closest_marker("replay")
    if mark is not None and mark.args:
        path = folder / Path(*mark.args)
    else:
        path = folder / "recordings" / request.path.stem / f"{_file_name(request.node.nodeid)}.jsonl"
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _file_name(nodeid: str) -> str:
    """A test's name within its file, as any file system takes it, and no two the same."""
    name = nodeid.partition("::")[2].replace("::", ".")
    plain = re.sub(r"[^\w.-]+", "_", name.replace("[", "-").removesuffix("]"))
    if plain == name.replace("[", "-").removesuffix("]") and len(plain) <= LONGEST:
        return plain
    return f"{plain[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
