"""The bar that the project has set itself, and what was measured."""

from collections.abc import Callable, Iterable

from .columns import unstored
from .contestants import BARE, OUR_BATCH, OUR_MAP, OURS
from .figures import (
    Runs,
    adapted,
    asking,
    busiest,
    core,
    cpu_each,
    decided,
    freeze,
    kilo,
    listing,
    loop_each,
    mega,
    memory,
    micro,
    milli,
    over_ideal,
    over_server,
    percent,
    refused,
    share,
    times,
    token,
    update_rate,
    wall,
    wall_each,
)
from .peers import PEER
from .plan import IN_STORE, PARQUET, QUICK_DISK, SLOW_DISK, WITH_PANEL, WITHOUT_PANEL
from .streaming import WATCHED

HEAD = ("what", "bar", "measured", "")


def write(runs: Runs) -> list[list[str]]:
    """What was measured beside each bar, row by row."""
    return [row for row in _rows(runs) if row is not None]


def _rows(runs: Runs) -> Iterable[list[str] | None]:
    """What the project has set itself, where a run says something of it."""
    yield from _http_bars(runs.where(kind="http"))
    yield from _engine_bars(runs.where(kind="engine"))
    yield from _store_bars(runs)
    yield from _panel_bars(runs.where(kind="panel"))
    yield from _stream_bars(runs.where(kind="stream"))
    yield from _mesh_bars(runs.where(kind="mesh"))
    yield from _auto_bars(runs.where(kind="auto"))
    yield _bar("import, ms", runs.where(kind="import", contestant="ceylon_nb").middle(wall), 0.15, milli)
    yield from _start_bars(runs.where(kind="start"))


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


def _stream_bars(runs: Runs) -> Iterable[list[str] | None]:
    for (name,) in runs.distinct("contestant"):
        if name.startswith(WATCHED):
            mine = runs.where(contestant=name)
            what = f"CPU a token, µs, 200 streams × 50 tokens/s, with the panel, {name.removeprefix(WATCHED)}"
            yield _bar(what, mine.middle(token), 60e-6, micro)


def _start_bars(runs: Runs) -> Iterable[list[str] | None]:
    for name, delay in runs.distinct("contestant", "delay"):
        mine = runs.where(contestant=name, delay=delay)
        what = f"first answer after build() over the server's {delay * 1000:g} ms, {name}"
        yield _bar(what, mine.middle(over_server), 1.2, times)


def _mesh_bars(runs: Runs) -> Iterable[list[str] | None]:
    for (name,) in runs.distinct("contestant"):
        mine = runs.where(contestant=name)
        yield _bar(f"CPU a message, µs, {name}", mine.middle(cpu_each), 30e-6, micro)
        yield _bar(f"memory of {mine.first('n'):,} messages, MB, {name}", mine.middle(memory), 2e6, mega)


def _auto_bars(runs: Runs) -> Iterable[list[str] | None]:
    for (name,) in runs.distinct("contestant"):
        mine = runs.where(contestant=name)
        missing = mine.middle(lambda run: 1 - adapted(run))
        yield _bar(f'% of the best fixed number\'s answers that "auto" lacks, {name}', missing, 0.1, percent)
        yield _bar(f'% of requests refused after 10 s, "auto", {name}', mine.middle(refused), 0.02, percent)


def _bar(what: str, value: float | None, most: float, form: Callable[[float], str]) -> list[str] | None:
    if value is None:
        return None
    return [what, f"≤ {form(most)}", form(value), "met" if value <= most else "missed"]
