"""The pytest plugin: a fresh `ModelServer` for each test that asks for one.

::

    def test_it(model_server):
        agent = LlmAgent("a", "ollama::llama3.2", base_url=model_server.url)

    @pytest.mark.model_server(reply="Paris.", parallel=2)
    def test_queue(model_server): ...
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .server import ModelServer


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line("markers", "model_server(**options): what the fixture model_server gives to ModelServer")


@pytest.fixture
def model_server(request: pytest.FixtureRequest) -> "Iterator[ModelServer]":
    """A running `ModelServer`, made with the options of the test's mark ``model_server``; stopped after the test."""
    from .server import ModelServer

    mark = request.node.get_closest_marker("model_server")
    with ModelServer(**(mark.kwargs if mark else {})) as server:
        yield server
