"""From runs to tables: medians over the rounds, and ratios within a round."""

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from .contestants import BARE, EARLIER, OUR_BATCH, OUR_MAP, OURS, PEER, UNSTORED
from .plan import IN_STORE, PARQUET, QUICK_DISK, SLOW_DISK, WITH_PANEL, WITHOUT_PANEL

Run = dict[str, Any]
"""One run: what was asked of it (its job), its round, and its figures."""
Figure = Callable[[Run], float]

Cell = Callable[["Runs", "Runs"], str]
"""What a column says of the runs of one row; the runs of its whole section are there to compare with."""

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

    def more(self, others: "Runs", figure: Figure) -> float | None:
        """The median of the differences to others of the same round; None where one of the two is missing."""
        of_round = {run["round"]: figure(run) for run in others.runs}
        return median(figure(run) - of_round[run["round"]] for run in self.runs) if self.runs and of_round else None

    def first(self, name: str) -> Any:
        """What the job says, where all of them say the same."""
        return self.runs[0][name]

    def distinct(self, *names: str) -> list[tuple[Any, ...]]:
        """The combinations of these that occur, in order."""
        return list(dict.fromkeys(tuple(run.get(name) for name in names) for run in self.runs))


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


def decided(run: Run) -> float:
    """Seconds until a store had said that it has no answer."""
    return float(run["decided"])


def listing(run: Run) -> float:
    """Seconds until a store had listed its batches."""
    return float(run["listing"])


def asking(run: Run) -> float:
    """Seconds from the first request to the last answer."""
    return float(run["asking"])


def over_ideal(run: Run) -> float:
    """Wall over what it would be if nothing but the server took time: whole waves of requests."""
    return float(run["wall"] / (-(-run["n"] // run["at_once"]) * run["delay"]))


def freeze(run: Run) -> float:
    """Seconds that the loop stood still, at the most."""
    return float(run["freeze"])


def freeze_cpu(run: Run) -> float:
    """Seconds that the loop's thread computed without coming round, at the most."""
    return float(run["freeze_cpu"])


def core(run: Run) -> float:
    """Share of a core, while it ran."""
    return float(run["cpu"] / run["wall"])


def busiest(run: Run) -> float:
    """Bytes that went to the browser in the busiest second."""
    return float(run["most"])


def update_rate(run: Run) -> float:
    """Updates a second that went to the browser."""
    return float(run["updates"] / run["wall"])


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
    for kind, (title, columns) in SECTIONS.items():
        found = runs.where(kind=kind)
        if found.runs:
            parts += [f"### {title}", section(found, columns)]
    bars = [row for row in _bars(runs) if row is not None]
    if results["full"]:
        parts += ["### The bar", table(BAR_HEAD, bars)]
    return "\n\n".join(parts) + "\n"


def section(runs: Runs, columns: dict[str, Cell]) -> str:
    """A table with a row for each job."""
    rows = []
    for name, at_once, delay in runs.distinct("contestant", "at_once", "delay"):
        mine = runs.where(contestant=name, at_once=at_once, delay=delay)
        rows.append([cell(mine, runs) for cell in columns.values()])
    return table(list(columns), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# -- columns ---------------------------------------------------------------------------------------------------------


def said(name: str) -> Cell:
    """What the job says."""
    return lambda mine, _: f"{mine.first(name):,}" if isinstance(mine.first(name), int) else str(mine.first(name))


def seen(figure: Figure | str, scale: float = 1, digits: int = 0) -> Cell:
    """The median of a figure, or of what the run calls so."""
    read = (lambda run: run[figure]) if isinstance(figure, str) else figure
    return lambda mine, _: written(mine.middle(read), scale, digits)


def over_bare(figure: Figure) -> Cell:
    """The ratio to bare aiohttp in the same race."""
    return lambda mine, all_runs: times(
        mine.ratio(all_runs.where(contestant=BARE, at_once=mine.first("at_once"), delay=mine.first("delay")), figure)
    )


def freezes(mine: Runs, _: Runs) -> str:
    """The longest, and the longest computation in one."""
    return f"{milli(mine.middle(freeze))} ({milli(mine.middle(freeze_cpu))})"


def unstored(name: str) -> str:
    """The same contestant without a store."""
    return name.removesuffix(EARLIER).removesuffix(UNSTORED) + UNSTORED


HTTP: dict[str, Cell] = {
    "at once × server": lambda mine, _: f"{mine.first('at_once'):,} × {mine.first('delay') * 1000:g} ms",
    "contestant": said("contestant"),
    "at once, as the server saw it": seen(lambda run: run["server"]["peak"]),
    "CPU, µs a request": seen(cpu_each, 1e6),
    "× bare aiohttp": over_bare(cpu_each),
    "loop's thread, µs": seen(loop_each, 1e6),
    "wall, s": seen(wall, 1, 2),
    "× ideal": lambda mine, _: times(mine.middle(over_ideal) if mine.first("delay") else None),
    "× bare aiohttp's": over_bare(wall),
    "longest freeze, ms (computing)": freezes,
    "memory, MB": seen(memory, 1e-6, 1),
}

ENGINE: dict[str, Cell] = {
    "contestant": said("contestant"),
    "answers": said("n"),
    "answers/s": seen(lambda run: 1 / wall_each(run)),
    "answers per CPU second": seen(lambda run: 1 / cpu_each(run)),
    "CPU, µs each": seen(cpu_each, 1e6, 1),
    "loop's thread, µs each": seen(loop_each, 1e6, 1),
    "of it the store's": lambda mine, all_runs: written(
        mine.more(all_runs.where(contestant=unstored(mine.first("contestant"))), loop_each), 1e6, 1
    ),
    "longest freeze, ms (computing)": freezes,
    "memory, MB": seen(memory, 1e-6, 1),
}

LAZY: dict[str, Cell] = {
    "contestant": said("contestant"),
    "prompts": said("n"),
    "answers/s": seen(lambda run: 1 / wall_each(run)),
    "longest freeze, ms (computing)": freezes,
    "memory, MB": seen(memory, 1e-6, 1),
    "bytes a prompt": seen(lambda run: memory(run) / run["n"]),
    "at once": said("at_once"),
    "tasks at the most": seen("tasks"),
    "frame, s": seen("frame_wall", 1, 2),
    "frame, MB": seen("frame_memory", 1e-6, 1),
}

OPENING: dict[str, Cell] = {
    "contestant": said("contestant"),
    "opened and looked into, ms": seen(decided, 1e3),
    "its batches listed, ms": seen(listing, 1e3),
    "longest freeze, ms (computing)": freezes,
}

DECIDING: dict[str, Cell] = {
    "contestant": said("contestant"),
    "rows": said("n"),
    "at once": said("at_once"),
    "wall, s": seen(wall, 1, 2),
    "CPU, µs each": seen(cpu_each, 1e6),
    "loop's thread, µs each": seen(loop_each, 1e6),
    "longest freeze, ms (computing)": freezes,
}

DISK: dict[str, Cell] = {
    "contestant": said("contestant"),
    "rows": said("n"),
    "at once": said("at_once"),
    "a commit, ms": seen("commit", 1e3),
    "the call, ms": seen("call", 1e3),
    "until the first request, ms": seen("first", 1e3),
    "from there to the last answer, s": seen(asking, 1, 2),
    "wall, s": seen(wall, 1, 2),
    "longest freeze, ms (computing)": freezes,
}

PANEL: dict[str, Cell] = {
    "contestant": said("contestant"),
    "rows": said("n"),
    "answers/s": seen(lambda run: run["n"] / run["elapsed"]),
    "% of a core": seen(core, 100, 1),
    "updates/s": seen(update_rate, 1, 1),
    "KB in the busiest second": seen("most", 1e-3),
    "KB in all": seen("bytes", 1e-3),
}

MESH: dict[str, Cell] = {
    "contestant": said("contestant"),
    "agents": said("agents"),
    "messages": said("n"),
    "messages/s": seen(lambda run: 1 / wall_each(run)),
    "CPU, µs each": seen(cpu_each, 1e6, 1),
    "longest freeze, ms (computing)": freezes,
    "memory, MB": seen(memory, 1e-6, 1),
}

IMPORTS: dict[str, Cell] = {
    "import": lambda mine, _: f"`{mine.first('contestant')}`",
    "wall, s": seen(wall, 1, 3),
    "CPU, s": seen("cpu", 1, 3),
    "modules": seen("modules"),
    "heavy ones among them": lambda mine, _: ", ".join(mine.first("heavy")) or "none",
}

SECTIONS = {
    "http": ("Over HTTP", HTTP),
    "engine": ("The engine, with a function that answers at once", ENGINE),
    "lazy": ("Lazy prompts", LAZY),
    "opening": ("A store is opened", OPENING),
    "deciding": ("Rows that are all in the store", DECIDING),
    "disk": ("Quick and slow disks, 5 ms a request", DISK),
    "panel": ("The live panel, in a kernel", PANEL),
    "mesh": ("Messages between agents", MESH),
    "import": ("Imports", IMPORTS),
}
"""By kind of job."""


# -- the bar ---------------------------------------------------------------------------------------------------------


def _bars(runs: Runs) -> Iterable[list[str] | None]:
    """What the project has set itself, where a run says something of it."""
    yield from _http_bars(runs.where(kind="http"))
    yield from _engine_bars(runs.where(kind="engine"))
    yield from _store_bars(runs)
    yield from _panel_bars(runs.where(kind="panel"))
    yield from _mesh_bars(runs.where(kind="mesh"))
    yield _bar("import, ms", runs.where(kind="import", contestant="ceylon_nb").middle(wall), 0.15, milli)


def _http_bars(runs: Runs) -> Iterable[list[str] | None]:
    def race(contestant: str, at_once: int, delay: float) -> Runs:
        return runs.where(contestant=contestant, at_once=at_once, delay=delay)

    ours, bare, peer = (race(name, 100, 0.0) for name in (OURS, BARE, PEER))
    yield _bar("CPU a request, µs, 100 at once", ours.middle(cpu_each), 220e-6, micro)
    yield _bar("CPU over bare aiohttp's, 100 at once", ours.ratio(bare, cpu_each), 2.3, times)
    yield _bar("CPU over async-batch-llm's, 100 at once", ours.ratio(peer, cpu_each), 1 / 9, share)
    yield _bar("wall over ideal, 100 at once × 50 ms", race(OURS, 100, 0.05).middle(over_ideal), 1.3, times)
    wide, wide_bare = race(OURS, 1_000, 0.2), race(BARE, 1_000, 0.2)
    yield _bar("wall over bare aiohttp's, 1,000 at once × 200 ms", wide.ratio(wide_bare, wall), 1.35, times)
    yield _bar("longest freeze, ms, 1,000 at once × 200 ms", wide.middle(freeze), 0.08, milli)


def _engine_bars(runs: Runs) -> Iterable[list[str] | None]:
    for name in (OUR_BATCH, OUR_MAP):
        stored, without = runs.where(contestant=name), runs.where(contestant=unstored(name))
        yield _bar(
            f"µs an answer (33 are 30,000 answers/s), engine alone, {name}", stored.middle(wall_each), 1 / 30_000, micro
        )
        yield _bar(f"loop's µs an answer that the store adds, {name}", stored.more(without, loop_each), 10e-6, micro)


def _store_bars(runs: Runs) -> Iterable[list[str] | None]:
    lazy = runs.where(kind="lazy", contestant=IN_STORE, n=1_000_000)
    yield _bar("memory of a million lazy prompts, MB, keep=False", lazy.middle(memory), 60e6, mega)
    parquet = runs.where(kind="lazy", contestant=PARQUET, n=1_000_000)
    yield _bar("memory of a million prompts, MB, Parquet to Parquet", parquet.middle(memory), 60e6, mega)
    small, full = runs.where(kind="opening", stored=0), runs.where(kind="opening", stored=1_000_000)
    yield _bar("opening a store of a million answers, ms more than a new one", full.more(small, decided), 0.2, milli)
    yield _bar("listing its batches, ms", full.middle(listing), 0.2, milli)
    for at_once in (8, 100):
        deciding = runs.where(kind="deciding", at_once=at_once, n=10_000)
        yield _bar(f"deciding 10,000 rows that are all in it, {at_once} at once, ms", deciding.middle(wall), 0.5, milli)
    quick, slow = (runs.where(kind="disk", contestant=name) for name in (QUICK_DISK, SLOW_DISK))
    yield _bar("longest freeze, ms, commits of 200 ms", slow.middle(freeze), 0.08, milli)
    longer = slow.more(quick, asking)  # whoever waited for commits would wait for many
    yield _bar("first request to last answer, ms more than on a quick disk, commits of 200 ms", longer, 0.2, milli)


def _panel_bars(runs: Runs) -> Iterable[list[str] | None]:
    for n in (2_000, 100_000):
        shown = runs.where(contestant=WITH_PANEL, n=n)
        which = "100 answers/s" if n == 2_000 else "as fast as can be"
        if n == 2_000:
            without = runs.where(contestant=WITHOUT_PANEL, n=n)
            yield _bar(f"% of a core that the panel adds, {which}", shown.more(without, core), 0.02, percent)
        yield _bar(f"updates of the panel a second, {which}", shown.middle(update_rate), 10, times)
        yield _bar(f"KB of the panel in its busiest second, {which}", shown.middle(busiest), 300e3, kilo)


def _mesh_bars(runs: Runs) -> Iterable[list[str] | None]:
    for (name,) in runs.distinct("contestant"):
        mine = runs.where(contestant=name)
        yield _bar(f"CPU a message, µs, {name}", mine.middle(cpu_each), 30e-6, micro)
        yield _bar(f"memory of {mine.first('n'):,} messages, MB, {name}", mine.middle(memory), 2e6, mega)


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


def kilo(size: float | None) -> str:
    """Kilobytes."""
    return written(size, 1e-3, 0)


def percent(ratio: float | None) -> str:
    """Per cent."""
    return written(ratio, 100, 1)


def times(ratio: float | None) -> str:
    """A factor."""
    return written(ratio, 1, 2)


def share(ratio: float | None) -> str:
    """A factor far below 1."""
    return written(ratio, 1, 3)


def written(value: float | None, scale: float, digits: int) -> str:
    """A figure; a dash where there is none."""
    return "–" if value is None else f"{value * scale:,.{digits}f}"
