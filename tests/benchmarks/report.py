"""From runs to tables: medians over the rounds, and ratios within a round."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from .contestants import BARE, OUR_BATCH, OUR_MAP, OURS, PEER

Run = dict[str, Any]
"""One run: what was asked of it (its job), its round, and its figures."""
Figure = Callable[[Run], float]

HTTP_HEAD = (
    "at once × server",
    "contestant",
    "at once, as the server saw it",
    "CPU, µs a request",
    "× bare aiohttp",
    "loop's thread, µs",
    "wall, s",
    "× ideal",
    "× bare aiohttp's",
    "longest freeze, ms (computing)",
    "memory, MB",
)
ENGINE_HEAD = (
    "contestant",
    "answers",
    "answers/s",
    "answers per CPU second",
    "CPU, µs each",
    "longest freeze, ms (computing)",
    "memory, MB",
)
LAZY_HEAD = (
    "items",
    "answers/s",
    "longest freeze, ms (computing)",
    "memory, MB",
    "bytes an item",
    "tasks at the most",
    "frame, s",
    "frame, MB",
)
IMPORT_HEAD = ("import", "wall, s", "CPU, s", "modules", "heavy ones among them")
BAR_HEAD = ("what", "bar", "measured", "")


class Runs:
    """Runs of one job, looked at across the rounds."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = list(runs)

    def where(self, **wanted: Any) -> "Runs":
        """Those whose job says so."""
        return Runs(run for run in self.runs if all(run.get(name) == value for name, value in wanted.items()))

    def middle(self, figure: Figure) -> float | None:
        """The median of a figure; None where nothing was run."""
        return median(map(figure, self.runs)) if self.runs else None

    def ratio(self, others: "Runs", figure: Figure) -> float | None:
        """The median of the ratios to others of the same round; None where one of the two is missing."""
        of_round = {run["round"]: figure(run) for run in others.runs}
        return median(figure(run) / of_round[run["round"]] for run in self.runs) if self.runs and of_round else None

    def distinct(self, *names: str) -> list[tuple[Any, ...]]:
        """The combinations of these that occur, in order."""
        return list(dict.fromkeys(tuple(run[name] for name in names) for run in self.runs))


# -- figures of a run ------------------------------------------------------------------------------------------------


def cpu_each(run: Run) -> float:
    """CPU seconds a prompt."""
    return float(run["cpu"] / run["n"])


def loop_each(run: Run) -> float:
    """CPU seconds a prompt, of the loop's thread."""
    return float(run["loop"] / run["n"])


def wall(run: Run) -> float:
    """Seconds."""
    return float(run["wall"])


def wall_each(run: Run) -> float:
    """Seconds a prompt."""
    return float(run["wall"] / run["n"])


def over_ideal(run: Run) -> float:
    """Wall over what it would be if nothing but the server took time: whole waves of requests."""
    return float(run["wall"] / (-(-run["n"] // run["at_once"]) * run["delay"]))


def freeze(run: Run) -> float:
    """Seconds that the loop stood still, at the most."""
    return float(run["freeze"])


def freeze_cpu(run: Run) -> float:
    """Seconds that the loop's thread computed without coming round, at the most."""
    return float(run["freeze_cpu"])


def memory(run: Run) -> float:
    """Bytes at the peak, above the start."""
    return float(run["memory"])


# -- tables ----------------------------------------------------------------------------------------------------------


def write(results: dict[str, Any]) -> str:
    """All tables, as Markdown."""
    runs = Runs(results["runs"])
    machine = results["machine"]
    parts = [
        f"Python {machine['python']}, {machine['cpus']} CPUs, load {machine['load']:.1f} at the start; medians of "
        f"{results['rounds']} rounds, ratios within a round."
    ]
    kinds = {"http": _http, "engine": _engine, "lazy": _lazy, "import": _imports}
    for kind, section in kinds.items():
        found = runs.where(kind=kind)
        if found.runs:
            parts += section(found)
    bars = [row for row in _bars(runs) if row is not None]
    if results["full"]:
        parts += ["### The bar", table(BAR_HEAD, bars)]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# -- sections --------------------------------------------------------------------------------------------------------


def _http(runs: Runs) -> list[str]:
    rows = []
    for at_once, delay, name in runs.distinct("at_once", "delay", "contestant"):
        race = runs.where(at_once=at_once, delay=delay)
        mine, bare = race.where(contestant=name), race.where(contestant=BARE)
        rows.append(
            [
                f"{at_once:,} × {delay * 1000:g} ms",
                name,
                f"{mine.middle(lambda run: run['server']['peak']):,.0f}",
                micro(mine.middle(cpu_each)),
                times(mine.ratio(bare, cpu_each)),
                micro(mine.middle(loop_each)),
                f"{mine.middle(wall):.2f}",
                times(mine.middle(over_ideal) if delay else None),
                times(mine.ratio(bare, wall)),
                _freezes(mine),
                mega(mine.middle(memory)),
            ]
        )
    return ["### Over HTTP", table(HTTP_HEAD, rows)]


def _engine(runs: Runs) -> list[str]:
    rows = []
    for (name,) in runs.distinct("contestant"):
        mine = runs.where(contestant=name)
        rows.append(
            [
                name,
                f"{mine.runs[0]['n']:,}",
                f"{mine.middle(lambda run: 1 / wall_each(run)):,.0f}",
                f"{mine.middle(lambda run: 1 / cpu_each(run)):,.0f}",
                written(mine.middle(cpu_each), 1e6, 1),
                _freezes(mine),
                mega(mine.middle(memory)),
            ]
        )
    return ["### The engine, with a function that answers at once", table(ENGINE_HEAD, rows)]


def _lazy(runs: Runs) -> list[str]:
    row = [
        f"{runs.runs[0]['n']:,}",
        f"{runs.middle(lambda run: 1 / wall_each(run)):,.0f}",
        _freezes(runs),
        mega(runs.middle(memory)),
        f"{runs.middle(lambda run: run['memory'] / run['n']):,.0f}",
        f"{runs.middle(lambda run: run['tasks']):.0f}, {runs.runs[0]['at_once']} at once",
        f"{runs.middle(lambda run: run['frame_wall']):.2f}",
        mega(runs.middle(lambda run: run["frame_memory"])),
    ]
    return ["### Lazy items, every answer kept", table(LAZY_HEAD, [row])]


def _imports(runs: Runs) -> list[str]:
    rows = []
    for (name,) in runs.distinct("contestant"):
        mine = runs.where(contestant=name)
        rows.append(
            [
                f"`{name}`",
                f"{mine.middle(wall):.3f}",
                f"{mine.middle(lambda run: run['cpu']):.3f}",
                f"{mine.middle(lambda run: run['modules']):.0f}",
                ", ".join(mine.runs[0]["heavy"]) or "none",
            ]
        )
    return ["### Imports", table(IMPORT_HEAD, rows)]


def _freezes(runs: Runs) -> str:
    return f"{milli(runs.middle(freeze))} ({milli(runs.middle(freeze_cpu))})"


# -- the bar ---------------------------------------------------------------------------------------------------------


def _bars(runs: Runs) -> Iterable[list[str] | None]:
    """What the project has set itself, where a run says something of it."""

    def race(contestant: str, at_once: int, delay: float) -> Runs:
        return runs.where(kind="http", contestant=contestant, at_once=at_once, delay=delay)

    ours, bare, peer = (race(name, 100, 0.0) for name in (OURS, BARE, PEER))
    yield _bar("CPU a request, µs, 100 at once", ours.middle(cpu_each), 220e-6, micro)
    yield _bar("CPU over bare aiohttp's, 100 at once", ours.ratio(bare, cpu_each), 2.3, times)
    yield _bar("CPU over async-batch-llm's, 100 at once", ours.ratio(peer, cpu_each), 1 / 9, share)
    yield _bar("wall over ideal, 100 at once × 50 ms", race(OURS, 100, 0.05).middle(over_ideal), 1.3, times)
    wide, wide_bare = race(OURS, 1_000, 0.2), race(BARE, 1_000, 0.2)
    yield _bar("wall over bare aiohttp's, 1,000 at once × 200 ms", wide.ratio(wide_bare, wall), 1.35, times)
    yield _bar("longest freeze, ms, 1,000 at once × 200 ms", wide.middle(freeze), 0.08, milli)
    for name in (OUR_BATCH, OUR_MAP):
        engine = runs.where(kind="engine", contestant=name)
        yield _bar(
            f"µs an answer (33 are 30,000 answers/s), engine alone, {name}", engine.middle(wall_each), 1 / 30_000, micro
        )
    yield _bar(
        "memory of a million lazy items, MB, answers kept",
        runs.where(kind="lazy", n=1_000_000).middle(memory),
        60e6,
        mega,
    )
    yield _bar("import, ms", runs.where(kind="import", contestant="ceylon_nb").middle(wall), 0.15, milli)


def _bar(what: str, value: float | None, most: float, form: Callable[[float], str]) -> list[str] | None:
    if value is None:
        return None
    return [what, f"≤ {form(most)}", form(value), "met" if value <= most else "missed"]


# -- how figures are written -----------------------------------------------------------------------------------------


def micro(seconds: float | None) -> str:
    """Microseconds."""
    return written(seconds, 1e6, 0)


def milli(seconds: float | None) -> str:
    """Milliseconds."""
    return written(seconds, 1e3, 0)


def mega(size: float | None) -> str:
    """Megabytes."""
    return written(size, 1e-6, 1)


def times(ratio: float | None) -> str:
    """A factor."""
    return written(ratio, 1, 2)


def share(ratio: float | None) -> str:
    """A factor far below 1."""
    return written(ratio, 1, 3)


def written(value: float | None, scale: float, digits: int) -> str:
    """A figure; a dash where there is none."""
    return "–" if value is None else f"{value * scale:,.{digits}f}"
