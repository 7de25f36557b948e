"""What is run: how many prompts, how many at once, how often, and at which size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .contestants import AT_ONCE, OVER_HTTP, PEER_MODULES, PEERS


@dataclass(frozen=True, slots=True)
class Race:
    """Contestants side by side over HTTP.

    Attributes
    ----------
    at_once : int
        Requests in flight.
    delay : float
        Seconds until the server answers.
    n : int
        Prompts.
    """

    at_once: int
    delay: float
    n: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One size of everything. Where a function answers at once, peers that take a hundred times as long get fewer."""

    races: tuple[Race, ...]
    engine_at_once: int
    engine_n: int
    engine_peers_n: int
    lazy_n: int
    imports: tuple[str, ...]
    rounds: int

    def jobs(self, part: str | None, *, peers: bool) -> Iterator[list[dict[str, Any]]]:
        """Groups of jobs; a group's jobs take turns."""
        if part in (None, "http"):
            for race in self.races:
                yield [
                    {
                        "kind": "http",
                        "contestant": name,
                        "at_once": race.at_once,
                        "delay": race.delay,
                        "n": race.n,
                    }
                    for name in OVER_HTTP
                    if peers or name not in PEERS
                ]
        if part in (None, "engine"):
            yield [
                {
                    "kind": "engine",
                    "contestant": name,
                    "at_once": self.engine_at_once,
                    "n": self.engine_peers_n if name in PEERS else self.engine_n,
                }
                for name in AT_ONCE
                if peers or name not in PEERS
            ]
        if part in (None, "lazy"):
            yield [{"kind": "lazy", "contestant": "ceylon_nb", "at_once": self.engine_at_once, "n": self.lazy_n}]
        if part in (None, "import"):
            yield [
                {"kind": "import", "contestant": module}
                for module in self.imports
                if peers or module not in PEER_MODULES
            ]


FULL = Plan(
    races=(
        Race(10, 0.0, 5_000),
        Race(100, 0.0, 5_000),
        Race(1_000, 0.0, 5_000),
        Race(100, 0.05, 5_000),
        Race(1_000, 0.2, 5_000),
    ),
    engine_at_once=100,
    engine_n=100_000,
    engine_peers_n=5_000,
    lazy_n=1_000_000,
    imports=("ceylon_nb", "asyncio", "aiohttp", "httpx", "pandas", "async_batch_llm"),
    rounds=3,
)

QUICK = Plan(
    races=(Race(8, 0.02, 64),),
    engine_at_once=8,
    engine_n=500,
    engine_peers_n=500,
    lazy_n=5_000,
    imports=("ceylon_nb", "asyncio"),
    rounds=1,
)
"""For seeing that all of it works; its figures mean nothing."""
