"""A model server on loopback, with faults to order, for your tests and ours.

`ModelServer` speaks Ollama's and OpenAI's wire formats, counts what it sees, and misbehaves exactly when told, by
`ceylon_nb.testing.faults`:

>>> from ceylon_nb import LlmAgent
>>> from ceylon_nb.testing import ModelServer, faults
>>> with ModelServer(reply="Paris.", latency=0.05) as server:
...     server.next(faults.rate_limited(retry_after=0.1), None)
...     agent = LlmAgent("pupil", "ollama::llama3.2", base_url=server.url)
...     reply = await agent.send_message("What is the capital of France?")
>>> reply, reply.attempts
('Paris.', 2)
>>> server.received, server.served, server.peak
(2, 1, 1)

The pytest plugin (`ceylon_nb.testing.plugin`) gives every test a fresh one: the fixture ``model_server``. It needs
aiohttp, which is imported when the first of these names is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import faults
    from .exchange import Exchange
    from .faults import Fault
    from .server import ModelServer
    from .witness import Request

__all__ = ["Exchange", "Fault", "ModelServer", "Request", "faults"]

_HOMES = {"Exchange": "exchange", "Fault": "faults", "ModelServer": "server", "Request": "witness"}


def __getattr__(name: str) -> Any:
    if name == "faults":
        return import_module(".faults", __name__)
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
