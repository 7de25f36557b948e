"""What stands before the ``::`` of a model's name: one wire format a module.

* ``ollama``: Ollama's own ``/api/chat`` (https://docs.ollama.com/api/chat). The address is ``base_url=``, else
  OLLAMA_URL or OLLAMA_HOST in any form that Ollama takes, else port 11434 of this machine; the key, where there is one,
  ``api_key=`` or OLLAMA_API_KEY.
* ``openai``: any OpenAI-compatible ``/v1/chat/completions`` (https://platform.openai.com/docs/api-reference/chat):
  OpenAI, vLLM, llama.cpp's server, LM Studio, OpenRouter, Groq. The address is ``base_url=``, else OPENAI_BASE_URL,
  else OpenAI's; the key ``api_key=`` or OPENAI_API_KEY, which OpenAI's own address needs.
* ``demo``: an embedded stand-in for a model, ``demo::tutor`` and ``demo::instant``: no server, no key, no network, and
  the same answers every time. It shows how things go, not how well a model answers.

A model that none of these can ask is an ``async def (messages) -> str`` of yours in place of the text. A wire format is
added to the library itself: a class that does what `Provider` says in a module here, and its name in ``agents/models``.
"""

from .base import Provider, Request
from .deltas import Delta

__all__ = ["Delta", "Provider", "Request"]
