"""From ``"provider::model"`` to a provider."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, TypeAlias

from .. import errors
from ..providers.base import Provider
from ..providers.function import AskFunction, Function

if TYPE_CHECKING:
    from ..http import Transport

PROVIDERS = {"ollama": "Ollama", "openai": "OpenAI", "demo": "Demo"}
"""Provider names, and the class in the module of that name."""

Model: TypeAlias = str | AskFunction


def parse(model: Model) -> tuple[str, str]:
    """Split a model into provider and name.

    Raises
    ------
    InvalidModel, UnknownProvider
        It is not ``"provider::model-name"``, or nobody provides it.
    """
    if callable(model):
        return "function", getattr(model, "__name__", type(model).__name__)
    provider, colons, name = str(model).partition("::")
    if not (provider.strip() and colons and name.strip()):
        raise errors.InvalidModel(f"Invalid format. Use 'provider::model-name'. Got: {model}")
    if provider.strip() not in PROVIDERS:
        raise errors.UnknownProvider(
            f"Unknown provider: {provider}. There are {', '.join(PROVIDERS)} (openai:: with base_url= is any "
            "OpenAI-compatible server), and an async function of yours in place of the text."
        )
    return provider.strip(), name.strip()


def connect(model: Model, base_url: str | None, api_key: str | None, transport: Transport | None) -> Provider:
    """The provider of a model.

    Raises
    ------
    ConfigurationError
        The model, the address or the key cannot be right. Nothing is sent to find out.
    """
    if transport is not None and not hasattr(transport, "handle_async_request"):
        raise errors.ConfigurationError(
            f"transport is an httpx.AsyncBaseTransport, not {type(transport).__name__}; for a sync one, use its "
            "async twin (httpx.AsyncHTTPTransport)."
        )
    provider, _ = parse(model)
    if callable(model):
        return Function(model)
    module = importlib.import_module(f"..providers.{provider}", __package__)
    found: Provider = getattr(module, PROVIDERS[provider])(base_url, api_key, transport)
    return found
