"""What is run: how many prompts, how many at once, how often, and at which size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .contestants import AT_ONCE, OVER_HTTP, PEER_MODULES, PEERS, STORED
from .messaging import FLOOD, FROM_OUTSIDE, NESTED, RING, TO_AND_FRO

PARTS = ("http", "engine", "lazy", "store", "panel", "mesh", "import")
"""What may be run alone. ``store`` has of ``engine`` and ``lazy`` what a store takes part in."""

KEPT, IN_STORE = "ceylon_nb, answers kept", "ceylon_nb, keep=False"
PARQUET = "ceylon_nb, Parquet to Parquet"
SMALL_STORE = "store of 1 answer"
WITH_PANEL, WITHOUT_PANEL = "with the panel", "without"
QUICK_DISK, SLOW_DISK = "quick disk", "slow disk"

Job = dict[str, Any]


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
    stored: int
    deciding_n: int
    deciding_at_once: tuple[int, ...]
    disk_n: int
    commit: float
    panels: tuple[Race, ...]
    messages: int
    trace: int
    ring: int
    imports: tuple[str, ...]
    rounds: int

    def jobs(self, part: str | None, *, peers: bool) -> Iterator[list[Job]]:
        """Groups of jobs; a group's jobs take turns."""
        for group in self._groups(part):
            yield [job for job in group if peers or job["contestant"] not in (*PEERS, *PEER_MODULES)]

    def _groups(self, part: str | None) -> Iterator[list[Job]]:
        if part in (None, "http"):
            for race in self.races:
                sizes = {"at_once": race.at_once, "delay": race.delay, "n": race.n}
                yield [_job("http", name, **sizes) for name in OVER_HTTP]
        if part in (None, "engine", "store"):
            yield [
                _job(
                    "engine",
                    name,
                    at_once=self.engine_at_once,
                    n=self.engine_peers_n if name in PEERS else self.engine_n,
                )
                for name in (STORED if part == "store" else AT_ONCE)
            ]
        if part in (None, "lazy", "store"):
            yield [
                _job(
                    "lazy",
                    name,
                    at_once=self.engine_at_once,
                    n=self.lazy_n,
                    kept=name == KEPT,
                    parquet=name == PARQUET,
                )
                for name in ((IN_STORE,) if part == "store" else (KEPT, IN_STORE, PARQUET))
            ]
        if part in (None, "store"):
            yield from self._stores()
        if part in (None, "panel"):
            for race in self.panels:
                sizes = {"at_once": race.at_once, "latency": race.delay, "n": race.n}
                yield [
                    _job("panel", name, view=view, **sizes)
                    for name, view in ((WITH_PANEL, "panel"), (WITHOUT_PANEL, None))
                ]
        if part in (None, "mesh"):
            yield [
                _job("mesh", name, at_once=1, n=self.messages, agents=agents, warm_up=self.trace)
                for name, agents in ((TO_AND_FRO, 2), (FLOOD, 2), (FROM_OUTSIDE, 2), (NESTED, 2), (RING, self.ring))
            ]
        if part in (None, "import"):
            yield [_job("import", module) for module in self.imports]

    def _stores(self) -> Iterator[list[Job]]:
        full = f"store of {self.stored:,} answers"
        yield [_job("opening", name, at_once=1, n=1, stored=n) for name, n in ((SMALL_STORE, 0), (full, self.stored))]
        yield [
            _job("deciding", full, at_once=at_once, n=self.deciding_n, stored=self.stored)
            for at_once in self.deciding_at_once
        ]
        yield [
            _job("disk", name, at_once=self.engine_at_once, n=self.disk_n, commit=commit)
            for name, commit in ((QUICK_DISK, 0.0), (SLOW_DISK, self.commit))
        ]


def _job(kind: str, contestant: str, **sizes: Any) -> Job:
    return {"kind": kind, "contestant": contestant, **sizes}


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
    stored=1_000_000,
    deciding_n=10_000,
    deciding_at_once=(8, 100),
    disk_n=2_000,
    commit=0.2,
    panels=(Race(50, 0.5, 2_000), Race(100, 0.0, 100_000)),
    messages=100_000,
    trace=12_000,
    ring=1_000,
    imports=("ceylon_nb", "asyncio", "aiohttp", "httpx", "pandas", "async_batch_llm"),
    rounds=3,
)

QUICK = Plan(
    races=(Race(8, 0.02, 64),),
    engine_at_once=8,
    engine_n=500,
    engine_peers_n=500,
    lazy_n=5_000,
    stored=1_000,
    deciding_n=100,
    deciding_at_once=(8,),
    disk_n=50,
    commit=0.05,
    panels=(Race(10, 0.1, 100),),
    messages=1_000,
    trace=100,
    ring=20,
    imports=("ceylon_nb", "asyncio"),
    rounds=1,
)
"""For seeing that all of it works; its figures mean nothing."""
