"""What runs say: medians over the rounds, ratios and differences within a round; and how that is written."""

from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

Run = dict[str, Any]
"""One run: what was asked of it (its job), its round, and its figures."""
Figure = Callable[[Run], float]


class Runs:
    """Runs of one job, looked at across the rounds."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = list(runs)

    def where(self, **wanted: Any) -> "Runs":
        """Those whose job says so."""
        return Runs(run for run in self.runs if all(run.get(name) == value for name, value in wanted.items()))

    def middle(self, figure: Figure) -> float | None:
        """The median of a figure; None where nothing was run."""
        return median(map(figure, self.runs)) if self.runs else None

    def ratio(self, others: "Runs", figure: Figure) -> float | None:
        """The median of the ratios to others of the same round; None where one of the two is missing."""
        pairs = self._beside(others, figure)
        return median(mine / other for mine, other in pairs) if pairs else None

    def more(self, others: "Runs", figure: Figure) -> float | None:
        """The median of the differences to others of the same round; None where one of the two is missing."""
        pairs = self._beside(others, figure)
        return median(mine - other for mine, other in pairs) if pairs else None

    def _beside(self, others: "Runs", figure: Figure) -> list[tuple[float, float]]:
        """A figure of each, and the others' in the same round; without the rounds in which one of the two failed."""
        of_round = {run["round"]: figure(run) for run in others.runs}
        return [(figure(run), of_round[run["round"]]) for run in self.runs if run["round"] in of_round]

    def first(self, name: str) -> Any:
        """What the job says, where all of them say the same."""
        return self.runs[0][name]

    def distinct(self, *names: str) -> list[tuple[Any, ...]]:
        """The combinations of these that occur, in order."""
        return list(dict.fromkeys(tuple(run.get(name) for name in names) for run in self.runs))


# -- figures of a run ------------------------------------------------------------------------------------------------


def cpu_each(run: Run) -> float:
    """CPU seconds a prompt."""
    return float(run["cpu"] / run["n"])


def server_each(run: Run) -> float:
    """CPU seconds a request, of the load server."""
    return float(run["server"]["cpu"] / run["server"]["requests"] / 1e6)


def loop_each(run: Run) -> float:
    """CPU seconds a prompt, of the loop's thread."""
    return float(run["loop"] / run["n"])


def wall(run: Run) -> float:
    """Seconds."""
    return float(run["wall"])


def wall_each(run: Run) -> float:
    """Seconds a prompt."""
    return float(run["wall"] / run["n"])


def decided(run: Run) -> float:
    """Seconds until a store had said that it has no answer."""
    return float(run["decided"])


def listing(run: Run) -> float:
    """Seconds until a store had listed its batches."""
    return float(run["listing"])


def asking(run: Run) -> float:
    """Seconds from the first request to the last answer."""
    return float(run["asking"])


def over_ideal(run: Run) -> float:
    """Wall over what it would be if nothing but the server took time: whole waves of requests."""
    return float(run["wall"] / (-(-run["n"] // run["at_once"]) * run["delay"]))


def freeze(run: Run) -> float:
    """Seconds that the loop stood still, at the most."""
    return float(run["freeze"])


def freeze_cpu(run: Run) -> float:
    """Seconds that the loop's thread computed without coming round, at the most."""
    return float(run["freeze_cpu"])


def core(run: Run) -> float:
    """Share of a core, while it ran."""
    return float(run["cpu"] / run["wall"])


def busiest(run: Run) -> float:
    """Bytes that went to the browser in the busiest second."""
    return float(run["most"])


def update_rate(run: Run) -> float:
    """Updates a second that went to the browser."""
    return float(run["updates"] / run["wall"])


def adapted(run: Run) -> float:
    """Answers with "auto", over those with the best fixed number."""
    return float(run["auto"] / run["fixed"])


def refused(run: Run) -> float:
    """Share of the requests that were refused, once it should have been found out how many are not."""
    return float(run["refused"])


def token(run: Run) -> float:
    """CPU seconds a token."""
    return float(run["token"])


def over_server(run: Run) -> float:
    """The first answer's time over the server's."""
    return float(run["first"] / run["delay"])


def memory(run: Run) -> float:
    """Bytes at the peak, above the start."""
    return float(run["memory"])


# -- how figures are written -----------------------------------------------------------------------------------------


def micro(seconds: float | None) -> str:
    """Microseconds."""
    return written(seconds, 1e6, 0)


def milli(seconds: float | None) -> str:
    """Milliseconds."""
    return written(seconds, 1e3, 0)


def mega(size: float | None) -> str:
    """Megabytes."""
    return written(size, 1e-6, 1)


def kilo(size: float | None) -> str:
    """Kilobytes."""
    return written(size, 1e-3, 0)


def percent(ratio: float | None) -> str:
    """Per cent."""
    return written(ratio, 100, 1)


def times(ratio: float | None) -> str:
    """A factor."""
    return written(ratio, 1, 2)


def share(ratio: float | None) -> str:
    """A factor far below 1."""
    return written(ratio, 1, 3)


def written(value: float | None, scale: float, digits: int) -> str:
    """A figure; a dash where there is none."""
    return "–" if value is None else f"{value * scale:,.{digits}f}"
