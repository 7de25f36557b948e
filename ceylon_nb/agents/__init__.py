"""Agents: an Agent answers messages and does things, an LlmAgent asks a model."""

from .agent import Agent
from .llm import Conversation, LlmAgent
from .mesh import LocalMesh
from .stream import Stream

__all__ = ["Agent", "Conversation", "LlmAgent", "LocalMesh", "Stream"]
