"""Feed: what a panel is told of a batch, in pieces that are bounded whatever the batch.

* Rows are events, numbered from 0: a position and what became of it, in four bytes. Each is the whole truth of its row
  at that moment, so a view that missed some asks for them by number, and one that was reloaded begins at 0.
* The text of a row travels as a preview: the newest unasked, others when a view wants them; and whole when opened.

`panel.js` has the other half of this; the messages are listed in `courier`.
"""

from __future__ import annotations

import re
import sys
from array import array
from collections import Counter, deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

from ..answers import FAILED, OK, WAITING, usage_of
from ..errors import describe
from ..loop import clock
from ..messages import Reply, sendable
from .escaping import line, words
from .pace import Pace
from .timeline import Timeline

if TYPE_CHECKING:
    from ..trace import Flight
    from .watched import Watched

Message: TypeAlias = "tuple[dict[str, Any], list[bytes]]"

STORED = 4
"""The code of a row that had its answer from the store; the others are those of `answers.STATUSES`."""

EVENTS = 4000
"""Events in one message, at the most."""
READ = EVENTS
"""Answers that are taken in for one message, at the most: a view that comes late catches up in time."""
NEWEST = 30
"""Rows whose text is sent without being asked for, in one message."""
LIVE, OLDEST = 24, 4
"""Rows in flight whose text is sent: the newest, and among them the oldest."""
FLYING = 2000
"""Rows in flight whose position is."""
TAIL = 200
"""Characters of what a row in flight has said so far."""
PIECE = 20_000
"""Characters of an opened row's text in one message."""
WANTED = 200
"""Rows that a view may want at once."""
KINDS = 3
"""Kinds of failure that the head names."""


class Feed:
    """What one panel is told.

    Attributes
    ----------
    cursor : int
        The number of the next event to be sent.
    fresh : list of int
        The rows to which something happened before the last update.
    """

    def __init__(self, run: Watched) -> None:
        self.cursor = 0
        self.fresh: list[int] = []
        self._events = array("I")
        self._codes = bytearray()
        self._tally = [0] * 5
        self._read = self._logged = 0
        self._newest: deque[int] = deque(maxlen=NEWEST)
        self._told_flying: set[int] = set()
        self._kinds: dict[int, str] = {}
        self._failures: Counter[str] = Counter()
        self._tokens = 0
        self._pace = Pace()
        self._pace.update(run.trace.origin, 0, 0, None)
        self._limit, self._left = run.max_at_once, run.total
        self._timeline = Timeline()
        self._whole = True

    @property
    def behind(self) -> bool:
        """Whether there are events that were not sent."""
        return self.cursor < len(self._events) or self._read < self._logged

    def rewind(self, have: int) -> None:
        """Send again what comes after the first `have` events, and the whole timeline."""
        self.cursor = max(0, min(self.cursor, have, len(self._events)))
        self._whole, self._told_flying = True, set()
        self._newest.extend(position for position in self._last(NEWEST))

    def update(self, run: Watched, *, deaf: bool) -> Message:
        """Where the batch stands, and the next events.

        Returns
        -------
        dict, list of bytes
            ``head`` (numbers and words), ``from``, ``count`` and ``events`` (the number of the first event here, how
            many there are here, and in all), ``live`` (rows in flight: position, attempt, seconds, text, note),
            ``rows`` (previews) and ``time`` (see `Timeline`); with the events and the positions in flight as uint32.
        """
        now = clock()
        self.fresh = self._collect(run)
        head = self._head(run, now, deaf=deaf)
        flights = sorted(run.flights, key=_began, reverse=True)
        live = flights if len(flights) <= LIVE else flights[: LIVE - OLDEST] + flights[-OLDEST:]
        positions = {flight.position for flight in live}
        unasked = sorted(positions - self._told_flying)  # they may fly too shortly to be asked for
        self._told_flying = positions
        events = self._events[self.cursor : self.cursor + EVENTS]
        content = {
            "type": "update",
            "head": head,
            "from": self.cursor,
            "count": len(events),
            "events": len(self._events),
            "live": [self._live(run, flight, now, held=head["hold"] is not None) for flight in live],
            "rows": self.previews(run, [*self._newest, *unasked]),
            "time": self._time(run, now, flights),
        }
        self.cursor += len(events)
        self._newest.clear()
        flying = array("I", (flight.position for flight in flights[:FLYING]))
        return content, [little(events), little(flying)]

    def previews(self, run: Watched, positions: Iterable[int]) -> list[list[Any]]:
        """Position, label, question, answer (or error), seconds, attempts and tokens of some rows."""
        return [self._preview(run, position) for position in positions if position < len(run.rows)]

    def detail(self, run: Watched, position: int) -> dict[str, Any]:
        """A whole row, long texts as far as PIECE."""
        answer = run.row(position)
        flight = next((each for each in run.flights if each.position == position), None)
        asked, said = run.question(position), run.heard(flight, PIECE) if flight else _said(answer.reply)
        reply = answer.reply if isinstance(answer.reply, Reply) else None
        return {
            "position": position,
            "label": _label(answer.index, position),
            "code": self._codes[position] if position < len(self._codes) else WAITING,
            "flying": flight is not None,
            "asked": _sliced(asked, 0),
            "asked_length": len(asked),
            "said": _sliced(said, 0),
            "said_length": len(said),
            "error": _error(answer.error),
            "attempts": run.trace.attempts(position),
            "seconds": answer.latency,
            "tokens_in": answer.usage.input_tokens,
            "tokens_out": answer.usage.output_tokens,
            "finish_reason": reply.finish_reason if reply else None,
            "model": reply.model if reply else None,
            "from_store": answer.from_store,
        }

    def more(self, run: Watched, position: int, field: str, offset: int) -> dict[str, Any]:
        """The next piece of a long text."""
        text = run.question(position) if field == "asked" else _said(run.row(position).reply)
        return {"position": position, "field": field, "offset": offset, "text": _sliced(text, offset)}

    # -- events -------------------------------------------------------------------------------------------------

    def _collect(self, run: Watched) -> list[int]:
        """Make events of what happened since the last time; returns the positions."""
        rows, first = run.rows, len(self._events)
        more = len(rows) - len(self._codes)
        self._codes.extend(bytes(more))
        self._tally[WAITING] += more
        places = rows.log[self._read : self._read + READ]
        self._read += len(places)
        self._logged = len(rows.log)
        for position in places:
            status = rows.status[position]
            if status in (OK, FAILED):
                self._happened(run, position, STORED if rows.from_store[position] else status)
        _, ok, failed, cancelled, stored = self._tally
        if rows.keeps and self._read == self._logged and [ok + stored, failed, cancelled] != rows.counts[1:]:
            for position in _differing(self._codes, rows.status):
                self._happened(run, position, rows.status[position])
        return [event >> 3 for event in self._events[first:]]

    def _happened(self, run: Watched, position: int, code: int) -> None:
        before, self._codes[position] = self._codes[position], code
        self._tally[before] -= 1
        self._tally[code] += 1
        self._events.append(position << 3 | code)
        if before == FAILED:
            self._failures[self._kinds.pop(position)] -= 1
        reply, error = run.rows.outcome(position)
        if code == FAILED:
            self._kinds[position] = kind = type(error).__name__
            self._failures[kind] += 1
        if code == OK:
            self._tokens += usage_of(reply).output_tokens or 0
        if code != WAITING:
            self._newest.append(position)

    def _last(self, count: int) -> list[int]:
        return [event >> 3 for event in self._events[-count:]]

    # -- words and numbers --------------------------------------------------------------------------------------

    def _head(self, run: Watched, now: float, *, deaf: bool) -> dict[str, Any]:
        counts, stored, total = run.counts, run.from_store, run.total
        done = counts["ok"] + counts["failed"]
        hold = self._hold(run, now)
        left = None if total is None else counts["waiting"] + counts["in flight"]
        tokens = self._tokens if run.rows.keeps else run.rows.tokens()[1]
        came_back = left is not None and self._left is not None and left > self._left
        if came_back or run.max_at_once != self._limit:
            self._pace.reset()
        self._limit, self._left = run.max_at_once, left
        held = hold["seconds"] if hold else 0.0
        self._pace.update(now, done - stored, tokens, left, held, running=run.state == "running")
        return {
            "title": line(run.title, 200),
            "subtitle": line(run.subtitle, 200),
            "state": run.state,
            "total": total,
            "known": len(run.rows),
            "ok": counts["ok"],
            "failed": counts["failed"],
            "cancelled": counts["cancelled"],
            "flying": counts["in flight"],
            "waiting": counts["waiting"],
            "stored": stored,
            "rate": self._pace.rate,
            "tokens": self._pace.tokens,
            "elapsed": run.elapsed,
            "left": None if run.finished else self._pace.left,
            "at_once": run.max_at_once,
            "auto": run.adaptive,
            "found": line(run.found, 200),
            "hold": hold,
            "can": sorted(run.controls),
            "deaf": deaf,
            "failures": [[kind, count] for kind, count in self._failures.most_common(KINDS) if count],
            "note": line(describe(run.error), 400) if isinstance(run.error, Exception) else None,
            "table": run.rows.keeps,
            "kept": run.store is not None,
        }

    def _hold(self, run: Watched, now: float) -> dict[str, Any] | None:
        for _, until, reason in run.holds[-1:]:
            seconds = until - (now - run.trace.origin)
            if seconds > 0 and not run.finished:
                return {"seconds": seconds, "reason": reason}
        return None

    def _live(self, run: Watched, flight: Flight, now: float, *, held: bool) -> list[Any]:
        said = line(run.heard(flight, TAIL))
        return [flight.position, flight.attempt, round(now - flight.began, 2), said, _note(flight, held=held)]

    def _preview(self, run: Watched, position: int) -> list[Any]:
        answer = run.row(position)
        said = describe(answer.error) if answer.error is not None else answer.reply
        return [
            position,
            _label(answer.index, position),
            line(run.gist(position)),
            "" if said is None else line(said),
            answer.latency,
            answer.attempts,
            answer.usage.output_tokens,
        ]

    def _time(self, run: Watched, now: float, flights: list[Flight]) -> dict[str, Any]:
        holds = [(began, until) for began, until, _ in run.holds[-50:]]
        self._timeline.update(run.trace, now, flights, holds)
        whole, self._whole = self._whole, False
        delta = self._timeline.delta()
        return self._timeline.whole() if whole else delta


def _began(flight: Flight) -> float:
    return flight.began


def _note(flight: Flight, *, held: bool) -> str:
    """What keeps a row in flight, if it is not the server alone."""
    if flight.note:
        return f"{'waiting for ' * flight.waits}attempt {flight.attempt}: {flight.note}"
    return "waiting until the server may be asked again" if flight.waits and held else ""


def _label(label: Any, position: int) -> str | None:
    """None where the position says it."""
    return None if type(label) is int and label == position else line(label, 40)


def _said(reply: Any) -> str:
    return "" if reply is None else sendable(words(reply))


def _sliced(text: str, offset: int) -> str:
    return sendable(text[offset : offset + PIECE])


_ADVICE = re.compile(r"^(.*?\(\S*\)\.) (.+)$", re.DOTALL)
"""What happened, the address in brackets, and what to do; as `providers.base.Server` puts it."""


def _error(error: Exception | None) -> dict[str, str] | None:
    if error is None:
        return None
    text = sendable(words(error))[:PIECE]
    found = _ADVICE.match(text)
    said, advice = found.groups() if found else (text, "")
    return {"kind": type(error).__name__, "text": said, "advice": advice}


def _differing(codes: bytearray, status: bytearray) -> list[int]:
    """Positions where a row is not what it was, in order."""
    plain = codes.translate(_PLAIN)
    return [
        first + offset
        for first in range(0, len(plain), 4096)
        if plain[first : first + 4096] != status[first : first + 4096]
        for offset, (was, now) in enumerate(zip(plain[first : first + 4096], status[first:], strict=False))
        if was != now
    ]


_PLAIN = bytes([0, 1, 2, 3, OK, *range(5, 256)])
"""Codes as statuses: what came from the store is ok."""


def little(numbers: array[int]) -> bytes:
    """As little-endian bytes, whatever this machine's are."""
    return numbers.tobytes() if sys.byteorder == "little" else _swapped(numbers)


def _swapped(numbers: array[int]) -> bytes:
    copied = array(numbers.typecode, numbers)
    copied.byteswap()
    return copied.tobytes()
