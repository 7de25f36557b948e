"""Answer, the one row type, and Answers: columns that grow as rows come in."""

from __future__ import annotations

import math
import statistics
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .messages import Usage

STATUSES = ("waiting", "ok", "failed", "cancelled")
WAITING, OK, FAILED, CANCELLED = range(4)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one item.

    Attributes
    ----------
    position : int
        The item's place in the input, from 0.
    index : object
        Its label: the DataFrame's or Series' index label, a mapping's key, else the position.
    item : object
        What was asked about.
    reply : object
        What came back; None unless `status` is ``"ok"``.
    error : Exception or None
        Why nothing came back.
    status : str
        ``"ok"``, ``"failed"``, ``"cancelled"`` or ``"waiting"``.
    attempts : int
        Requests that it took; 0 if none was sent.
    latency : float or None
        Seconds, of the last attempt.
    usage : Usage
        Tokens in and out, where the server said.
    """

    position: int
    index: Any
    item: Any
    reply: Any
    error: Exception | None
    status: str
    attempts: int
    latency: float | None
    usage: Usage


class Answers:
    """The answers of one batch, a column each, position by position, and the order in which they came."""

    def __init__(self) -> None:
        self.status = bytearray()
        self.replies: list[Any] = []
        self.errors: list[Exception | None] = []
        self.attempts = array("L")
        self.latency = array("d")
        self.log: list[int] = []
        """Positions in the order in which they were answered; a row that was asked again stands in it again."""
        self.counts = [0] * len(STATUSES)
        """How many rows have each status, by its number."""

    def __len__(self) -> int:
        return len(self.status)

    def extend_to(self, length: int) -> None:
        """Add waiting rows until there are `length`."""
        more = length - len(self.status)
        if more <= 0:
            return
        self.status.extend(bytes(more))
        self.replies.extend([None] * more)
        self.errors.extend([None] * more)
        self.attempts.extend([0] * more)
        self.latency.extend([math.nan] * more)
        self.counts[WAITING] += more

    def set(
        self,
        position: int,
        status: int,
        reply: Any = None,
        error: Exception | None = None,
        attempts: int = 0,
        latency: float = math.nan,
    ) -> None:
        """Fill one row; an ok or failed one goes into the log."""
        self.counts[self.status[position]] -= 1
        self.counts[status] += 1
        self.status[position] = status
        self.replies[position] = reply
        self.errors[position] = error
        self.attempts[position] = attempts
        self.latency[position] = latency
        if status in (OK, FAILED):
            self.log.append(position)

    def usage(self, position: int) -> Usage:
        """Tokens of one row."""
        found = getattr(self.replies[position], "usage", None)
        return found if isinstance(found, Usage) else Usage()

    def answer(self, position: int, label: Callable[[int], Any], item: Callable[[int], Any]) -> Answer:
        """One row, with its label and item."""
        latency = self.latency[position]
        return Answer(
            position,
            label(position),
            item(position),
            self.replies[position],
            self.errors[position],
            STATUSES[self.status[position]],
            self.attempts[position],
            None if math.isnan(latency) else latency,
            self.usage(position),
        )

    def summary(self) -> list[str]:
        """Lines on latency, tokens, further attempts and kinds of failure, each only if there is something to say."""
        lines = []
        latencies = [self.latency[at] for at, status in enumerate(self.status) if status == OK]
        if len(latencies) > 1:
            cuts = statistics.quantiles(latencies, n=20, method="inclusive")
            longest = max(latencies)
            lines.append(f"latency: median {cuts[9]:.2f} s, 95 % within {cuts[18]:.2f} s, longest {longest:.2f} s")
        usages = [self.usage(at) for at in range(len(self))]
        tokens_in = sum(usage.input_tokens or 0 for usage in usages)
        tokens_out = sum(usage.output_tokens or 0 for usage in usages)
        if tokens_in or tokens_out:
            lines.append(f"tokens: {tokens_in:,} in, {tokens_out:,} out")
        again = sum(attempts - 1 for attempts in self.attempts if attempts > 1)
        if again:
            lines.append(f"{again:,} requests were second or later attempts")
        kinds = Counter(type(error).__name__ for error in self.errors if error is not None)
        if kinds:
            lines.append("failures: " + ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common()))
        return lines
