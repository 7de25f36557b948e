"""Answer, the one row type, and Answers: columns that grow as rows come in."""

from __future__ import annotations

import math
import threading
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import StoreError
from .messages import UNKNOWN, Reply, Usage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STATUSES = ("waiting", "ok", "failed", "cancelled")
WAITING, OK, FAILED, CANCELLED = range(4)

MOST_KINDS = 255
"""Kinds of errors that are told apart in one batch; what comes then is OTHERS."""
OTHERS = "others"


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
    from_store : bool
        Whether it was there before the batch began.

    Examples
    --------
    >>> from ceylon_nb import LlmAgent
    >>> agent = LlmAgent("clerk", "demo::tutor", system_prompt="Classify the review.")
    >>> async for answer in agent.map({"kettle": "Works like a charm.", "pan": ""}, max_at_once=1):
    ...     print(answer.position, answer.index, answer.status, answer.reply, type(answer.error).__name__)
    0 kettle ok positive NoneType
    1 pan failed None EmptyPrompt
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
    from_store: bool = False


@dataclass(frozen=True, slots=True)
class Columns:
    """All rows as they stood at one moment."""

    status: bytes
    replies: list[Any]
    errors: list[Exception | None]
    attempts: array[int]
    latency: array[float]
    from_store: bytes

    @property
    def usages(self) -> list[Usage]:
        """Tokens of each row."""
        return [usage_of(reply) for reply in self.replies]


class Answers:
    """The answers of one batch, a column each, position by position, and the order in which they came.

    Any thread may fill it, and any may read.

    Attributes
    ----------
    keeps : bool
        Whether replies are kept in memory.
    reused : int
        How many rows have their answer from the store.
    from_store : bytearray
        Whether each row has.
    out : Path or None
        The file in which they are as well; see `parquet.Delivered`, as of what follows.
    trouble : StoreError or None
        Why that cannot be written.
    behind : bool
        Whether too many wait for it.
    changed : callable
        Called, in any thread, when it is written, or cannot be.
    """

    keeps = True
    trouble: StoreError | None = None

    def __init__(self) -> None:
        self.status = bytearray()
        self.reused = 0
        self._replies: list[Any] = []
        self._errors: list[Exception | None] = []
        self._attempts = array("I")
        self._latency = array("d")
        self.from_store = bytearray()
        self.log: list[int] = []
        """Positions in the order in which they were answered; a row that was asked again stands in it again."""
        self._logged = array("q")  # of each row: where in the log its answer stands; -1 while there is none
        self.counts = [0] * len(STATUSES)
        """How many rows have each status, by its number."""
        self._kinds = bytearray()  # of each row that failed: the number of its error's kind
        self._numbers: dict[str, int] = {}
        self._failures: Counter[int] = Counter()
        self._input_tokens = self._output_tokens = 0
        self.changed: Callable[[], object] = lambda: None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.status)

    def extend_to(self, length: int) -> None:
        """Add waiting rows until there are `length`."""
        with self._lock:
            more = length - len(self.status)
            if more <= 0:
                return
            self.status.extend(bytes(more))
            self._attempts.extend(array("I", [0]) * more)  # no list on the way, 8 bytes a row
            self._latency.extend(array(self._latency.typecode, [math.nan]) * more)
            self.from_store.extend(bytes(more))
            self._kinds.extend(bytes(more))
            self.counts[WAITING] += more
            self._extend(more)

    def _extend(self, more: int) -> None:
        self._replies.extend([None] * more)
        self._errors.extend([None] * more)
        self._logged.extend([-1] * more)

    def set(
        self,
        position: int,
        status: int,
        reply: Any = None,
        error: Exception | None = None,
        attempts: int = 0,
        latency: float = math.nan,
        *,
        from_store: bool = False,
    ) -> None:
        """Fill one row; an ok or failed one goes into the log."""
        with self._lock:
            before = self.status[position]
            self.counts[before] -= 1
            self.counts[status] += 1
            self.reused += from_store - self.from_store[position]
            self.status[position] = status
            self._attempts[position] = attempts
            self._latency[position] = latency
            self.from_store[position] = from_store
            if before == FAILED:
                self._failures[self._kinds[position]] -= 1
            if status == FAILED:
                self._kinds[position] = kind = self._number(type(error).__name__)
                self._failures[kind] += 1
            elif status == OK and not from_store:
                usage = usage_of(reply)
                self._input_tokens += _count(usage.input_tokens)
                self._output_tokens += _count(usage.output_tokens)
            self._keep(position, status, reply, error)

    def _number(self, kind: str) -> int:
        """Of a kind of error, so that a row is a byte; the last one stands for all that come later."""
        known = self._numbers.get(kind)
        if known is None:
            if len(self._numbers) >= MOST_KINDS:
                kind = OTHERS
            known = self._numbers.setdefault(kind, len(self._numbers))
        return known

    def _keep(self, position: int, status: int, reply: Any, error: Exception | None) -> None:
        self._replies[position] = reply
        self._errors[position] = error
        if status in (OK, FAILED):
            self._logged[position] = len(self.log)
            self.log.append(position)
        else:
            self._logged[position] = -1

    @property
    def out(self) -> Path | None:
        """None."""
        return None

    @property
    def behind(self) -> bool:
        """Never."""
        return False

    def reopen(self) -> None:
        """More may come."""

    def deliver(self, *, whole: bool) -> bool:
        """Whether they are all where they are to be, now that the batch has ended."""
        return True

    def columns(self) -> Columns:
        """All rows as they stand now."""
        with self._lock:
            return Columns(
                bytes(self.status),
                self._replies[:],
                self._errors[:],
                self._attempts[:],
                self._latency[:],
                bytes(self.from_store),
            )

    def logged(self, place: int, label: Callable[[int], Any], item: Callable[[int], Any]) -> Answer | None:
        """The answer at a place in the log; None if its row was asked again since."""
        position = self.log[place]
        with self._lock:
            if self._logged[position] != place:
                return None
            return self._row(position, label(position), item(position))

    def row(self, position: int, label: Any, item: Any) -> Answer:
        """A row as it stands now."""
        with self._lock:
            return self._row(position, label, item)

    def _row(self, position: int, label: Any, item: Any) -> Answer:
        status, latency = STATUSES[self.status[position]], self._latency[position]
        reply, error = self.outcome(position)
        took, found = None if math.isnan(latency) else latency, bool(self.from_store[position])
        attempts, usage = self._attempts[position], usage_of(reply)
        return Answer(position, label, item, reply, error, status, attempts, took, usage, found)

    def outcome(self, position: int) -> tuple[Any, Exception | None]:
        """A row's reply and error as they stand now."""
        return self._replies[position], self._errors[position]

    def summary(self, asked: Sequence[int] = ()) -> list[str]:
        """Lines on latency, tokens, further attempts and kinds of failure, each only if there is something to say.

        `asked` is the row of each request that was made, as far as that is known: a row forgets what went before it
        was asked again.
        """
        lines = []
        latencies = self._latencies()
        if len(latencies) > 1:
            median, most, longest = _quantiles(latencies)
            lines.append(f"latency: median {median:.2f} s, 95 % within {most:.2f} s, longest {longest:.2f} s")
        tokens_in, tokens_out = self.tokens()
        if tokens_in or tokens_out:
            lines.append(f"tokens: {tokens_in:,} in, {tokens_out:,} out")
        again = self._further_attempts(asked)
        if again:
            many = f"{again:,} requests were second or later attempts"
            lines.append(many if again > 1 else "1 request was a second or later attempt")
        kinds = self.failures()
        if kinds:
            lines.append("failures: " + ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common()))
        return lines

    def _latencies(self) -> NDArray[np.float64]:
        """Seconds, of the rows that were asked and answered."""
        import numpy as np

        with self._lock:
            latencies = np.array(self._latency, np.float64)
            asked = np.frombuffer(bytes(self.status), np.uint8) == OK
            asked &= np.frombuffer(bytes(self.from_store), np.uint8) == 0
        found: NDArray[np.float64] = latencies[asked]
        return found

    def _further_attempts(self, asked: Sequence[int]) -> int:
        import numpy as np

        with self._lock:
            again = (np.array(self._attempts, np.int64) - 1).clip(0)
        rows, requests = np.unique(np.array(asked, np.int64), return_counts=True)
        return int(again.sum() + (requests - 1 - again[rows]).clip(0).sum())

    def failures(self) -> Counter[str]:
        """How many rows failed, by the kind of error."""
        with self._lock:
            names = list(self._numbers)
            return Counter({names[number]: count for number, count in self._failures.items() if count})

    def tokens(self) -> tuple[int, int]:
        """In and out, of what was asked for: what came from the store was paid for before."""
        return self._input_tokens, self._output_tokens


def _quantiles(latencies: NDArray[np.float64]) -> list[float]:
    """The median, what 95 % are within, and the longest."""
    import numpy as np

    found: list[float] = np.quantile(latencies, [0.5, 0.95, 1.0]).tolist()
    return found


class Tally(Answers):
    """The same without replies and errors, which are elsewhere: eleven bytes a row."""

    keeps = False

    def __init__(self) -> None:
        super().__init__()
        self._latency = array("f")

    def _extend(self, more: int) -> None:
        """Nothing more is kept."""

    def outcome(self, position: int) -> tuple[Any, Exception | None]:
        """Neither is kept."""
        return None, None

    def _keep(self, position: int, status: int, reply: Any, error: Exception | None) -> None:
        """Nor this."""


def _count(tokens: Any) -> int:
    """A number of tokens; what a user's own function says instead of one counts nothing."""
    return tokens if isinstance(tokens, int) else 0


def usage_of(reply: Any) -> Usage:
    """Tokens of one reply; unknown of what is not a model's."""
    return reply.usage if isinstance(reply, Reply) else UNKNOWN
