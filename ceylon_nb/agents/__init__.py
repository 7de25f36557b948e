"""Agents: LlmAgent asks a model."""

from .llm import Conversation, LlmAgent
from .stream import Stream

__all__ = ["Conversation", "LlmAgent", "Stream"]
