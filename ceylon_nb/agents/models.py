"""From ``"provider::model"`` to a provider."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, TypeAlias

import orjson

from .. import errors
from ..messages import sendable
from ..providers.base import Provider
from ..providers.function import AskFunction, Function
from ..storage.identity import Family
from ..urls import mask

if TYPE_CHECKING:
    from ..http import Transport
    from .caller import Caller

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


def family(model: Model, caller: Caller) -> Family:
    """What all questions of one batch to a model have in common. No key and no login is in it.

    A function is known by its module and name: what it does may change, and its address says nothing.
    """
    provider, name = parse(model)
    settings, endpoint = caller.settings, mask(caller.provider.base_url)
    if callable(model):
        name, endpoint = f"{model.__module__}.{getattr(model, '__qualname__', name)}", ""
    return Family(
        provider=provider,
        endpoint=endpoint or None,
        model=name,
        system_prompt=sendable(settings.system_prompt) if settings.system_prompt else None,
        temperature=None if settings.temperature is None else float(settings.temperature),
        max_tokens=settings.max_tokens,
        tools=orjson.dumps(caller.tools, option=orjson.OPT_SORT_KEYS).decode() if caller.tools else None,
    )


def connect(model: Model, base_url: str | None, api_key: str | None, transport: Transport | None) -> Provider:
    """The provider of a model.

    Raises
    ------
    ConfigurationError
        The model, the address or the key cannot be right. Nothing is sent to find out.
    """
    provider, _ = parse(model)
    if callable(model):
        return Function(model)
    module = importlib.import_module(f"..providers.{provider}", __package__)
    found: Provider = getattr(module, PROVIDERS[provider])(base_url, api_key, transport)
    return found
