"""Watched: what a panel can be of: a batch, or tasks of the user's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ..answers import Answer, Answers
    from ..trace import Flight, Trace


class Watched(Protocol):
    """The part of `Batch` that views read; see there. Rows are known by position, from 0."""

    @property
    def handle(self) -> str: ...  # noqa: D102 - how a user calls it, "run"; "" where they have none
    @property
    def title(self) -> str: ...  # noqa: D102 - each as in Batch
    @property
    def subtitle(self) -> str: ...  # noqa: D102
    @property
    def state(self) -> str: ...  # noqa: D102
    @property
    def total(self) -> int | None: ...  # noqa: D102
    @property
    def counts(self) -> dict[str, int]: ...  # noqa: D102
    @property
    def from_store(self) -> int: ...  # noqa: D102
    @property
    def store(self) -> Path | None: ...  # noqa: D102
    @property
    def elapsed(self) -> float: ...  # noqa: D102
    @property
    def finished(self) -> bool: ...  # noqa: D102
    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...  # noqa: D102
    @property
    def max_at_once(self) -> int | None: ...  # noqa: D102
    @property
    def adaptive(self) -> bool: ...  # noqa: D102
    @property
    def found(self) -> str: ...  # noqa: D102
    @property
    def controls(self) -> frozenset[str]: ...  # noqa: D102
    @property
    def error(self) -> BaseException | None: ...  # noqa: D102
    @property
    def rows(self) -> Answers: ...  # noqa: D102
    @property
    def trace(self) -> Trace: ...  # noqa: D102
    @property
    def flights(self) -> list[Flight]: ...  # noqa: D102
    @property
    def holds(self) -> list[tuple[float, float, str]]: ...  # noqa: D102

    def row(self, position: int) -> Answer: ...  # noqa: D102
    def question(self, position: int) -> str: ...  # noqa: D102
    def gist(self, position: int) -> str: ...  # noqa: D102
    def heard(self, flight: Flight, length: int) -> str: ...  # noqa: D102
    def cancel(self) -> None: ...  # noqa: D102
    def subscribe(self, listener: Callable[[Any], object]) -> Callable[[], None]: ...  # noqa: D102
    def at_end(self, ending: Callable[[Any], object]) -> None: ...  # noqa: D102
