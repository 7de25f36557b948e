"""Agents: an Agent answers messages and does things, an LlmAgent asks a model.

What agents and meshes hand out is here: a `Context` to handlers, a `Stream` of a reply, the `Action` objects of
`Agent.actions`, and how a mesh stands (`Stats`, `AgentStats`, `Passage`, `Pending`, `Result`). The agents themselves
are at the front door, in `ceylon_nb`.
"""

from .actions import Action
from .agent import Agent
from .context import Context
from .conversation import Conversation
from .llm import LlmAgent
from .mesh import LocalMesh
from .post import Pending, Result
from .stream import Stream
from .traffic import AgentStats, Passage, Stats

__all__ = [
    "Action",
    "Agent",
    "AgentStats",
    "Context",
    "Conversation",
    "LlmAgent",
    "LocalMesh",
    "Passage",
    "Pending",
    "Result",
    "Stats",
    "Stream",
]
