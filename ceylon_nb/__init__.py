"""Run many model queries from a Jupyter notebook, on the event loop that it already has.

>>> from ceylon_nb import LlmAgent
>>> agent = LlmAgent("clerk", "demo::tutor", system_prompt="Classify the review.")
>>> run = agent.map(["Works like a charm.", "It boils water."])  # starts now, in the background
>>> frame = await run
>>> frame["reply"].tolist()
['positive', 'neutral']

* `LlmAgent` asks a model, `Agent` is what you make of it, `LocalMesh` has them talk; `Conversation` remembers.
* `LlmAgent.map`, and `batch` for any async function, give a `Batch`, whose rows are `Answer` objects; a model's answer
  is a `Reply`, and its tokens are a `Usage`. `as_completed` reads your own tasks.
* `store` and `batches` look into what was answered before, `replay` answers from a recording.
* What goes wrong is a `CeylonError`; `ceylon_nb.errors` has the tree.

Times are seconds, sizes are bytes, rates are per minute, unless a name says otherwise.
"""

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
