"""Run many model queries from a Jupyter notebook, on the event loop that it already has."""

from .agents import Agent, Conversation, LlmAgent, LocalMesh
from .answers import Answer
from .engine import batch
from .errors import CeylonError
from .handle import Batch
from .messages import Message, Reply, Usage
from .nesting import enable_nesting
from .recording import replay
from .storage import Store, batches, store
from .tasks import as_completed

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "Answer",
    "Batch",
    "CeylonError",
    "Conversation",
    "LlmAgent",
    "LocalMesh",
    "Message",
    "Reply",
    "Store",
    "Usage",
    "as_completed",
    "batch",
    "batches",
    "enable_nesting",
    "replay",
    "store",
]
