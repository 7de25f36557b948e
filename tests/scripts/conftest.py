"""A model server that the snippets find by the environment."""

import pytest

from ceylon_nb.testing import ModelServer


@pytest.fixture
def server(request: pytest.FixtureRequest, model_server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> ModelServer:
    """Says what it was asked; its address stands in the variable that the test's module names, in ADDRESS."""
    model_server.reply = lambda messages: f"<{messages[-1]['content']}>"
    monkeypatch.setenv(request.module.ADDRESS, model_server.url)
    return model_server
