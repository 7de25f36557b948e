"""What is run: how many prompts, how many at once, how often, and at which size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import starting, streaming
from .adapting import SCENES
from .contestants import STORED
from .messaging import FLOOD, FROM_OUTSIDE, NESTED, RING, TO_AND_FRO
from .peers import AT_ONCE, OVER_HTTP, PEER_MODULES, PEERS

PARTS = ("http", "tls", "engine", "lazy", "store", "panel", "stream", "mesh", "auto", "import", "start")
"""What may be run alone. ``store`` has of ``engine`` and ``lazy`` what a store takes part in."""

ONCE = ("lazy", "auto")
"""Kinds that run in the first round only: half a minute each, and much the same every time."""

KEPT, IN_STORE = "ceylon_nb, answers kept", "ceylon_nb, keep=False"
PARQUET = "ceylon_nb, Parquet to Parquet"
SMALL_STORE = "store of 1 answer"
WITH_PANEL, WITHOUT_PANEL = "with the panel", "without"
QUICK_DISK, SLOW_DISK = "quick disk", "slow disk"
APART = 0.02
"""Seconds between two tokens of a stream."""

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
    peers_n : int or None
        Prompts of the peers, which take milliseconds for each; None: as many.
    """

    at_once: int
    delay: float
    n: int
    peers_n: int | None = None

    def jobs(self, kind: str) -> list[Job]:
        """One for each contestant."""
        return [
            _job(
                kind,
                name,
                at_once=self.at_once,
                delay=self.delay,
                n=(self.peers_n if name in PEERS else None) or self.n,
            )
            for name in OVER_HTTP
        ]


@dataclass(frozen=True, slots=True)
class Plan:
    """One size of everything. Where a function answers at once, peers that take a hundred times as long get fewer."""

    races: tuple[Race, ...]
    tls_races: tuple[Race, ...]
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
    streams: int
    tokens: int
    messages: int
    trace: int
    ring: int
    auto_seconds: float
    imports: tuple[str, ...]
    starts: tuple[float, ...]
    rounds: int

    def jobs(self, part: str | None, *, peers: bool) -> Iterator[list[Job]]:
        """Groups of jobs; a group's jobs take turns."""
        for group in self._groups(part):
            yield [job for job in group if peers or job["contestant"] not in (*PEERS, *PEER_MODULES)]

    def _groups(self, part: str | None) -> Iterator[list[Job]]:
        if part in (None, "http"):
            yield from (race.jobs("http") for race in self.races)
        if part in (None, "tls"):
            yield from (race.jobs("tls") for race in self.tls_races)
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
        if part in (None, "stream"):
            yield [
                _job("stream", name, at_once=n, n=n, tokens=self.tokens, apart=APART)
                for name in streaming.CONTESTANTS
                for n in [1 if name == streaming.ONE_SHOWN else self.streams]
            ]
        if part in (None, "mesh"):
            yield [
                _job("mesh", name, at_once=1, n=self.messages, agents=agents, warm_up=self.trace)
                for name, agents in ((TO_AND_FRO, 2), (FLOOD, 2), (FROM_OUTSIDE, 2), (NESTED, 2), (RING, self.ring))
            ]
        if part in (None, "auto"):
            yield [_job("auto", name, at_once=scene.fixed, seconds=self.auto_seconds) for name, scene in SCENES.items()]
        if part in (None, "import"):
            yield [_job("import", module) for module in self.imports]
        if part in (None, "start"):
            for delay in self.starts:
                yield [_job("start", name, at_once=1, n=1, delay=delay) for name in starting.CONTESTANTS]

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
        Race(10, 0.0, 5_000, 500),
        Race(100, 0.0, 5_000, 1_000),
        Race(1_000, 0.0, 5_000, 2_000),
        Race(100, 0.05, 5_000, 1_000),
        Race(1_000, 0.2, 5_000, 2_000),
    ),
    tls_races=(  # as many for everybody: a handshake costs more than a request
        Race(10, 0.0, 500),
        Race(100, 0.0, 500),
        Race(1_000, 0.0, 2_000),
        Race(100, 0.05, 500),
        Race(1_000, 0.2, 2_000),
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
    streams=200,
    tokens=250,
    messages=100_000,
    trace=12_000,
    ring=1_000,
    auto_seconds=25.0,
    imports=("ceylon_nb", "asyncio", "aiohttp", "httpx", "pandas", *PEER_MODULES),
    starts=(0.2, 1.0),
    rounds=3,
)

QUICK = Plan(
    races=(Race(8, 0.02, 64),),
    tls_races=(Race(8, 0.02, 64),),
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
    streams=5,
    tokens=20,
    messages=1_000,
    trace=100,
    ring=20,
    auto_seconds=1.0,
    imports=("ceylon_nb", "asyncio"),
    starts=(0.1,),
    rounds=1,
)
"""For seeing that all of it works; its figures mean nothing."""
