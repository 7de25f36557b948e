"""Entry: one row's outcome on its way to the disk; and how it is said there."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from ..errors import describe
from ..messages import Reply, Usage, sendable
from .identity import Question

if TYPE_CHECKING:
    from .ledger import Ledger

TEXT, JSON = range(2)
"""Kinds of a reply: a model's text, and what a function of the user's returned."""


@dataclass(slots=True, eq=False)
class Entry:
    """What became of one row.

    Attributes
    ----------
    ledger : Ledger or None
        Of which batch; None if it is not to be written.
    position : int
        Of the row, from 0.
    status : int
        `answers.OK` or `answers.FAILED`.
    question : Question or None
        None if there was none to ask.
    occurrence : int
        How many equal ones came before it in the batch.
    answer : int or None
        The number of the answer in the store, of a row that was found there.
    leader : Entry or None
        Of the row that was asked in its place.
    home : object
        What `Ledger.home` was when it was written, or its answer found: in another file neither is.
    shown : bool
        Whether views and frames have it: once it is on disk, or the disk fails.
    """

    ledger: Ledger | None
    position: int
    status: int
    reply: Any = None
    error: Exception | None = None
    attempts: int = 0
    latency: float = math.nan
    question: Question | None = None
    occurrence: int = 0
    answer: int | None = None
    leader: Entry | None = None
    home: object = None
    shown: bool = False
    at: float = field(default_factory=time.time)

    @property
    def own(self) -> bool:
        """Whether this row was asked for itself."""
        return self.answer is None and self.leader is None

    def links_in(self, home: object) -> bool:
        """Whether its answer is in this file, or comes to it with the same transaction."""
        if self.answer is not None:
            return self.home is home
        return self.leader is not None and self.leader.home in (None, home)

    @property
    def size(self) -> int:
        """Roughly, in characters."""
        return 200 + (len(self.question.prompt) if self.question else 0) + _length(self.reply)


class Found(NamedTuple):
    """An answer from the store."""

    id: int
    reply: Any
    attempts: int
    latency: float


def _length(reply: Any) -> int:
    return len(reply) if isinstance(reply, str) else 100


def storable(reply: Any) -> bool:
    """Whether a reply comes back from JSON as what it is."""
    if isinstance(reply, str):
        return type(reply) in (str, Reply)
    try:
        return bool(orjson.loads(orjson.dumps(reply, option=_STRICT)) == reply)
    except (TypeError, ValueError, RecursionError):
        return False


_STRICT = orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS

COLUMNS = (
    "batch, position, family, question, occurrence, prompt, status, kind, reply, error, attempts, latency, "
    "input_tokens, output_tokens, model, finish_reason, at"
)
"""Of the table of answers, as `encode` gives them."""


def encode(entry: Entry, batch: int | None, family_id: int | None) -> tuple[Any, ...]:
    """An entry as a row of the table of answers."""
    question, reply = entry.question, entry.reply
    ok = entry.error is None
    kind = TEXT if isinstance(reply, Reply) else JSON
    usage = reply.usage if isinstance(reply, Reply) else Usage()
    return (
        batch,
        entry.position,
        family_id,
        question.number if question else None,
        entry.occurrence if question else None,
        question.prompt if question else None,
        entry.status,
        kind if ok else None,
        (sendable(reply) if kind == TEXT else _json(reply)) if ok else None,
        sendable(describe(entry.error) or "") or None,
        entry.attempts,
        None if math.isnan(entry.latency) else entry.latency,
        usage.input_tokens,
        usage.output_tokens,
        reply.model if isinstance(reply, Reply) else None,
        reply.finish_reason if isinstance(reply, Reply) else None,
        entry.at,
    )


def _json(reply: Any) -> str:
    try:
        return orjson.dumps(reply).decode()
    except TypeError:  # half a surrogate pair
        return orjson.dumps(sendable(reply)).decode()


REPLY_COLUMNS = "kind, reply, attempts, latency, input_tokens, output_tokens, model, finish_reason"
"""Of the table of answers, as `decode` takes them."""


def decode(
    kind: int,
    text: str,
    attempts: int,
    latency: float | None,
    input_tokens: int | None,
    output_tokens: int | None,
    model: str | None,
    finish_reason: str | None,
) -> Any:
    """The reply that was written."""
    if kind == JSON:
        return orjson.loads(text)
    usage = Usage(input_tokens, output_tokens)
    return Reply(text, usage=usage, model=model, latency=latency, finish_reason=finish_reason, attempts=attempts)
