"""The timeline against a slow, obvious one; what it tells in pieces is what it is as a whole."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceylon_nb.trace import CANCELLED, FAILED, LIMITED, OK, RETRIED, Flight, Spans, Trace
from ceylon_nb.views.timeline import FINEST, MOST, Timeline


@dataclass
class Run:
    """A trace made by hand, and all that went into it. Moments are seconds since the batch began."""

    trace: Trace = field(default_factory=Trace)
    timeline: Timeline = field(default_factory=Timeline)
    spans: list[tuple[float, float, int]] = field(default_factory=list)
    flying: list[float] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.trace.origin = 0.0  # binary fractions stay exact

    def end(self, began: float, ended: float, kind: int = OK) -> None:
        self.spans.append((began, ended, kind))
        flight = Flight(self.trace, 0)
        flight.begin(0)
        self.trace.add(flight, ended, ended - began, kind)

    def update(self, now: float, flying: list[float] | None = None) -> None:
        self.flying, self.now = flying or [], max(now, self.now, *(ended for _, ended, _ in self.spans), 0.0)
        flights = []
        for since in self.flying:
            flight = Flight(self.trace, 0)
            flight.since = since
            flights.append(flight)
        self.timeline.update(self.trace, now, flights)

    def expected(self) -> list[list[float]]:
        """Bin by bin, span by span."""
        width = FINEST
        while self.now >= MOST * width:
            width *= 2
        assert self.timeline.width == width
        bins: list[list[float]] = []
        while len(bins) * width <= self.now:
            low = len(bins) * width
            high = min(low + width, self.now)
            spells = [(began, ended) for began, ended, _ in self.spans]
            spells += [(min(since, self.now), self.now) for since in self.flying]
            seconds = sum(max(min(ended, high) - max(began, low), 0.0) for began, ended in spells)
            kinds = [kind for _, ended, kind in self.spans if low <= ended < low + width]
            counts = [float(kinds.count(kind)) for kind in (OK, FAILED, RETRIED, LIMITED)]
            bins.append([seconds / (high - low) if high > low else 0.0, *counts])
        return bins


class Reader:
    """Puts together what it is told, as the browser does."""

    def __init__(self) -> None:
        self.bins: list[list[float]] = []

    def hear(self, told: dict[str, Any]) -> None:
        assert told["from"] <= len(self.bins)
        self.bins[told["from"] :] = told["bins"]
        assert len(self.bins) == told["n"] <= MOST


def same(bins: list[list[float]], expected: list[list[float]]) -> None:
    assert [row[1:] for row in bins] == [row[1:] for row in expected]
    assert [row[0] for row in bins] == pytest.approx([row[0] for row in expected], abs=0.0501)
    assert all(row[0] == round(row[0], 1) for row in bins)


def eighths(most: float) -> st.SearchStrategy[float]:
    return st.integers(0, int(most * 8)).map(lambda eighth: eighth / 8)


@settings(deadline=None)
@given(data=st.data())
def test_it_is_what_a_slow_one_says(data):
    run, reader, now = Run(), Reader(), 0.0
    for _ in range(data.draw(st.integers(1, 5), label="updates")):
        now += data.draw(eighths(100.0), label="step")
        for _ in range(data.draw(st.integers(0, 6), label="ended")):
            ended = now - data.draw(eighths(now), label="ended ago")
            run.end(ended - data.draw(eighths(ended), label="took"), ended, data.draw(st.integers(OK, CANCELLED)))
        run.update(now, data.draw(st.lists(eighths(now), max_size=4), label="flying since"))
        same(run.timeline.whole()["bins"], run.expected())
        if data.draw(st.booleans(), label="told"):
            reader.hear(run.timeline.delta())
            assert reader.bins == run.timeline.whole()["bins"]


@settings(deadline=None)
@given(ended=st.lists(st.floats(0, 1e6), max_size=50), seconds=st.floats(0, 1e4), now=st.floats(0, 1e6))
def test_any_moments_will_do(ended, seconds, now):
    run = Run()
    for moment in ended:
        run.end(moment - seconds, moment)  # also from before the beginning, as rounding may have it
    run.update(now, [now / 3, now + 1.0])  # and to a flight that began after the clock was read
    told = run.timeline.delta()
    assert sum(row[1] for row in told["bins"]) == len(ended)
    assert all(0 <= row[0] <= len(ended) + 2 for row in told["bins"])


def test_a_late_one_has_the_whole_past():
    run, late = Run(), Timeline()
    generator = random.Random(5)
    for now in range(1, 300):
        run.end(now - generator.random(), float(now), generator.randrange(5))
        run.update(float(now), [now - 0.5])
    flight = Flight(run.trace, 0)
    flight.since = 298.5
    late.update(run.trace, 299.0, [flight])
    assert late.whole() == run.timeline.whole()


def test_nothing_at_all():
    timeline = Timeline()
    empty = {"width": 0.5, "n": 1, "from": 0, "bins": [[0.0, 0, 0, 0, 0]], "holds": [], "now": 0.0}
    assert timeline.whole() == empty
    timeline.update(Trace(), 0.0, [])  # begun after that, by the clock
    assert timeline.delta() == empty
    assert timeline.delta() == {**empty, "from": 1, "bins": []}


def test_ten_hours():
    run, reader = Run(), Reader()
    for minute in range(600):
        for attempt in range(4):
            run.end(minute * 60.0 + attempt, minute * 60.0 + 50 + attempt, RETRIED if attempt == 3 else OK)
        run.update(minute * 60.0 + 59)
        reader.hear(run.timeline.delta())
    assert run.timeline.width == 512
    assert reader.bins == run.timeline.whole()["bins"]
    same(reader.bins, run.expected())


def test_a_burst_at_one_instant():
    run = Run()
    for _ in range(1000):
        run.end(0.25, 1.0)
    run.update(1.25, [0.0] * 500)
    assert run.timeline.whole()["bins"] == [[1000.0, 0, 0, 0, 0], [1500.0, 0, 0, 0, 0], [500.0, 1000, 0, 0, 0]]


def test_attempts_are_told_apart():
    run = Run()
    for kind, times in ((OK, 5), (FAILED, 4), (RETRIED, 3), (LIMITED, 2), (CANCELLED, 1)):
        for _ in range(times):
            run.end(0.0, 0.25, kind)
    run.update(0.25)
    assert run.timeline.whole()["bins"] == [[15.0, 5, 4, 3, 2]]


def test_only_what_changed_is_told():
    run = Run()
    run.update(1.75, [1.0])
    assert run.timeline.delta()["bins"] == [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]
    run.end(1.0, 2.25)
    run.update(2.25, [])
    told = run.timeline.delta()
    assert (told["from"], told["n"], told["bins"]) == (4, 5, [[1, 1, 0, 0, 0]])
    run.end(1.5, 2.25, FAILED)  # one that nobody knew of while it was in flight
    run.update(2.25, [])
    told = run.timeline.delta()
    assert (told["from"], told["bins"]) == (3, [[2, 0, 0, 0, 0], [2, 1, 1, 0, 0]])


def test_after_a_merge_everything_is_told():
    run = Run()
    run.update(59.0, [0.0])
    run.timeline.delta()
    run.update(61.0, [0.0])
    told = run.timeline.delta()
    assert (told["width"], told["from"], told["n"]) == (1.0, 0, 62)
    assert told["bins"][:61] == [[1, 0, 0, 0, 0]] * 61


def test_holds_and_the_time_go_with_it():
    timeline, trace = Timeline(), Trace()
    timeline.update(trace, trace.origin + 3.14159, [], [(1.0, 2.71828)])
    assert timeline.whole()["holds"] == [[1.0, 2.72]]
    assert timeline.delta()["now"] == 3.14


class Watched(Trace):
    """Notes how many spans were handed out."""

    handed = 0

    def spans(self, first: int = 0) -> Spans:
        spans = super().spans(first)
        self.handed += len(spans)
        return spans


def test_each_request_is_looked_at_once():
    run = Run(Watched())
    for now in range(100):
        run.end(float(now), now + 0.5)
        run.update(now + 0.5)
        run.timeline.delta()
    assert isinstance(run.trace, Watched)
    assert run.trace.handed == 100


def test_what_the_trace_does_not_keep_is_counted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ceylon_nb.trace.MOST", 10)
    trace, timeline = Trace(), Timeline()
    flight = Flight(trace, 0)
    flight.begin(0)
    for at in range(40):
        trace.add(flight, trace.origin + 0.1 * (at + 1), 0.1, OK if at % 4 else FAILED)
        timeline.update(trace, trace.origin + 0.1 * (at + 1), [])
    bins = timeline.whole()["bins"]
    assert trace.dropped == 30
    assert (sum(each[1] for each in bins), sum(each[2] for each in bins)) == (30, 10)
    assert bins[-2][0] == pytest.approx(1.0, abs=0.3)  # one at a time
