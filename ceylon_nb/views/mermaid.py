"""A mesh's messages as a sequence diagram, in Mermaid's language and as text.

Mermaid has no way to quote a text; what it has is ``#59;``, a character by its number, which it takes out of the source
before it reads it, and puts back into the finished picture. So every sign that its grammar, its Markdown, its
mathematics or HTML knows goes by its number; letters, digits and what they are written with stay as they are.
Sources: mermaid 11, ``encodeEntities`` in ``utils.ts`` and ``sequenceDiagram.jison``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

from .escaping import line

if TYPE_CHECKING:
    from ..agents.traffic import Passage

NAME = 40
"""Characters of a name."""

SAID = 80
"""Characters of what is said."""

ACTORS = 10
"""Agents side by side; of more nobody could read a name."""

LARGEST = 90_000
"""Characters of a source; of one with 100,000 Mermaid draws nothing."""

YOU = "you"
"""Who is not in the mesh."""

_SIGNS = re.compile(r"[^\w\s.,!?'()/+*=-]")
"""What goes by its number: among it the signs by which Mermaid knows where it took numbers out (``ﬂ°°59¶ß``)."""


class Diagram:
    """Messages, drawn: ``str(diagram)`` is Mermaid's source; JupyterLab shows the picture, everything else the text."""

    def __init__(self, passages: Sequence[Passage], before: int = 0) -> None:
        self._source = sequence(passages, before)
        self._plain = plain(passages)

    def __str__(self) -> str:
        return self._source

    def __repr__(self) -> str:
        return self._plain

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/vnd.mermaid": self._source, "text/plain": self._plain}


def sequence(passages: Sequence[Passage], before: int = 0) -> str:
    """Mermaid's source of the messages' diagram.

    Parameters
    ----------
    passages
        Messages, as `LocalMesh.passages` has them. Of more than Mermaid draws, or of more than ACTORS agents, which
        nobody could read, the newest are drawn.
    before : int
        Messages before these, which the diagram only counts.

    Returns
    -------
    str
        One line an agent, one a message (open arrow: one way; filled: a question), one an answer (dashed) or an error
        (crossed), each at its time; an action is a note over the agent that did it.
    """
    drawn = _of_few(passages)
    while True:
        source = _source(drawn, before + len(passages) - len(drawn))
        if len(source) <= LARGEST:
            return source
        drawn = drawn[len(drawn) // 2 :]


def _of_few(passages: Sequence[Passage]) -> list[Passage]:
    """The newest, as long as they are of no more than ACTORS agents."""
    seen: set[str | None] = set()
    drawn: list[Passage] = []
    for passage in reversed(passages):
        seen.add(passage.sender)
        if passage.kind != "action":
            seen.add(passage.target)
        if len(seen) > ACTORS:
            break
        drawn.append(passage)
    return drawn[::-1]


def plain(passages: Sequence[Passage]) -> str:
    """The same as text: one line a message, an answer or an error, in the order of time."""
    return "\n".join(map(_told, _steps(passages))) or "no messages yet"


class _Step(NamedTuple):
    """What is one arrow, or one note."""

    at: float
    number: int
    way: str  # "asks", "tells", "answers", "fails", "does"
    sender: str | None
    target: str | None
    words: str


_ARROWS = {"asks": "->>", "tells": "-)", "answers": "-->>", "fails": "--x"}
_TEXT = {"asks": "→", "tells": "⇀", "answers": "⇢", "fails": "✗"}


def _steps(passages: Sequence[Passage]) -> list[_Step]:
    """In the order of time; what came at the same moment, in the order in which it was sent."""
    return sorted((step for passage in passages for step in _of(passage)), key=lambda step: step[:2])


def _of(passage: Passage) -> Iterator[_Step]:
    sender, target = passage.sender, passage.target
    ended = passage.at + (passage.latency or 0.0)
    if passage.kind == "action":
        came = f"error: {passage.error}" if passage.error is not None else passage.answer or "done"
        yield _Step(ended, passage.number, "does", sender, sender, f"{passage.said} → {came}")
        return
    one_way = passage.kind in ("message", "broadcast")
    yield _Step(passage.at, passage.number, "tells" if one_way else "asks", sender, target, passage.said)
    if passage.error is not None:  # of a one-way message nobody is told: the error stays where it was
        yield _Step(ended, passage.number, "fails", target, target if one_way else sender, passage.error)
    elif passage.latency is not None and not one_way:
        yield _Step(ended, passage.number, "answers", target, sender, passage.answer or "")


def _told(step: _Step) -> str:
    if step.way == "does":
        return f"{_name(step.sender)}: {_words(step)}"
    return f"{_name(step.sender)} {_TEXT[step.way]} {_name(step.target)}: {_words(step)}"


def _source(passages: Sequence[Passage], before: int) -> str:
    steps = _steps(passages)
    ids: dict[str | None, str] = {}
    for step in steps:
        for name in (step.sender, step.target):
            ids.setdefault(name, f"a{len(ids)}")
    lines = ["sequenceDiagram"]
    for name, identity in ids.items():
        kind = "actor" if name is None else "participant"
        lines.append(f"{kind} {identity} as {_escaped(_name(name), 20)}")
    if before and ids:
        lines.append(f"Note over a0: {before:,} earlier")
    for step in steps:
        sender, target, words = ids[step.sender], ids[step.target], _escaped(_words(step), 36)
        if step.way == "does":
            lines.append(f"Note over {sender}: {words}")
        else:
            lines.append(f"{sender}{_ARROWS[step.way]}{target}: {words}")
    if not steps:
        lines.append("participant a0 as no messages yet")
    return "\n    ".join(lines)


def _name(name: str | None) -> str:
    return YOU if name is None else line(name, NAME) or "''"


def _words(step: _Step) -> str:
    return line(step.words, 2 * SAID if step.way == "does" else SAID) or "''"


def _escaped(text: str, width: int) -> str:
    """Lines of so many characters: Mermaid's own wrapping would break a sign's number."""
    lines = wrap(text, width, break_on_hyphens=False) or [text]
    return "<br/>".join(_SIGNS.sub(lambda found: f"#{ord(found[0])};", each) for each in lines)
