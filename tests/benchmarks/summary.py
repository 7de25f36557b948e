"""The few figures that the README shows."""

from typing import Any

from . import figures, machine
from .contestants import BARE
from .figures import Runs, cpu_each, freeze, micro, milli, over_ideal, times
from .report import table

WIDTHS = (10, 100, 1_000)
"""At once, where the server answers at once."""


def write(results: dict[str, Any]) -> str:
    """A small table in Markdown, from the runs over HTTP and, where they were made, over TLS."""
    runs = Runs(results["runs"])
    return "\n\n".join([table(HEAD, rows(runs)), machine.words(results)]) + "\n"


HEAD = (
    "CPU a request, µs (× bare aiohttp)",
    *(f"{width:,} at once" for width in WIDTHS),
    "100 at once, TLS",
    "wall over ideal, 100 × 50 ms",
    "longest freeze, ms, 1,000 × 200 ms",
)


def rows(runs: Runs) -> list[list[str]]:
    """One for each contestant, none left out."""
    names = dict.fromkeys(name for kind in ("http", "tls") for (name,) in runs.where(kind=kind).distinct("contestant"))
    return [_row(runs, name) for name in names]


def _row(runs: Runs, name: str) -> list[str]:
    mine = runs.where(contestant=name)
    return [
        name,
        *(cost(runs, name, kind="http", at_once=width, delay=0.0) for width in WIDTHS),
        cost(runs, name, kind="tls", at_once=100, delay=0.0),
        times(mine.where(kind="http", at_once=100, delay=0.05).middle(over_ideal)),
        milli(mine.where(kind="http", at_once=1_000, delay=0.2).middle(freeze)),
    ]


def cost(runs: Runs, name: str, **race: Any) -> str:
    """CPU of a contestant in one race, and over bare aiohttp's there."""
    mine, bare = (runs.where(contestant=contestant, **race) for contestant in (name, BARE))
    if not mine.runs:
        return figures.written(None, 1, 0)
    return f"{micro(mine.middle(cpu_each))} ({figures.written(mine.ratio(bare, cpu_each), 1, 1)})"
