"""The picture that the README shows: CPU a request of each contestant, at 10, 100 and 1,000 at once."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .contestants import BARE, OURS, UNSTORED
from .figures import Run, Runs, cpu_each
from .summary import WIDTHS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, LINES = "#757b84", "#757b8455"
"""Of words and lines: to be read on white and on black alike, as the picture has no background of its own."""
OTHERS, MINE, BASE = "#3d7dc4", "#d9530b", "#278a5f"
"""Of dots: peers, ours, and what all are compared with."""
INCHES = 9.6, 4.1
TICKS = (100, 300, 1_000, 3_000)
LEGEND = "CPU a request, µs, on a log scale; left, dots: HTTP; right, rings: over TLS; dashed: bare aiohttp, HTTP"


def save(results: dict[str, Any], path: Path) -> None:
    """Draw it into a file, whose name says the format.

    Raises
    ------
    ValueError
        The results have no run over HTTP at one of the widths with a server that answers at once.
    """
    import matplotlib

    # the same figures give the same file, and one that keeps its letters whatever fonts a reader has
    with matplotlib.rc_context({"svg.hashsalt": "benchmarks", "svg.fonttype": "path", "font.size": 9}):
        metadata = {"Date": None} if path.suffix == ".svg" else {}
        draw(results).savefig(path, transparent=True, metadata=metadata, bbox_inches="tight", dpi=144)


def draw(results: dict[str, Any]) -> "Figure":
    """One panel a width; dots for plain HTTP, rings for TLS."""
    from matplotlib.figure import Figure

    runs = Runs(results["runs"])
    races = {width: runs.where(at_once=width, delay=0.0) for width in WIDTHS}
    lacking = [f"{width:,}" for width, race in races.items() if not race.where(kind="http").runs]
    if lacking:
        raise ValueError(f"Nothing was measured over HTTP at {', '.join(lacking)} at once: there is nothing to draw.")
    names = list(dict.fromkeys(name for race in races.values() for (name,) in race.distinct("contestant")))
    figure = Figure(figsize=INCHES)
    panels = figure.subplots(1, len(WIDTHS), sharex=True, sharey=True)
    for axes, (width, race) in zip(panels, races.items(), strict=True):
        _frame(axes, len(names))
        axes.set_title(f"{width:,} at once", color=INK, fontsize=10)
        _dots(axes, race, names)
    _labels(panels[0], names)
    figure.supxlabel(f"{LEGEND}\n{_circumstances(results)}", color=INK, fontsize=8.5)
    figure.subplots_adjust(wspace=0.05, bottom=0.17)
    return figure


def _circumstances(results: dict[str, Any]) -> str:
    machine = results["machine"]
    return (
        f"{results['began'].split()[0]}, {machine['model']}, {machine['cpus']} CPUs, Python {machine['python']}; "
        f"medians of {results['rounds']} rounds"
    )


def _dots(axes: "Axes", race: Runs, names: list[str]) -> None:
    bare = race.where(contestant=BARE, kind="http").middle(_micro)
    if bare is not None:
        axes.axvline(bare, color=BASE, alpha=0.5, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    for at, name in enumerate(names):
        mine, color = race.where(contestant=name), _color(name)
        plain, secure = (mine.where(kind=kind).middle(_micro) for kind in ("http", "tls"))
        if secure is not None:
            axes.plot([secure], [at], "o", markersize=9, markerfacecolor="none", markeredgecolor=color, zorder=3)
            _value(axes, secure, at, name, after=True)
        if plain is not None:
            axes.plot([plain], [at], "o", markersize=6, color=color, zorder=4)
            _value(axes, plain, at, name, after=False)


def _value(axes: "Axes", value: float, at: int, name: str, *, after: bool) -> None:
    axes.annotate(
        f"{value:,.0f}",
        (value, at),
        xytext=(8 if after else -8, 0),
        textcoords="offset points",
        ha="left" if after else "right",
        va="center_baseline",
        color=_color(name),
        fontweight="bold" if _ours(name) else "normal",
        fontsize=8,
    )


def _frame(axes: "Axes", rows: int) -> None:
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:,}" for tick in TICKS])
    axes.minorticks_off()
    axes.set_ylim(rows - 0.4, -0.6)
    axes.margins(x=0.25)
    axes.grid(axis="x", color=LINES, linewidth=0.6)
    axes.tick_params(length=0, colors=INK)
    axes.set_facecolor("none")
    for side in axes.spines.values():
        side.set_visible(False)


def _labels(axes: "Axes", names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(_color(name) if _ours(name) else INK)
        label.set_fontweight("bold" if _ours(name) else "normal")


def _micro(run: Run) -> float:
    return cpu_each(run) * 1e6


def _ours(name: str) -> bool:
    return name in (OURS, OURS + UNSTORED)


def _color(name: str) -> str:
    return MINE if _ours(name) else BASE if name == BARE else OTHERS
