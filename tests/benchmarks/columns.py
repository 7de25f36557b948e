"""The tables' columns: for each kind of job what is shown of its runs."""

from collections.abc import Callable

from .contestants import BARE, EARLIER, UNSTORED
from .figures import (
    Figure,
    Runs,
    adapted,
    asking,
    core,
    cpu_each,
    decided,
    freeze,
    freeze_cpu,
    listing,
    loop_each,
    memory,
    milli,
    over_ideal,
    over_server,
    server_each,
    times,
    token,
    update_rate,
    wall,
    wall_each,
    written,
)

Cell = Callable[[Runs, Runs], str]
"""What a column says of the runs of one row; the runs of its whole section are there to compare with."""


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
    "prompts": said("n"),
    "at once, as the server saw it": seen(lambda run: run["server"]["peak"]),
    "CPU, µs a request": seen(cpu_each, 1e6),
    "× bare aiohttp": over_bare(cpu_each),
    "connections": seen(lambda run: run["server"]["accepted"] - 1),
    "the server's, µs a request": seen(server_each, 1e6),
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

AUTO: dict[str, Cell] = {
    "a server that works on": said("contestant"),
    "best fixed number": said("at_once"),
    "answers with it": seen("fixed"),
    'with "auto"': seen("auto"),
    "share": seen(adapted, 1, 2),
    "refused after 10 s, %": seen("refused", 100, 1),
    "at once in the end": seen("limit"),
    "what it says": said("words"),
}

STREAMS: dict[str, Cell] = {
    "contestant": said("contestant"),
    "streams": said("n"),
    "tokens each": said("tokens"),
    "CPU, µs a token": seen(token, 1e6, 1),
    "× bare aiohttp": lambda mine, all_runs: times(mine.ratio(all_runs.where(contestant=BARE), token)),
    "longest freeze, ms (computing)": freezes,
    "updates of the panel/s": seen(update_rate, 1, 1),
    "memory, MB": seen(memory, 1e-6, 1),
}

STARTS: dict[str, Cell] = {
    "server": lambda mine, _: f"{mine.first('delay') * 1000:g} ms",
    "the first answer": said("contestant"),
    "import, s": seen("import", 1, 3),
    "build, s": seen("build", 1, 3),
    "from there to the answer, s": seen("first", 1, 3),
    "× the server's": lambda mine, _: times(mine.middle(over_server)),
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
    "tls": ("Over HTTP and TLS, with a local authority", HTTP),
    "engine": ("The engine, with a function that answers at once", ENGINE),
    "lazy": ("Lazy prompts", LAZY),
    "opening": ("A store is opened", OPENING),
    "deciding": ("Rows that are all in the store", DECIDING),
    "disk": ("Quick and slow disks, 5 ms a request", DISK),
    "panel": ("The live panel, in a kernel", PANEL),
    "stream": ("Many streams, in a kernel, 50 tokens a second each", STREAMS),
    "mesh": ("Messages between agents", MESH),
    "auto": ('max_at_once="auto", against the best fixed number', AUTO),
    "import": ("Imports", IMPORTS),
    "start": ("The first answer in a new process", STARTS),
}
"""By kind of job."""

NOTES = {
    "http": (
        "Peers that take milliseconds a request get fewer prompts. CPU is a request's; of 5,000 prompts and not 1,000 "
        "they need 2 to 6 % more a request (100 at once). At 1,000 at once they have two requests a connection where "
        "others have five, and more of opening it in each; and so have their walls over the ideal.",
    ),
    "tls": ("Here all get as many prompts, as a handshake costs more than a request: see who makes how many.",),
}
"""What a reader of a section should know."""
