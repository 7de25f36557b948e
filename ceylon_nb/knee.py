"""Knee: up to how many requests at once a server answers each as quickly as one alone.

The law: a server that works on P requests at a time takes ``S`` seconds for each while no more than P are in flight,
and ``S * n / P`` while n are (Little's law, J. D. C. Little, 1961: what is in the system is throughput times latency,
and throughput has its ceiling at ``P / S``). Beyond the knee more requests buy waiting, not answers.

P and S are fitted to what was seen: the mean latency at each number in flight, by least squares of its logarithm. This
is the delay-based estimate of TCP Vegas (L. Brakmo, L. Peterson, 1995) and of Netflix's gradient limits, but for one
thing: the latency of an idle server is fitted, too, and not the least ever seen; of a model, that is a short reply.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FINE = 16
"""Up to so many in flight each number has a level of its own; above, eight share an octave."""

DOUBT = 3.0
"""How much worse (in chi-square) a fit may be to count as possible: some 90 % confidence in one parameter."""
TIE = 0.2
"""How much worse a fit may be to count as equally good."""


PRIOR_SPREAD, PRIOR_WEIGHT = 0.3, 16.0
"""Relative spread of latencies that is assumed before there are samples to say it, and how many samples it weighs."""
COARSE = 0.03
"""What the law leaves unexplained, relative: no level is known better than this, however many samples it has."""


@dataclass(frozen=True, slots=True)
class Knee:
    """Where latency begins to rise with the number in flight.

    Attributes
    ----------
    low, best, high : float
        The number of requests: the least and the most that fit what was seen, and what fits best.
    widest : float
        The most in flight that there are samples of. A `high` from there on means: no knee was seen yet.
    latency : float
        Seconds that an answer takes as long as no more are in flight.
    spread : float
        Standard deviation of latencies over their mean, all else equal.
    """

    low: float
    best: float
    high: float
    widest: float
    latency: float
    spread: float

    @property
    def seen(self) -> bool:
        """Whether latency has been seen to rise."""
        return self.high < self.widest


class Levels:
    """Latencies by how many requests were in flight; older ones fade."""

    def __init__(self) -> None:
        self._levels: dict[int, list[float]] = {}  # weight, and weighted sums of number, latency and its square

    def add(self, in_flight: int, latency: float) -> None:
        """Note a request that began as the `in_flight`-th at the same time, and took so many seconds."""
        key = in_flight if in_flight <= FINE else FINE + int(8 * math.log2(in_flight / FINE))
        level = self._levels.get(key)
        if level is None:
            level = self._levels[key] = [0.0, 0.0, 0.0, 0.0]
        level[0] += 1
        level[1] += in_flight
        level[2] += latency
        level[3] += latency * latency

    def fade(self, factor: float) -> None:
        """Have what was seen so far weigh so much less."""
        for key, level in list(self._levels.items()):
            level[:] = [each * factor for each in level]
            if level[0] < 0.3:
                del self._levels[key]

    def knee(self) -> Knee | None:
        """Fit the law; None where there is nothing to fit it to."""
        levels = [level for level in self._levels.values() if level[2] > 0]
        if not levels:
            return None
        variance = _variance(levels)
        points = [
            (math.log(number / weight), math.log(total / weight), 1 / (variance / weight + COARSE**2))
            for weight, number, total, _ in levels
        ]
        widest = max(number / weight for weight, number, *_ in levels)
        fits = [(*_fit(points, math.log(knee)), knee) for knee in _candidates(widest)]
        least, latency, _ = min(fits)
        possible = [knee for misfit, _, knee in fits if misfit <= least + DOUBT]
        equal = [knee for misfit, _, knee in fits if misfit <= least + TIE]
        # Where only more than the knee was seen, all that is below fits alike: go down towards it, not all at once.
        best = max(equal[0], equal[-1] * _down(equal[0] / equal[-1]))
        return Knee(possible[0], best, possible[-1], widest, math.exp(latency), math.sqrt(variance))


def _variance(levels: list[list[float]]) -> float:
    """The relative variance of latencies within levels, all of them together."""
    weights = sum(level[0] for level in levels)
    within = sum(max(0.0, squares * weight / total**2 - 1) * weight for weight, _, total, squares in levels)
    return (within + PRIOR_WEIGHT * PRIOR_SPREAD**2) / (weights + PRIOR_WEIGHT)


def _fit(points: list[tuple[float, float, float]], log_knee: float) -> tuple[float, float]:
    """Chi-square of the law with this knee, and the latency that fits it best, as a logarithm."""
    flat = [(latency - max(0.0, number - log_knee), weight) for number, latency, weight in points]
    mean = sum(latency * weight for latency, weight in flat) / sum(weight for _, weight in flat)
    return sum(weight * (latency - mean) ** 2 for latency, weight in flat), mean


def _down(width: float) -> float:
    """By how much to go below the largest of equally good knees, given the smallest over the largest."""
    return 1.0 if width > 0.8 else 0.9 if width > 0.5 else 0.7


def _candidates(widest: float) -> list[float]:
    """Knees worth a look: by halves up to eight, then eight an octave, to somewhat more than was seen."""
    found, knee = [], 1.0
    while knee <= widest * 1.3 + 1:
        found.append(knee)
        knee = knee + 0.5 if knee < 8 else knee * 2 ** (1 / 8)
    return found
