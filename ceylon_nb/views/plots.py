"""A run as a figure for a report: each request in its lane, answers over time, latencies.

Drawn without pyplot, so that no state of a user's is touched, no backend is needed, and nothing is shown twice.
Imported by `Batch.plot` alone, with a sentence for whoever has no matplotlib.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError
from ..trace import CANCELLED, FAILED, LIMITED, OK, RETRIED, Trace
from .escaping import line

try:
    import matplotlib
    import numpy as np
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.patches import Patch
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
except ImportError as error:
    raise ConfigurationError("run.plot() needs matplotlib: pip install 'ceylon-nb[plot]'") from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text
    from numpy.typing import NDArray

    from .watched import Watched

    Numbers = NDArray[np.float64]

SINGLE, LANES = 20_000, 200
"""Requests, and lanes, up to which each request has a bar of its own."""

WIDTH, LEFT, RIGHT = 9.0, 0.85, 0.75
INCHES = WIDTH - LEFT - RIGHT
"""Of the figure, its margins, and what is between them."""

COLOURS = {OK: "#86bbe0", RETRIED: "#e08e00", LIMITED: "#7b3294", FAILED: "#b2182b", CANCELLED: "#b0b0b0"}
"""To be told apart by everybody, and in grey: what went well is light."""

NAMES = {
    OK: "answered",
    RETRIED: "retried",
    LIMITED: "rate-limited",
    FAILED: "failed",
    CANCELLED: "cancelled",
}

_CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}

HELD, DARK, GREY = "#f5b942", "#262626", "#666666"

STYLE: dict[Any, Any] = {
    "axes.edgecolor": GREY,
    "axes.facecolor": "white",
    "axes.grid": False,
    "axes.labelcolor": DARK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.size": 9,
    "text.color": DARK,
    "text.usetex": False,
    "xtick.color": DARK,
    "xtick.labelsize": 8,
    "ytick.color": DARK,
    "ytick.labelsize": 8,
}


class RunFigure(Figure):
    """A figure that a notebook shows as a cell's last line, whatever backend is set or none."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The picture, sharp on any screen, and how wide and high it is to be shown."""
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=192, metadata={"Software": None})
        width, height = self.get_size_inches() * 96
        return file.getvalue(), {"width": round(width), "height": round(height)}


@dataclass(frozen=True, slots=True)
class _Requests:
    """Columns: a request each; times in seconds."""

    lane: Numbers
    began: Numbers
    ended: Numbers
    kind: NDArray[np.int64]

    @classmethod
    def of(cls, trace: Trace) -> _Requests:
        spans = trace.spans()
        began = np.array(spans.began).clip(0.0)
        kind = np.frombuffer(spans.kind, np.uint8).astype(np.int64)
        return cls(np.array(spans.lane, float), began, np.array(spans.ended).clip(began), kind)

    @property
    def kinds(self) -> list[int]:
        """Those that occur, in the order of NAMES."""
        return [kind for kind in NAMES if (self.kind == kind).any()]

    @property
    def until(self) -> float:
        """When the last one ended; never zero."""
        return max(float(self.ended.max()), 1e-3)

    @property
    def crowded(self) -> bool:
        """Whether bars could not be told apart."""
        return len(self.kind) > SINGLE or self.lane.max() >= LANES

    def flying(self, edges: Numbers, kind: int | None = None) -> Numbers:
        """How many were in flight between each two edges, as a mean."""
        chosen = slice(None) if kind is None else self.kind == kind
        seconds = _before(self.began[chosen], edges) - _before(self.ended[chosen], edges)
        flying: Numbers = np.diff(seconds) / np.diff(edges)
        return flying


def _before(moments: Numbers, edges: Numbers) -> Numbers:
    """How many seconds lie between the moments before each edge and the edge, all of these together."""
    moments = np.sort(moments)
    counts = np.searchsorted(moments, edges)
    seconds: Numbers = edges * counts - np.append(0.0, moments.cumsum())[counts]
    return seconds


def draw(run: Watched) -> RunFigure:
    """Draw what has ended so far.

    Parameters
    ----------
    run : Batch
        Running or not.

    Returns
    -------
    matplotlib.figure.Figure
        9 inches wide; ``figure.savefig("run.pdf")`` keeps it.
    """
    with matplotlib.rc_context(STYLE):
        if not len(run.trace):
            return _empty(run)
        requests = _Requests.of(run.trace)
        lanes = 3.0 if requests.crowded else min(max(0.17 * (requests.lane.max() + 1), 0.8), 3.2)
        figure, (top, middle, bottom) = _sheet([(lanes, 0.95), (1.15, 0.12), (1.25, 0.75)], foot=0.5)
        scale, unit = _unit(requests.until)
        middle.sharex(top)
        _draw_lanes(top, requests, run.holds, scale)
        _draw_flow(middle, requests, run.holds, scale, unit)
        _draw_latencies(bottom, (requests.ended - requests.began)[requests.kind == OK])
        top.tick_params(labelbottom=False)
        figure.align_ylabels([top, middle, bottom])
        _write_head(figure, run)
        figure.draw_without_rendering()  # ticks are made, with the colours of now, when they are first drawn
        return figure


def _empty(run: Watched) -> RunFigure:
    figure, [axes] = _sheet([(0.6, 0.75)], foot=0.1)
    if run.counts["in flight"]:
        said = "No request has ended yet."
    elif run.from_store:
        said = f"Nothing was asked: {run.from_store:,} answers came from the store."
    else:
        said = "Nothing was asked."
    axes.set_axis_off()
    axes.text(0.5, 0.5, said, size=11, color=GREY, **_CENTRED)
    _write_head(figure, run)
    return figure


def _sheet(rows: list[tuple[float, float]], foot: float) -> tuple[RunFigure, list[Axes]]:
    """A figure, and its axes from above: how high each is, and the room over it, in inches."""
    height = sum(map(sum, rows)) + foot
    figure = RunFigure(figsize=(WIDTH, height))
    axes, y = [], height
    for high, over in rows:
        y -= high + over
        axes.append(figure.add_axes((LEFT / WIDTH, y / height, INCHES / WIDTH, high / height)))
    return figure, axes


def _unit(seconds: float) -> tuple[float, str]:
    """In what to count the time: how many seconds it has, and its name."""
    return (1.0, "s") if seconds < 600 else (60.0, "min") if seconds < 6 * 3600 else (3600.0, "h")


# -- the parts -------------------------------------------------------------------------------------------------------


def _draw_lanes(axes: Axes, requests: _Requests, holds: list[tuple[float, float, str]], scale: float) -> None:
    if requests.crowded:
        _draw_areas(axes, requests, scale)
    else:
        _draw_bars(axes, requests, scale)
    axes.set_xlim(0.0, requests.until / scale)
    handles = [
        Patch(color=COLOURS[kind], label=f"{NAMES[kind]} {int((requests.kind == kind).sum()):,}")
        for kind in requests.kinds
    ]
    if _draw_holds(axes, requests, holds, scale):
        reasons = "; ".join(dict.fromkeys(reason for *_, reason in holds if reason))
        label = f"cool-down: {_drawable(reasons, 22, 'normal')}".rstrip(": ")
        handles.append(Patch(facecolor=HELD, alpha=0.35, label=label))
    legend = axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=len(handles), frameon=False, fontsize=8,
        borderaxespad=0.2, borderpad=0.0, handlelength=1.0, handleheight=0.9, handletextpad=0.4, columnspacing=1.4,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)


def _draw_bars(axes: Axes, requests: _Requests, scale: float) -> None:
    """A bar each, in one collection: what went wrong lies on top, and is never too narrow to be seen."""
    order = np.argsort(requests.kind != OK, kind="stable")
    kinds, lane = requests.kind[order], requests.lane[order] + 1
    left, right = requests.began[order] / scale, requests.ended[order] / scale
    inch = requests.until / scale / INCHES
    apart = min(float(np.median(right - left)) / inch * 7, 0.4)  # points; more would hide the bar
    left = np.minimum(left, np.where(kinds == OK, left, right - inch / 30))
    low, high = lane - 0.4, lane + 0.4
    corners: Any = np.stack([left, low, left, high, right, high, right, low], axis=1).reshape(-1, 4, 2)
    bars = PolyCollection(
        corners,
        facecolors=[COLOURS[kind] for kind in kinds.tolist()],
        edgecolors="white" if apart > 0.1 else "face",
        linewidths=max(apart, 0.2),
        rasterized=len(lane) > SINGLE // 4,  # a PDF with as many shapes takes seconds to open
    )
    axes.add_collection(bars, autolim=False)
    axes.set_ylim(requests.lane.max() + 1.6, 0.4)
    axes.yaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.set_ylabel("lane")


def _draw_areas(axes: Axes, requests: _Requests, scale: float) -> None:
    """Too many for a bar each: how many were in flight, by how they ended."""
    edges = np.linspace(0.0, requests.until, 301)
    areas = [requests.flying(edges, kind) for kind in requests.kinds]
    colours = [COLOURS[kind] for kind in requests.kinds]
    axes.stackplot((edges[1:] + edges[:-1]) / 2 / scale, areas, colors=colours, linewidth=0)
    axes.set_ylim(bottom=0.0)
    axes.set_ylabel(f"in flight, by how they ended\n({len(requests.kind):,} requests in {_lanes(requests)})")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def _lanes(requests: _Requests) -> str:
    count = len(np.unique(requests.lane))
    return f"{count:,} lanes" if count > 1 else "one lane"


def _draw_holds(
    axes: Axes, requests: _Requests, holds: list[tuple[float, float, str]], scale: float
) -> list[tuple[float, float]]:
    """A band for each cool-down that is to be seen; from when until when these are, in seconds."""
    seen = [(begins, min(ends, requests.until)) for begins, ends, _ in holds if begins < requests.until]
    for begins, ends in seen:
        axes.axvspan(begins / scale, ends / scale, color=HELD, alpha=0.35, linewidth=0, zorder=0)
    return seen


def _draw_flow(axes: Axes, requests: _Requests, holds: list[tuple[float, float, str]], scale: float, unit: str) -> None:
    """Answers a second and, on the right, requests in flight."""
    answered = requests.ended[requests.kind == OK]
    edges = np.linspace(0.0, requests.until, min(max(len(answered) // 10, 12), 90) + 1)
    rate = np.histogram(answered, edges)[0] / np.diff(edges)
    axes.stairs(rate, edges / scale, fill=True, color=COLOURS[OK])
    axes.set_ylim(0.0, max(rate.max() * 1.15, 1e-9))
    axes.set_ylabel("answers a second")
    axes.set_xlabel(f"time since the batch began ({unit})")
    for begins, ends in _draw_holds(axes, requests, holds, scale):
        if (ends - begins) / requests.until * INCHES > 0.4:
            middle = (begins + ends) / 2 / scale
            axes.text(middle, 0.5, _seconds(ends - begins), size=8, transform=axes.get_xaxis_transform(), **_CENTRED)
    beside = axes.twinx()
    fine = np.linspace(0.0, requests.until, 241)
    flying = requests.flying(fine)
    beside.stairs(flying, fine / scale, color=DARK, linewidth=0.9, baseline=None)
    beside.set_ylim(0.0, max(flying.max() * 1.15, 1e-9))
    beside.set_ylabel("in flight (line)")
    beside.spines["right"].set_visible(True)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    beside.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    for each in (axes, beside):
        each.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def _draw_latencies(axes: Axes, seconds: Numbers) -> None:
    """A histogram of the requests that were answered, and the latencies that 50, 95 and 99 % kept below."""
    scale, unit = (0.001, "ms") if seconds.max(initial=0.0) < 0.1 else (1.0, "s")
    axes.set_xlabel(f"latency of the {len(seconds):,} requests that were answered ({unit})")
    axes.set_ylabel("requests")
    if not len(seconds):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "None was answered.", color=GREY, transform=axes.transAxes, **_CENTRED)
        return
    latencies = (seconds / scale).clip(1e-3)
    percentiles = np.percentile(latencies, [50, 95, 99])
    count = min(max(len(seconds) // 10, 10), 80)
    if latencies.max() > 10 * percentiles[0]:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        edges = np.geomspace(latencies.min() * 0.99, latencies.max() * 1.01, count + 1)
    else:
        edges = np.linspace(0.0, latencies.max() * 1.05, count + 1)
    axes.hist(latencies, edges.tolist(), color=COLOURS[OK], rwidth=0.94)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(top=axes.get_ylim()[1] * 1.1)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    for number, (percent, value) in enumerate(zip((50, 95, 99), percentiles.tolist(), strict=True)):
        axes.axvline(value, color=DARK, linewidth=0.9, linestyle=("-", "--", ":")[number])
        axes.annotate(
            f"p{percent}  {_seconds(value * scale)}",
            (value, 0.97 - 0.17 * number),
            (4, 0),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            va="top",
            size=8,
            bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1},
        )


def _seconds(value: float) -> str:
    if value >= 600:
        return f"{value / 60:,.1f} min"
    return f"{value * 1000:.3g} ms" if value < 0.1 else f"{value:.3g} s"


# -- texts -----------------------------------------------------------------------------------------------------------


def _write_head(figure: RunFigure, run: Watched) -> None:
    """What ran, on what, and how it went; what others wrote is text, never mathematics."""
    height = figure.get_size_inches()[1]
    _write(figure, run.title, 1 - 0.16 / height, size=12, weight="bold")
    counts = run.counts
    rows = ", ".join([f"{counts['ok']:,} ok"] + [f"{counts[name]:,} {name}" for name in _LESS if counts[name]])
    parts = [run.subtitle, rows if run.total is None else f"{rows} of {run.total:,}"]
    parts += [f"{run.from_store:,} from the store"] if run.from_store else []
    parts += [_seconds(run.elapsed)]
    dropped = run.trace.dropped
    parts += [f"without the last {dropped:,} requests"] if dropped else []
    _write(figure, " · ".join(part for part in parts if part), 1 - 0.42 / height, size=9, color=GREY)


_LESS = ("failed", "cancelled", "in flight")


def _write(figure: RunFigure, text: str, y: float, **looks: Any) -> None:
    """Write a line, cut so that it fits on the figure."""
    text = _drawable(text, 200, looks.get("weight", "normal"))
    x = 0.2 / WIDTH
    written: Text = figure.text(x, y, text, va="top", parse_math=False, **looks)

    def wide(length: int) -> float:
        written.set_text(text if length == len(text) else f"{text[:length].rstrip()}…")
        return float(written.get_window_extent().width)

    wide(bisect_right(range(1, len(text) + 1), (1 - 2 * x) * figure.bbox.width, key=wide))


def _drawable(text: str, limit: int, weight: str) -> str:
    """A line of it; what the font cannot draw is a box, as in a browser without the font."""
    glyphs = get_font(findfont(FontProperties(weight=weight))).get_charmap()
    return "".join(letter if ord(letter) in glyphs else "□" for letter in line(text, limit))
