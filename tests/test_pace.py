"""The pace of simulated batches: near the truth, soon after it changes, and never by leaps."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ceylon_nb.views.pace import Pace

START = 1_000_000.0  # as large as a clock that has run for days
TOKENS = 20

Latency = Callable[[random.Random, float], float]


def noisy(mean: float) -> Latency:
    return lambda chance, now: chance.expovariate(1 / mean)


@dataclass
class Seen:
    now: float
    done: int
    rate: float | None
    tokens: float | None
    left: float | None
    held: float


@dataclass
class Simulated:
    """A batch on a clock of its own: so many workers, each answer as late as `latency` says.

    Between `pauses` and `holds`, (from, until), nothing is begun; what is in flight ends.
    """

    rows: int
    latency: Latency
    at_once: int = 8
    every: float = 0.25
    pauses: tuple[float, float] = (math.inf, math.inf)
    holds: tuple[float, float] = (math.inf, math.inf)
    seed: int = 1
    pace: Pace = field(default_factory=Pace)

    def run(self) -> list[Seen]:
        """What the pace said at each update."""
        chance, now, begun, done = random.Random(self.seed), 0.0, 0, 0
        flying: list[float] = []
        seen: list[Seen] = []
        self.pace.update(START, 0, 0, self.rows)
        while done < self.rows:
            idle = self.pauses[0] <= now < self.pauses[1] or self.holds[0] <= now < self.holds[1]
            while begun < self.rows and len(flying) < self.at_once and not idle:
                heapq.heappush(flying, now + self.latency(chance, now))
                begun += 1
            now += self.every
            while flying and flying[0] <= now:
                ended = heapq.heappop(flying)
                done += 1
                if begun < self.rows and not idle:
                    heapq.heappush(flying, ended + self.latency(chance, ended))
                    begun += 1
            held = self.holds[1] - now if self.holds[0] <= now < self.holds[1] else 0.0
            running = not self.pauses[0] <= now < self.pauses[1]
            self.pace.update(START + now, done, done * TOKENS, self.rows - done, held, running)
            seen.append(Seen(now, done, self.pace.rate, self.pace.tokens, self.pace.left, held))
        return seen


def between(seen: list[Seen], begins: float, ends: float) -> list[Seen]:
    found = [moment for moment in seen if begins <= moment.now < ends]
    assert found
    return found


def rates(seen: list[Seen]) -> list[float]:
    return [moment.rate for moment in seen if moment.rate is not None]


def off(seen: list[Seen], ends: float) -> list[float]:
    """By which share the time left was wrong, seen from the end: 0.1 is 10 % too long."""
    return [moment.left / (ends - moment.now) - 1 for moment in seen if moment.left is not None]


def steady(seen: list[Seen]) -> None:
    """The time left runs down as a clock does, and is put right by 10 % or 2 s a second at most."""
    for before, after in itertools.pairwise(seen[:-1]):  # at the very end it is 0
        if before.left is None or after.held > before.held:
            continue
        assert after.left is not None, after
        seconds = after.now - before.now
        most = seconds * max(2.0, before.left / 10) + 1e-6
        assert abs(after.left - max(before.left - seconds, 0.0)) <= most, (before, after)


@settings(deadline=None)
@given(seed=st.integers(0, 1000), every=st.sampled_from([0.1, 0.25, 1.0]))
def test_noisy_answers_have_a_steady_pace(seed, every):
    seen = Simulated(1000, noisy(1.0), seed=seed, every=every).run()
    steady(seen)
    ends = seen[-1].now
    middle = between(seen, 20, ends - 20)
    assert all(8 / 1.8 < rate < 8 * 1.8 for rate in rates(middle))
    assert all(abs(share) < 0.6 for share in off(middle, ends))
    assert sum(abs(share) for share in off(middle, ends)) / len(middle) < 0.25


def test_tokens_go_with_the_answers():
    for moment in Simulated(500, noisy(1.0)).run()[10:]:
        assert moment.tokens == pytest.approx(moment.rate * TOKENS)
    silent = Pace()
    for second in range(10):
        silent.update(START + second, second, 0, 100)
    assert silent.rate == pytest.approx(1.0)
    assert silent.tokens is None


def test_a_thousand_at_the_same_instant():
    pace, left = Pace(), []
    pace.update(START, 0, 0, 1_000_000)
    for tick in range(1, 1000):
        now, done = tick / 10, tick // 2 * 1000
        pace.update(START + now, done, 0, 1_000_000 - done)
        if now >= 5:
            assert pace.rate == pytest.approx(5000, rel=0.05)
            left.append(now + pace.left)
    assert max(left) - min(left) < 10
    assert left == pytest.approx([200] * len(left), rel=0.05)


@pytest.mark.parametrize("at_once", [1, 8])
def test_one_answer_a_minute(at_once):
    """Whether one at a time or eight together: its pace is not that of the last ten seconds."""
    seen = Simulated(20 * at_once, lambda chance, now: 60.0, at_once=at_once, every=0.5).run()
    steady(seen)
    assert all(rate == pytest.approx(at_once / 60, rel=0.35) for rate in rates(between(seen, 300, 1200)))
    assert all(abs(share) < 0.35 for share in off(between(seen, 300, 600), 1200.0))


def test_four_times_as_fast():
    seen = Simulated(3000, lambda chance, now: chance.expovariate(0.25 if now < 60 else 1.0)).run()
    steady(seen)
    assert all(rate == pytest.approx(2, rel=0.45) for rate in rates(between(seen, 30, 60)))
    assert all(rate == pytest.approx(8, rel=0.35) for rate in rates(between(seen, 84, 200)))  # of 60, in flight 4 s
    assert all(abs(share) < 0.35 for share in off(between(seen, 85, 300), seen[-1].now))


def test_a_stall_is_seen_and_gotten_over():
    seen = Simulated(3000, lambda chance, now: (30 if 60 <= now < 61 else 0) + chance.expovariate(1.0)).run()
    steady(seen)
    before, after = rates(between(seen, 55, 60))[-1], rates(between(seen, 90, 91))[0]
    assert after < before / 3
    assert all(rate == pytest.approx(8, rel=0.35) for rate in rates(between(seen, 115, 200)))
    assert all(abs(share) < 0.35 for share in off(between(seen, 120, 250), seen[-1].now))


def test_a_cool_down_is_part_of_the_time_left():
    seen = Simulated(3000, noisy(1.0), holds=(60, 120)).run()
    steady(seen)
    ends = seen[-1].now
    assert rates(between(seen, 119, 120))[0] < 2
    assert all(abs(share) < 0.3 for share in off(between(seen, 80, 300), ends))
    held = [moment.now + moment.left for moment in between(seen, 60, 120)]
    assert min(held) > between(seen, 59, 60)[0].left + 59 + 50  # known at once
    assert max(held) - min(held) < 15  # it runs down while nothing comes


def test_a_pause_leaves_no_trace():
    seen = Simulated(1000, noisy(1.0), pauses=(40, 100)).run()
    frozen = between(seen, 40.25, 100)
    assert len({(moment.rate, moment.tokens, moment.left) for moment in frozen}) == 1
    assert frozen[-1].done > frozen[0].done  # though the last ones ended
    through, interrupted = Pace(), Pace()
    for second in range(30):
        through.update(START + second, second * 3, second, 500 - second * 3)
        interrupted.update(START + second, second * 3, second, 500 - second * 3)
    interrupted.update(START + 29, 87, 29, 413, running=False)
    interrupted.update(START + 500, 93, 80, 413, running=False)
    interrupted.update(START + 1000, 95, 90, 413)  # resumed some time in between
    through.update(START + 30, 90, 30, 405)
    interrupted.update(START + 1001, 98, 91, 405)
    assert (through.rate, through.tokens) == pytest.approx((interrupted.rate, interrupted.tokens))
    assert through.left == pytest.approx(interrupted.left)


def test_nothing_is_said_before_there_is_something_to_say():
    pace = Pace()
    for second in range(60):
        pace.update(START + second, 0, 0, 10)
        assert (pace.rate, pace.tokens, pace.left) == (None, None, None)
    pace.update(START + 60, 1, 5, 9)
    assert pace.rate == pytest.approx(1 / 60)
    assert pace.left is None
    pace.update(START + 120, 3, 15, 7)
    assert pace.left == pytest.approx(7 * 40, rel=0.05)
    pace.update(START + 121, 3, 15, None)  # the rows come from a stream
    assert pace.left is None


def test_the_first_instants_say_nothing():
    pace = Pace()
    pace.update(START, 0, 0, 1000)
    pace.update(START + 0.01, 100, 0, 900)
    assert pace.rate is None
    pace.update(START + 1.5, 150, 0, 850)
    assert pace.rate == pytest.approx(100, rel=0.1)
    assert pace.left is None


@pytest.mark.parametrize("rows", [0, 1])
def test_the_smallest_batches(rows):
    pace = Pace()
    pace.update(START, 0, 0, rows)
    pace.update(START + 5, rows, 0, 0)
    assert pace.left == 0
    assert pace.rate == (0.2 if rows else None)


def test_one_that_is_made_late_begins_with_the_mean():
    """A panel that is opened an hour later says from when on."""
    pace = Pace()
    pace.update(START, 0, 0, None)
    pace.update(START + 3600, 7200, 72_000, 7200)
    assert (pace.rate, pace.tokens, pace.left) == pytest.approx((2, 20, 3600))


def test_a_change_is_learned_at_once():
    """The limit is raised from 8 to 64, and 2,000 rows are asked anew."""
    told, untold = Pace(), Pace()
    for pace in (told, untold):
        for tick in range(400):
            pace.update(START + tick / 4, tick * 2, 0, 6500 - tick * 2)
    told.reset()
    for pace in (told, untold):
        for tick in range(40):
            pace.update(START + 100 + tick / 4, 798 + tick * 16, 0, 7700 - tick * 16)
            if pace is told and tick == 0:
                assert told.left == pytest.approx(7700 / 8, rel=0.05)  # it jumps, as the rows did
    assert told.rate == pytest.approx(64, rel=0.1)
    assert untold.rate < 50


def test_it_may_be_told_of_changes_any_number_of_times():
    """Each click on the stepper is one; a slow batch's pace is not lost by it."""
    pace = Pace()
    for minute in range(20):
        pace.update(START + minute * 60, minute, 0, 100)
    for _ in range(1000):
        pace.reset()
        pace.update(START + 19 * 60, 19, 0, 100)
    pace.update(START + 20 * 60 + 30, 19, 0, 100)
    assert pace.rate == pytest.approx(1 / 60, rel=0.5)


def test_a_straggler_before_a_burst_is_no_pace():
    """Sixty silent seconds, one answer, and a thousand at the next look: not 5,000 a second."""
    pace = Pace()
    pace.update(START, 0, 0, 5000)
    pace.update(START + 60, 1, 0, 4999)
    pace.update(START + 60.1, 1001, 0, 3999)
    assert pace.rate == pytest.approx(1001 / 60, rel=0.1)


moments = st.tuples(
    st.floats(0, 1e5),  # seconds since the last
    st.integers(0, 10**9),
    st.integers(0, 10**12),
    st.none() | st.integers(0, 10**9),
    st.just(0.0) | st.floats(0, 600),
    st.booleans(),
    st.booleans(),  # told of a change
)


@settings(deadline=None)
@given(st.lists(moments, max_size=30))
def test_whatever_it_is_fed(fed):
    """Also counts that fall, as they do when failed rows are asked again."""
    pace, now, calm = Pace(), START, False
    for seconds, asked, tokens, left, held, running, changed in fed:
        now += seconds
        if changed:
            pace.reset()
        calm = calm and not (held or changed)
        before = pace.left
        pace.update(now, asked, tokens, left, held, running)
        for value in (pace.rate, pace.tokens, pace.left):
            assert value is None or (math.isfinite(value) and value >= 0)
        if calm and left and before is not None and pace.left not in (before, None):
            most = seconds * max(2.0, before / 10)
            assert pace.left == pytest.approx(max(before - seconds, 0.0), abs=most * (1 + 1e-9) + 1e-6)
        calm = (running or calm) and not held and not changed
