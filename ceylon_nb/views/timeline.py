"""Timeline: a batch over time in at most 120 bins, made from its trace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..trace import KINDS, Flight, Trace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

MOST = 120
"""Bins there are at most; an even number."""

FINEST = 0.5
"""Seconds a bin is wide at first. When the bins are used up, each two become one."""


class Timeline:
    """What a batch did in each stretch of time.

    A bin is ``[flying, done, failed, retries, limited]``: how many rows were in flight, as a mean over the bin, to one
    decimal; how many requests ended in it, answered, failed for good, to be tried again, and those that met a limit of
    the server's. Requests that the trace does not keep are counted, as they end, in the bin of that moment.

    Attributes
    ----------
    width : float
        Seconds that a bin is wide.
    now : float
        How far the bins reach, in seconds since the batch began.
    """

    def __init__(self) -> None:
        import numpy as np

        self.width = FINEST
        self.now = 0.0
        self._first = 0
        self._ended: Integers = np.zeros((len(KINDS), MOST), np.int64)
        self._flown: Floats = np.zeros(MOST)  # seconds in flight, of those that have ended
        self._flying: Floats = np.zeros(MOST)  # and of those that have not
        self._dropped: list[int] = [0] * len(KINDS)
        self._dropped_seconds = 0.0
        self._holds: list[list[float]] = []
        self._told: list[list[float]] = []
        self._told_width = self.width

    def update(
        self, trace: Trace, now: float, flights: Iterable[Flight], holds: Sequence[tuple[float, float]] = ()
    ) -> None:
        """Take in what has ended since the last time, and what is in flight now.

        Parameters
        ----------
        trace : Trace
            The batch's; the same one each time.
        now : float
            The time, by `loop.clock`.
        flights : iterable of Flight
            Of the rows in flight.
        holds : sequence of (float, float)
            Cool-downs: from when until when, in seconds since the batch began.
        """
        import numpy as np

        since = np.fromiter((flight.since for flight in flights), np.float64) - trace.origin
        spans = trace.spans(self._first)
        self._first += len(spans)
        began, ended = np.frombuffer(spans.began), np.frombuffer(spans.ended)
        self.now = max(self.now, now - trace.origin, float(ended.max(initial=0.0)))
        while self.now >= MOST * self.width:
            self._widen()
        if len(spans):
            at = self._bins(ended)
            kinds = np.frombuffer(spans.kind, np.uint8).astype(np.int64)
            self._ended += np.bincount(kinds * MOST + at, minlength=self._ended.size).reshape(self._ended.shape)
            self._flown += self._since(began) - self._since(ended)
        if trace.dropped > sum(self._dropped):
            self._drop(trace)
        self._flying = self._since(since.clip(max=self.now)) - self._since(np.full(len(since), self.now))
        self._holds = [[round(begins, 2), round(ends, 2)] for begins, ends in holds]

    def _drop(self, trace: Trace) -> None:
        at, kinds, seconds = int(self.now // self.width), list(trace.dropped_kinds), trace.dropped_seconds
        self._ended[:, at] += [new - old for new, old in zip(kinds, self._dropped, strict=True)]
        self._flown[at] += seconds - self._dropped_seconds
        self._dropped, self._dropped_seconds = kinds, seconds

    def whole(self) -> dict[str, Any]:
        """Everything, as the panel hears it: ``{width, n, from, bins, holds, now}``."""
        return self._message(self._all(), 0)

    def delta(self) -> dict[str, Any]:
        """The same, from the first bin on that is new or other than when this was last called."""
        bins = self._all()
        first = 0
        if self.width == self._told_width:
            pairs = zip(bins, self._told, strict=False)
            first = next((at for at, (new, old) in enumerate(pairs) if new != old), min(len(bins), len(self._told)))
        self._told, self._told_width = bins, self.width
        return self._message(bins, first)

    def _message(self, bins: list[list[float]], first: int) -> dict[str, Any]:
        return {
            "width": self.width,
            "n": len(bins),
            "from": first,
            "bins": bins[first:],
            "holds": self._holds,
            "now": round(self.now, 2),
        }

    def _all(self) -> list[list[float]]:
        """The bins up to now; the last one is as wide as it has become."""
        import numpy as np

        count = int(self.now // self.width) + 1
        seconds = np.clip(self.now - np.arange(count) * self.width, 1e-6, self.width)
        flying = ((self._flown + self._flying)[:count] / seconds).round(1) + 0.0  # no -0.0
        ended = self._ended[:, :count].tolist()
        return [list(row) for row in zip(flying.tolist(), *ended[:4], strict=True)]

    def _bins(self, moments: Floats) -> Integers:
        return (moments.clip(0.0) / self.width).astype(int)

    def _since(self, moments: Floats) -> Floats:
        """How many seconds of each bin come after the moments, all of these together.

        Those of a moment within a bin come after it up to the bin's end; each bin later has its whole width.
        """
        import numpy as np

        at = self._bins(moments)
        counts = np.bincount(at, minlength=MOST)
        to_the_end = np.bincount(at, weights=(at + 1) * self.width - moments.clip(0.0), minlength=MOST)
        return to_the_end + self.width * (counts.cumsum() - counts)

    def _widen(self) -> None:
        """Let each two bins be one."""
        import numpy as np

        half = MOST // 2
        self.width *= 2
        self._flown = np.append(self._flown.reshape(half, 2).sum(axis=1), np.zeros(half))
        merged = self._ended.reshape(len(KINDS), half, 2).sum(axis=2)
        self._ended = np.concatenate([merged, np.zeros_like(merged)], axis=1)
