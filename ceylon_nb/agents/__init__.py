"""Agents: LlmAgent asks a model."""

from .llm import Conversation, LlmAgent, Stream

__all__ = ["Conversation", "LlmAgent", "Stream"]
