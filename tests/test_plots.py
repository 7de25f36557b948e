"""The figure of a run: what is on it, that it disturbs nothing, and that a notebook shows it once."""

from __future__ import annotations

import base64
import json
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import nbformat
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.text import Text
from nbclient import NotebookClient

from ceylon_nb import batch
from ceylon_nb.trace import CANCELLED, FAILED, LIMITED, MOST, OK, RETRIED, Flight, Trace
from ceylon_nb.views.plots import COLOURS, SINGLE, draw

KIND_OF = {to_rgba(colour): kind for kind, colour in COLOURS.items()}


@dataclass
class Run:
    """What a figure is made of, by hand. Moments are seconds since the batch began."""

    title: str = "Classify the review: {text}"
    subtitle: str = "demo::tutor"
    trace: Trace = field(default_factory=Trace)
    counts: dict[str, int] = field(
        default_factory=lambda: {"ok": 0, "failed": 0, "cancelled": 0, "in flight": 0, "waiting": 0}
    )
    total: int | None = None
    elapsed: float = 0.0
    from_store: int = 0
    holds: list[tuple[float, float, str]] = field(default_factory=list)

    def end(self, lane: int, began: float, ended: float, kind: int = OK) -> None:
        flight = Flight(self.trace, lane)
        flight.begin(len(self.trace))
        self.trace.add(flight, self.trace.origin + ended, ended - began, kind)
        self.elapsed = max(self.elapsed, ended)
        if kind in (OK, FAILED):
            self.counts["ok" if kind == OK else "failed"] += 1


def simulated(rows: int = 400, lanes: int = 8, seconds: float = 1.0) -> Run:
    """Some are retried, one is limited, which holds them all, one fails and one is cancelled."""
    chance, run, ends = np.random.default_rng(3), Run(total=rows), np.zeros(lanes)
    kinds = {20: RETRIED, 50: RETRIED, 100: LIMITED, 150: FAILED, rows - 1: CANCELLED}
    for row in range(rows):
        lane = int(ends.argmin())
        took = seconds * chance.lognormal(sigma=0.5)
        run.end(lane, ends[lane], ends[lane] + took, kinds.get(row, OK))
        ends[lane] += took
        if row == 100:
            run.holds.append((ends[lane], ends[lane] + 12 * seconds, "the server said 429"))
            ends += 12 * seconds
    return run


def bars(figure: Figure) -> PolyCollection:
    [found] = [each for each in figure.axes[0].collections if isinstance(each, PolyCollection)]
    return found


def texts(figure: Figure) -> list[str]:
    """All that is written on it."""
    written = [text for text in figure.findobj(Text) if text.get_visible()]
    return [text.get_text() for text in written if text.get_text()]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_each_request_is_a_bar_in_its_lane():
    run = simulated()
    figure = draw(run)
    spans = run.trace.spans()
    kinds = [KIND_OF[tuple(colour)] for colour in bars(figure).get_facecolor()]
    assert kinds == [OK] * 395 + [RETRIED, RETRIED, LIMITED, FAILED, CANCELLED]  # what went wrong lies on top
    boxes = [path.get_extents() for path in bars(figure).get_paths()]
    drawn = sorted((round(box.y0 + 0.4) - 1, box.x1, box.x0, kind) for box, kind in zip(boxes, kinds, strict=True))
    expected = sorted(zip(spans.lane, spans.ended, spans.began, spans.kind, strict=True))
    for (lane, ended, began, kind), (row, right, left, drawn_kind) in zip(expected, drawn, strict=True):
        assert (row, right, drawn_kind) == (lane, pytest.approx(ended), kind)
        assert left == pytest.approx(began) or (kind != OK and left < began)
    assert figure.axes[0].get_ylabel() == "lane"
    assert figure.axes[0].yaxis_inverted()  # the first lane is the highest


def test_what_went_wrong_is_never_too_narrow_to_be_seen():
    run = Run()
    run.end(0, 0.0, 500.0)
    run.end(0, 500.0, 500.001, LIMITED)
    widths = [path.get_extents().width for path in bars(draw(run)).get_paths()]
    assert widths[1] > 2


def test_only_kinds_that_occur_are_in_the_legend():
    assert legend(draw(simulated())) == [
        "answered 395", "retried 2", "rate-limited 1", "failed 1", "cancelled 1", "cool-down: the server said 429",
    ]  # fmt: skip
    run = Run()
    run.end(0, 0.0, 1.0)
    assert legend(draw(run)) == ["answered 1"]


def test_cool_downs_are_bands():
    run = simulated()
    [(begins, ends, _)] = run.holds
    run.holds.append((run.elapsed + 10, run.elapsed + 20, "later than what is drawn"))
    figure = draw(run)
    for axes in figure.axes[:2]:
        [band] = axes.patches if axes is figure.axes[0] else axes.patches[1:]
        assert (band.get_x(), band.get_x() + band.get_width()) == (pytest.approx(begins), pytest.approx(ends))
    assert "12 s" in texts(figure)
    run.holds = [(begins, ends, "")]
    assert legend(draw(run))[-1] == "cool-down"


def test_one_time_for_all():
    run = simulated()
    lanes, flow, _, beside = draw(run).axes
    assert lanes.get_xlim() == flow.get_xlim() == beside.get_xlim() == pytest.approx((0, run.elapsed))
    assert flow.get_xlabel() == "time since the batch began (s)"


@pytest.mark.parametrize(("seconds", "unit", "until"), [(60, "min", 60), (3600, "h", 3600)])
def test_a_long_run_is_counted_in_longer_units(seconds, unit, until):
    run = simulated(seconds=float(seconds))
    flow = draw(run).axes[1]
    assert flow.get_xlabel() == f"time since the batch began ({unit})"
    assert flow.get_xlim()[1] == pytest.approx(run.elapsed / until)


def test_answers_and_flights_over_time():
    run = simulated()
    _, flow, _, beside = draw(run).axes
    assert (flow.get_ylabel(), beside.get_ylabel()) == ("answers a second", "in flight (line)")
    rates, edges, _ = flow.patches[0].get_data()
    assert (rates * np.diff(edges)).sum() == pytest.approx(395)
    flying, edges, _ = beside.patches[0].get_data()
    spans = run.trace.spans()
    assert (flying * np.diff(edges)).sum() == pytest.approx(sum(np.array(spans.ended) - np.array(spans.began)))
    middle = (edges[1:] + edges[:-1]) / 2
    now = [sum(b <= moment < e for b, e in zip(spans.began, spans.ended, strict=True)) for moment in middle]
    assert np.abs(flying - now).mean() < 0.5


def test_percentiles_are_those_of_the_answers():
    run = simulated()
    spans = run.trace.spans()
    took = [e - b for b, e, kind in zip(spans.began, spans.ended, spans.kind, strict=True) if kind == OK]
    axes = draw(run).axes[2]
    assert axes.get_xlabel() == "latency of the 395 requests that were answered (s)"
    percentiles = np.percentile(took, [50, 95, 99])
    assert [line.get_xdata()[0] for line in axes.lines] == pytest.approx(percentiles.tolist())
    labels = [text.get_text() for text in axes.texts]
    assert labels == [f"p{p}  {v:.3g} s" for p, v in zip((50, 95, 99), percentiles, strict=True)]
    assert sum(bar.get_height() for bar in axes.patches) == 395


def test_short_latencies_are_milliseconds():
    run = Run()
    for at in range(100):
        run.end(0, at / 100, at / 100 + 0.005)
    axes = draw(run).axes[2]
    assert axes.get_xlabel() == "latency of the 100 requests that were answered (ms)"
    assert axes.texts[0].get_text() == "p50  5 ms"
    assert axes.lines[0].get_xdata()[0] == pytest.approx(5)


def test_a_long_tail_is_seen_on_a_logarithmic_scale():
    run = Run()
    for at in range(100):
        run.end(0, float(at), at + 0.5)
    assert draw(run).axes[2].get_xscale() == "linear"
    run.end(0, 100.0, 160.0)
    axes = draw(run).axes[2]
    assert axes.get_xscale() == "log"
    assert sum(bar.get_height() for bar in axes.patches) == 101


@pytest.mark.parametrize(("rows", "lanes"), [(SINGLE + 1, 8), (1000, 201)])
def test_too_many_for_a_bar_each(rows, lanes):
    run = simulated(rows, lanes)
    figure = draw(run)
    label = f"in flight, by how they ended\n({rows:,} requests in {lanes} lanes)"
    assert figure.axes[0].get_ylabel() == label
    areas = [each for each in figure.axes[0].collections if isinstance(each, PolyCollection)]
    assert len(areas) == 5 == len(legend(figure)) - 1


def test_what_was_not_kept_is_said():
    run = simulated()
    run.trace.dropped = MOST
    assert any(f"without the last {MOST:,} requests" in text for text in texts(draw(run)))


def test_the_head_says_how_it_went():
    run = simulated()
    run.from_store, run.total = 100, 500
    written = texts(draw(run))
    assert "Classify the review: {text}" in written
    assert any(text.startswith("demo::tutor · 395 ok, 1 failed of 500 · 100 from the store · ") for text in written)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (Run(), "Nothing was asked."),
        (Run(from_store=500, total=500), "Nothing was asked: 500 answers came from the store."),
        (Run(counts={"ok": 0, "failed": 0, "cancelled": 0, "in flight": 8}), "No request has ended yet."),
    ],
)
def test_nothing_to_draw_is_said(run, said):
    figure = draw(run)
    assert said in texts(figure)
    assert figure._repr_png_()[0].startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", [FAILED, CANCELLED, LIMITED])
def test_none_answered(kind):
    run = Run()
    run.end(0, 0.0, 0.0, kind)
    figure = draw(run)
    assert "None was answered." in texts(figure)
    assert figure._repr_png_()[0].startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "text",
    [
        r"$\alpha_{$",
        "costs $5 or $6 a million",
        r"\frac{1}{2} _a^b %s {text!r}",
        "W" * 10_000,
        "one\nline\r\n\x1b[31mred\x1b[0m\x00",
        "שלום עולם العربية \u202e gnorw",
        "评论分类 😀 👨\u200d👩\u200d👧 e\u0301\ufe0f \U0010ffff",
        "\ud800",
        "",
        " ",
    ],
    ids=[
        "mathematics",
        "money",
        "backslashes",
        "long",
        "lines",
        "from the right",
        "no glyph",
        "surrogate",
        "",
        "space",
    ],
)
def test_what_others_say_is_text(text):
    """No mathematics, no glyph that is missing (a warning, here an error), nothing beyond the edge."""
    run = simulated()
    run.title = run.subtitle = text
    run.holds = [(begins, ends, text) for begins, ends, _ in run.holds]
    figure = draw(run)
    assert figure._repr_png_()[0].startswith(b"\x89PNG")
    figure.draw_without_rendering()
    for written in [*figure.texts, *figure.axes[0].get_legend().get_texts()]:
        box = written.get_window_extent()
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert "\n" not in written.get_text()
        assert not written.get_parse_math()
    if "$" in text:
        assert figure.texts[0].get_text() == text


@pytest.mark.parametrize("narrow", range(8))
def test_a_long_title_fills_the_width(narrow):
    run = simulated(10)
    run.title = "i" * narrow + "W" * 200
    title = draw(run).texts[0]
    most = (9 - 2 * 0.2) * 100  # the margins are 0.2 inches
    assert title.get_window_extent().width <= most
    title.set_text(title.get_text().replace("W…", "WW…"))
    assert title.get_window_extent().width > most


def test_everything_has_room_at_its_largest():
    run = simulated(19_000, 199, seconds=0.001)
    for at in range(1000):
        run.end(0, at / 1e3, at / 1e3 + 5e-4, (RETRIED, LIMITED, FAILED, CANCELLED)[at % 4])
    figure = draw(run)
    legend_box = figure.axes[0].get_legend().get_window_extent()
    assert legend_box.x1 <= figure.bbox.width
    assert legend_box.y1 < figure.texts[1].get_window_extent().y0
    for axes in figure.axes:
        assert axes.yaxis.label.get_window_extent().x0 >= 0
        assert axes.yaxis.label.get_window_extent().x1 <= figure.bbox.width


def test_a_users_style_does_not_spoil_it():
    plain = simulated()
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "black", "xtick.color": "white"}):
        before = dict(matplotlib.rcParams)
        figure = draw(plain)
        assert dict(matplotlib.rcParams) == before
        assert figure._repr_png_()[0] == draw(simulated())._repr_png_()[0]
    assert figure.axes[0].get_facecolor() == to_rgba("white")
    assert figure.axes[1].get_xticklabels()[0].get_color() != "white"


def test_it_can_be_kept(tmp_path):
    figure = draw(simulated())
    for name in ("run.pdf", "run.svg"):
        figure.savefig(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000
    assert len(pickle.loads(pickle.dumps(figure)).axes) == 4


def test_a_batch_that_ran():
    async def shout(text: str) -> str:
        return text.upper()

    run = batch(shout, ["a", "b", "c"], view=None)
    run.result(timeout=30)
    figure = run.plot()
    assert legend(figure) == ["answered 3"]
    assert len(bars(figure).get_paths()) == 3


# -- in processes of their own ---------------------------------------------------------------------------------------

MAKE = """
from types import SimpleNamespace
from ceylon_nb.trace import OK, Flight, Trace
trace = Trace()
flight = Flight(trace, 0)
flight.begin(0)
trace.add(flight, trace.origin + 1, 1.0, OK)
counts = {"ok": 1, "failed": 0, "cancelled": 0, "in flight": 0}
run = SimpleNamespace(
    title="T", subtitle="S", trace=trace, counts=counts, total=1, elapsed=1.0, from_store=0, holds=[]
)
"""


def printed(code: str) -> Any:
    """What a script prints, as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_pyplot_is_left_alone():
    code = "import json, sys\nfrom ceylon_nb.views.plots import draw\ndraw(run)._repr_png_()\n"
    assert printed(f"{MAKE}{code}print(json.dumps('matplotlib.pyplot' in sys.modules))") is False


def test_without_matplotlib_it_says_what_to_install():
    code = (
        "import json, sys\n"
        "sys.modules['matplotlib'] = None\n"
        "from ceylon_nb.errors import ConfigurationError\n"
        "try:\n    import ceylon_nb.views.plots\n"
        "except ConfigurationError as error:\n    print(json.dumps(str(error)))"
    )
    assert printed(code) == "run.plot() needs matplotlib: pip install 'ceylon-nb[plot]'"


def test_a_notebook_shows_it_once():
    """As a cell's last line, in a fresh kernel; with pyplot's inline backend; and by display."""
    sources = [
        MAKE + "from ceylon_nb.views.plots import draw\ndraw(run)",
        "%matplotlib inline\nimport matplotlib.pyplot as plt\nfigure = draw(run)\nfigure",
        "display(figure)",
        "figure = draw(run);",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    shown = [[output for output in cell.outputs if "image/png" in output.get("data", {})] for cell in notebook.cells]
    assert [len(outputs) for outputs in shown] == [1, 1, 1, 0]
    assert [len(cell.outputs) for cell in notebook.cells] == [1, 1, 1, 0]
    for [output] in shown[:3]:
        assert base64.b64decode(output["data"]["image/png"]).startswith(b"\x89PNG")
        assert output["data"]["text/plain"].startswith("<RunFigure size ")
    assert shown[0][0]["metadata"]["image/png"]["width"] == 864
