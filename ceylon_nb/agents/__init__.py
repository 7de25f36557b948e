"""Agents: an Agent answers messages and does things, an LlmAgent asks a model."""

from .agent import Agent
from .context import Context
from .conversation import Conversation
from .llm import LlmAgent
from .mesh import LocalMesh
from .stream import Stream

__all__ = ["Agent", "Context", "Conversation", "LlmAgent", "LocalMesh", "Stream"]
