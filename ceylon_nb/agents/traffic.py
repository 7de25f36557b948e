"""What went through a mesh: each message as the trace keeps it, and how many there were.

Bounded: of the last messages a line each, never their payloads.
"""

from __future__ import annotations

import itertools
import reprlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .. import tables
from ..errors import describe
from ..messages import Reply

if TYPE_CHECKING:
    import pandas as pd

    from ..messages import Done

KEPT = 10_000
"""Messages that a trace keeps, the newest."""

LONGEST = 80
"""Characters of a payload or an answer that a trace keeps."""

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = LONGEST


class Passage:
    """One message of a mesh, or one action that a model had run, as the trace keeps it.

    Attributes
    ----------
    number : int
        From 0, in the order in which they were sent.
    at : float
        When it was sent, in seconds since 1970.
    sender : str or None
        None: whoever is not in the mesh, as a cell of a notebook.
    target : str
        An agent; of an action, ``"agent.action"``.
    kind : str
        ``"message"`` (one way), ``"query"``, ``"submit"``, ``"broadcast"`` or ``"action"``.
    said : str
        The beginning of the payload, on one line.
    answer : str or None
        The beginning of the answer, on one line; None where there is none.
    waited : float or None
        Seconds in the mailbox; None before that.
    latency : float or None
        Seconds from sending to the end; None before that.
    error : str or None
        What it failed with, on one line.
    tokens : int or None
        Tokens in and out, of a model's answer.
    """

    __slots__ = ("answer", "at", "error", "kind", "latency", "number", "said", "sender", "target", "tokens", "waited")

    def __init__(self, number: int, sender: str | None, target: str, kind: str, said: str) -> None:
        self.number = number
        self.at = time.time()
        self.sender = sender
        self.target = target
        self.kind = kind
        self.said = said
        self.answer: str | None = None
        self.waited: float | None = None
        self.latency: float | None = None
        self.error: str | None = None
        self.tokens: int | None = None

    def __repr__(self) -> str:
        return f"Passage({self.number}, {self.sender!r} to {self.target!r}, {self.kind}: {self.said!r})"

    def end(self, latency: float, answer: object = None, error: BaseException | None = None) -> None:
        """Keep how it ended; for whoever handles it.

        Parameters
        ----------
        latency : float
            Seconds from sending.
        answer : object
            What the handler returned.
        error : BaseException or None
            What it raised.
        """
        self.latency = latency
        if error is not None:
            self.error = preview(describe(error))
        elif answer is not None:
            self.answer = preview(answer)
            if isinstance(answer, Reply):
                used = (answer.usage.input_tokens, answer.usage.output_tokens)
                self.tokens = None if used == (None, None) else sum(count or 0 for count in used)


def preview(value: object) -> str:
    """The beginning of what a value says, on one line; it may be large, or unable to say anything."""
    if not isinstance(value, str):
        try:
            value = str(value) if type(value) in (int, float) else _short.repr(value)
        except Exception:  # noqa: BLE001 - a trace must not stop what it traces
            value = type(value).__name__
    line = value[: 4 * LONGEST]
    if not line.isprintable() or "  " in line:
        line = " ".join(line.split())
    return line if len(line) <= LONGEST and len(value) <= 4 * LONGEST else f"{line[: LONGEST - 1]}…"


@dataclass(frozen=True, slots=True)
class AgentStats:
    """How one agent of a mesh stands.

    Attributes
    ----------
    received : int
        Messages that it was sent.
    handled : int
        Messages that it has handled, without an error.
    failed : int
        Messages at which its handler raised.
    cancelled : int
        Messages that were withdrawn, timed out, or lost their agent or their mesh.
    waiting : int
        Messages in its mailbox.
    at_work : int
        Messages that it handles now.
    mailbox : int
        Messages that wait at the most.
    max_at_once : int
        Messages that it handles at a time, at the most.
    """

    received: int
    handled: int
    failed: int
    cancelled: int
    waiting: int
    at_work: int
    mailbox: int
    max_at_once: int


@dataclass(frozen=True, slots=True)
class Stats:
    """How a mesh stands: messages that were sent, how they ended, and where the others are; of each agent, too.

    Attributes
    ----------
    sent : int
        All of them.
    answered : int
        Handled, one-way messages among them.
    failed : int
        The handler raised.
    cancelled : int
        Withdrawn, timed out, or lost their agent or their mesh.
    waiting : int
        In a mailbox now.
    at_work : int
        Handled now.
    agents : dict of str to AgentStats
        The same of each agent that is in the mesh.
    """

    sent: int
    answered: int
    failed: int
    cancelled: int
    waiting: int
    at_work: int
    agents: dict[str, AgentStats] = field(default_factory=dict)

    @classmethod
    def of(cls, agents: dict[str, AgentStats], gone: Sequence[AgentStats] = ()) -> Stats:
        """How a mesh stands whose agents stand so.

        Parameters
        ----------
        agents : dict of str to AgentStats
            Those that are in it.
        gone : sequence of AgentStats
            Those that were removed; their messages count, too.

        Returns
        -------
        Stats
            The sums.
        """
        every = [*agents.values(), *gone]

        def total(count: Callable[[AgentStats], int]) -> int:
            return sum(map(count, every))

        return cls(
            sent=total(lambda each: each.received),
            answered=total(lambda each: each.handled),
            failed=total(lambda each: each.failed),
            cancelled=total(lambda each: each.cancelled),
            waiting=total(lambda each: each.waiting),
            at_work=total(lambda each: each.at_work),
            agents=agents,
        )


class Traffic:
    """The messages of a mesh, the newest of them.

    Attributes
    ----------
    passages : deque of Passage
        The oldest first.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.passages: deque[Passage] = deque(maxlen=kept)
        self._numbers = itertools.count()

    def begin(self, sender: str | None, target: str, kind: str, payload: object) -> Passage:
        """Keep a message that is being sent."""
        passage = Passage(next(self._numbers), sender, target, kind, preview(payload))
        self.passages.append(passage)
        return passage

    def act(self, agent: str, done: Done) -> None:
        """Keep an action that a model had an agent do, as a message to it."""
        passage = self.begin(agent, f"{agent}.{done.call.name}", "action", str(done.call))
        passage.at -= done.latency
        passage.waited, passage.latency = 0.0, done.latency
        passage.answer = None if done.error else preview(done.result)
        passage.error = preview(done.error) if done.error else None

    def trace(self) -> pd.DataFrame:
        """The messages as a table; see `LocalMesh.trace`."""
        return tables.traffic([_row(passage) for passage in self.passages.copy()])


def _row(passage: Passage) -> tuple[Any, ...]:
    return tuple(getattr(passage, name) for name in TRACE)


TRACE = ("at", "sender", "target", "kind", "said", "answer", "waited", "latency", "error", "tokens")
"""The attributes of a passage that are the columns of a trace."""
