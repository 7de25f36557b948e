"""The picture that the README shows: CPU a request of each contestant, at 10, 100 and 1,000 at once."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .contestants import BARE, OURS, UNSTORED
from .figures import Runs, cpu_each, micro
from .summary import WIDTHS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, QUIET = "#7d838c", "#8b919a66"
"""Of words and lines: to be read on white and on black alike, as the picture has no background of its own."""
OTHERS, MINE, BASE = "#4f86c6", "#e8590c", "#2f9e6e"
"""Of dots: peers, ours, and what all are compared with."""
INCHES = 9.6, 3.9


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
    names = [name for (name,) in races[WIDTHS[0]].distinct("contestant")]
    figure = Figure(figsize=INCHES)
    panels = figure.subplots(1, len(WIDTHS), sharex=True, sharey=True)
    for axes, (width, race) in zip(panels, races.items(), strict=True):
        _panel(axes, race, names)
        axes.set_title(f"{width:,} at once", color=INK, fontsize=10)
    _labels(figure.axes[0], names)
    figure.supxlabel("CPU a request, µs, log scale · filled: HTTP · ring: over TLS", color=INK, fontsize=9)
    figure.subplots_adjust(wspace=0.06)
    return figure


def _panel(axes: "Axes", race: Runs, names: list[str]) -> None:
    bare = race.where(contestant=BARE, kind="http").middle(cpu_each)
    if bare is not None:
        axes.axvline(bare, color=BASE, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for at, name in enumerate(names):
        mine, color = race.where(contestant=name), _color(name)
        plain, secure = (mine.where(kind=kind).middle(cpu_each) for kind in ("http", "tls"))
        if secure is not None:
            axes.plot([secure], [at], "o", markersize=7, markerfacecolor="none", markeredgecolor=color, zorder=3)
        if plain is not None:
            axes.plot([plain], [at], "o", markersize=7, color=color, zorder=4)
            axes.annotate(
                micro(plain),
                (max(plain, secure or 0), at),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                color=color,
                fontweight="bold" if _ours(name) else "normal",
                fontsize=8,
            )
    axes.set_xscale("log")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.22)
    axes.grid(axis="x", which="major", color=QUIET, linewidth=0.6)
    axes.tick_params(which="both", length=0, colors=INK)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_facecolor("none")
    for side in axes.spines.values():
        side.set_visible(False)


def _labels(axes: "Axes", names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(_color(name) if _ours(name) else INK)
        label.set_fontweight("bold" if _ours(name) else "normal")


def _ours(name: str) -> bool:
    return name in (OURS, OURS + UNSTORED)


def _color(name: str) -> str:
    return MINE if _ours(name) else BASE if name == BARE else OTHERS
