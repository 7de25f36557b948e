"""Who waits for whom in a mesh: what would wait for ever is refused.

A handler waits for all the envelopes that it has sent. An envelope in a mailbox waits for any of those that its agent
is at; one that is at work can end when its handler's waits can. A handler may not wait for what can never end then.
Source: R. C. Holt, "Some Deadlock Properties of Computer Systems", Computing Surveys 4(3), 1972 (graph reduction).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ..errors import CircularQuery
from .envelope import AT_WORK, ENDED, Envelope
from .mailbox import Mailbox

ANSWER = "Nothing was sent. Use send_to, which does not wait for an answer, or a larger max_at_once for {}."
ROOM = "Nothing was sent. The mailbox is full: give {} a larger mailbox, or a larger max_at_once."
END = "It goes on; wait for it outside of the handler, or give {} a larger max_at_once."
"""What to do, by what is waited for; with the name of the agent."""


def check_circle(asker: Envelope | None, what: Mailbox | Envelope, advice: str) -> None:
    """Refuse that the handler of `asker` waits for room in a mailbox, or for an envelope, if that would be for ever.

    Raises
    ------
    CircularQuery
        It would. It says `advice`.
    """
    if asker is None:
        return
    holders = _holders(what)
    if not holders:
        return
    free = _free(asker, _reachable(holders))
    if any(each in free for each in holders):
        return
    names = [asker.mailbox.name, *_way(asker, holders, free)]
    raise CircularQuery(f"{' waits for '.join(names)}: that would be for ever. {advice.format(names[-1])}")


def _holders(what: Mailbox | Envelope, stage: int = ENDED) -> Collection[Envelope]:
    """The envelopes of which one has to end before this comes so far; none if nothing has to."""
    if isinstance(what, Envelope):
        if what.stage >= stage:
            return ()
        if what.stage == AT_WORK:
            return (what,)
        what = what.mailbox
    return list(what.at_work) if len(what.at_work) >= what.max_at_once else ()


def _reachable(envelopes: Iterable[Envelope]) -> set[Envelope]:
    """All that are at work, and on whose end that of these may depend."""
    found: set[Envelope] = set()
    ahead = list(envelopes)
    while ahead:
        envelope = ahead.pop()
        if envelope not in found:
            found.add(envelope)
            ahead += [holder for waited in envelope.waits.items() for holder in _holders(*waited)]
    return found


def _free(asker: Envelope, at_work: set[Envelope]) -> set[Envelope]:
    """Those that can end without `asker`: all that they wait for can."""
    free: set[Envelope] = set()
    blocked = at_work - {asker}
    while True:
        more = {each for each in blocked if all(_comes(*waited, free) for waited in each.waits.items())}
        if not more:
            return free
        free |= more
        blocked -= more


def _comes(envelope: Envelope, stage: int, free: set[Envelope]) -> bool:
    holders = _holders(envelope, stage)
    return not holders or any(each in free for each in holders)


def _way(asker: Envelope, holders: Collection[Envelope], free: set[Envelope]) -> list[str]:
    """The names of the agents from the first that is waited for back to the asker's."""
    names: list[str] = []
    seen: set[Envelope] = set()
    while holders:
        envelope = asker if asker in holders else next((each for each in holders if each not in seen), None)
        if envelope is None:
            return names
        names.append(envelope.mailbox.name)
        if envelope is asker:
            return names
        seen.add(envelope)
        holders = next(_holders(*waited) for waited in envelope.waits.items() if not _comes(*waited, free))
    return names
